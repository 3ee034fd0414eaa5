//! Close with unread bytes. TCP owes the other end a reset, but it looks into its own queue, and the bytes
//! of a socket in the map are in another one, so it sends FIN.
//!
//! After the other end has taken that FIN no reset reaches it. So the first FIN gets a TCP option that
//! makes the other end's kernel drop it (an MD5 signature that nobody agreed on), and the agent destroys
//! the socket, which sends the reset. The FIN that TCP repeats after its timeout (200 ms or more) is an
//! ordinary one: without an agent the other end reads end of file, later. Nothing of this touches the
//! packets of any other socket.

use aya_ebpf::{bindings::bpf_sock_ops, helpers::generated as h};
use underpass_abi::shortcut::{End, NoticeKind, end};

use super::{at, guard, notice};
use crate::{
    kernel::{field, offset, read, tcp},
    maps::ENDS,
    sock_ops::context::{ends, tcp_sock},
};

/// `BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG`
const WRITE_HDR_OPT_CB: u32 = 1 << 6;
/// `RCV_SHUTDOWN | SEND_SHUTDOWN`
const SHUTDOWN_MASK: u8 = 3;
const TCPHDR_FIN: u32 = 1;
const TCPHDR_RST: u32 = 4;
/// `TCPOPT_MD5SIG` and its length.
const MD5: [u8; 2] = [19, 18];

#[inline(always)]
fn end_of(ops: *mut bpf_sock_ops) -> Option<&'static mut End> {
    // SAFETY: helper call on a live map and the context's socket, checked for null; its own element.
    unsafe {
        let sk = (*ops).__bindgen_anon_2.sk;
        if sk.is_null() {
            return None;
        }
        let map = (&raw const ENDS).cast_mut().cast();
        h::bpf_sk_storage_get(map, sk.cast(), core::ptr::null_mut(), 0)
            .cast::<End>()
            .as_mut()
    }
}

/// Where TCP is about to send FIN. `last`: the other end has sent its own, so no reset would follow.
#[inline(never)]
pub fn closing(ops: *mut bpf_sock_ops, last: bool) {
    let (Some(e), Some(tp)) = (end_of(ops), tcp_sock(ops)) else {
        return;
    };
    let tp: *const u8 = tp.cast();
    // Closed, not only shut down: the map has let go of it. What it held is there, and charged to the
    // socket, until a grace period later.
    let closed = field::<u64>(tp, at!(sk_user_data)) == 0
        && field::<u8>(tp, offset!(sk_shutdown)) == SHUTDOWN_MASK;
    if !closed
        || field::<u32>(tp, at!(sk_rmem_alloc)) == 0
        || read::<u64>(e.psock + at!(psock_sk)) != e.sk
        || read::<u32>(e.psock + at!(psock_msg_tot_len)) == 0
    {
        return;
    }
    let lost = last || is_deaf(e);
    let kind = if lost {
        NoticeKind::Lost
    } else {
        NoticeKind::Unread
    };
    let (local, local_port, remote, remote_port) = ends(ops);
    let told = notice::tell(kind, |n| {
        n.cookie = e.cookie;
        n.pair = e.pair;
        // SAFETY: plain helper call.
        n.netns = unsafe { h::bpf_get_netns_cookie(ops.cast()) };
        n.local = local;
        n.local_port = local_port;
        n.remote = remote;
        n.remote_port = remote_port;
    });
    if told && !lost {
        e.flags |= end::HOLD;
        // SAFETY: context field and plain helper call.
        unsafe {
            let flags = core::ptr::read_volatile(&raw const (*ops).bpf_sock_ops_cb_flags);
            h::bpf_sock_ops_cb_flags_set(ops, (flags | WRITE_HDR_OPT_CB) as i32);
        }
    }
}

/// The reset that the agent makes comes behind the held FIN, so the other end must ask for an exact one (a
/// challenge ACK, RFC 5961) and get it. It asks once in half a second (`net.ipv4.tcp_invalid_ratelimit`),
/// duplicates that it answered included: true if it may not ask now. Then the reset would be lost, and
/// nothing would follow it. Not known of a dialing end that never sent a message.
#[inline(always)]
fn is_deaf(e: &mut End) -> bool {
    /// More than half a second at any of the kernel's clock rates.
    const JIFFIES: u32 = 1_000;
    if e.peer == 0 && !guard::meet(e) {
        return false;
    }
    let answered: u32 = tcp(e.peer, at!(tcp_last_oow));
    // SAFETY: plain helper call.
    let now = unsafe { h::bpf_jiffies64() } as u32;
    tcp::<u64>(e.peer, at!(sk_cookie)) == e.peer_cookie
        && answered != 0
        && now.wrapping_sub(answered) < JIFFIES
}

/// The end whose FIN this is, if it is to be held.
#[inline(always)]
fn held(ops: *mut bpf_sock_ops) -> Option<&'static mut End> {
    // SAFETY: context field; 0 if there is no packet.
    let flags = unsafe { core::ptr::read_volatile(&raw const (*ops).skb_tcp_flags) };
    if flags & (TCPHDR_FIN | TCPHDR_RST) != TCPHDR_FIN {
        return None;
    }
    end_of(ops).filter(|e| e.flags & end::HOLD != 0)
}

/// At HDR_OPT_LEN_CB: room for the option.
#[inline(never)]
pub fn reserve(ops: *mut bpf_sock_ops) {
    if held(ops).is_some() {
        // SAFETY: plain helper call. Without room the FIN goes as it is.
        unsafe {
            h::bpf_reserve_hdr_opt(ops, MD5[1].into(), 0);
        }
    }
}

/// At WRITE_HDR_OPT_CB: the option, once.
#[inline(never)]
pub fn write(ops: *mut bpf_sock_ops) {
    if let Some(e) = held(ops) {
        e.flags &= !end::HOLD;
        let option = [u32::from_ne_bytes([MD5[0], MD5[1], 0, 0]), 0, 0, 0, 0];
        // SAFETY: helper call with 18 bytes of a live stack value.
        unsafe {
            h::bpf_store_hdr_opt(ops, option.as_ptr().cast(), MD5[1].into(), 0);
        }
    }
}
