//! Bytes that TCP brings twice. A sender joins small segments when it retransmits them; if the first had
//! come and its ACK was lost, the receiver gets a segment whose head it has read. TCP skips that by
//! sequence numbers when an application reads, but `tcp_read_skb` hands whole segments to a socket in the
//! map ("no need to handle the offset"), so the head is cut off here.

use aya_ebpf::{
    bindings::{__sk_buff, bpf_adj_room_mode::BPF_ADJ_ROOM_NET},
    helpers::generated as h,
};
use underpass_abi::shortcut::NoticeKind;

use super::{at, guard, notice};
use crate::kernel::{cast, field, offset};

/// The most that `sk_skb_adjust_room` takes in one call.
const STEP: u32 = 0xfff;
/// An IP packet's worth; segments that are joined together fit into one.
const STEPS: u32 = 17;

/// False if bytes that came before could not be cut off; then the connection ends.
#[inline(always)]
pub fn cut(skb: *mut __sk_buff) -> bool {
    // SAFETY: context fields, one read each in their own width; a helper that takes what was checked.
    let (seq, len, tp) = unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        if sk.is_null() {
            return true;
        }
        (
            // TCP's control block begins with the segment's sequence number; the agent has checked that.
            core::ptr::read_volatile(&raw const (*skb).cb[0]),
            core::ptr::read_volatile(&raw const (*skb).len),
            h::bpf_skc_to_tcp_sock(sk.cast()).cast::<u8>(),
        )
    };
    if tp.is_null() {
        return true;
    }
    let twice = came_until(tp).wrapping_sub(seq);
    if twice as i32 <= 0 {
        return true;
    }
    let mut left = if twice < len { twice } else { len };
    for _ in 0..STEPS {
        if left == 0 {
            return true;
        }
        let step = if left < STEP { left } else { STEP };
        // SAFETY: helper call on the context.
        if unsafe { h::bpf_skb_adjust_room(skb, -(step as i32), BPF_ADJ_ROOM_NET, 0) } != 0 {
            break;
        }
        left -= step;
    }
    left == 0 || give_up(skb)
}

/// The sequence number behind the last byte that TCP brought. Under the socket's lock.
#[inline(always)]
fn came_until(tp: *const u8) -> u32 {
    let copied_seq: u32 = field(tp, offset!(tcp_copied_seq));
    let at = guard::psock_of(field(tp, at!(sk_user_data)));
    if at == 0 {
        return copied_seq;
    }
    let psock = cast(at, at!(type_psock));
    // Segments for which there was no memory wait apart, behind all that is in the queue.
    if field::<u32>(psock, at!(psock_held)) != 0 {
        return end_of(field(psock, at!(psock_last_held)));
    }
    let last: u64 = field(psock, at!(psock_last_msg));
    // An empty list's `prev` points to its head, which is in the psock itself.
    if last == at + at!(psock_msgs) {
        return copied_seq;
    }
    let msg = cast(last - at!(msg_list), at!(type_sk_msg));
    match field::<u64>(msg, at!(msg_skb)) {
        // A redirected message: it came when all that TCP had brought was read.
        0 => copied_seq,
        skb => end_of(skb),
    }
}

#[inline(always)]
fn end_of(skb: u64) -> u32 {
    field(cast(skb, at!(type_sk_buff)), at!(skb_end_seq))
}

/// There is no way back to TCP's queue, and what is passed on now is wrong.
#[inline(always)]
fn give_up(skb: *mut __sk_buff) -> bool {
    notice::tell(NoticeKind::Garbled, |n| {
        // SAFETY: plain helper call.
        n.cookie = unsafe { h::bpf_get_socket_cookie(skb.cast()) };
    });
    false
}
