//! Whether one message may be redirected. Everything is read anew: what held at the last message may
//! not hold now.

use underpass_abi::{
    reason::code,
    shortcut::{End, end, switch},
    tables::setting,
};

use super::at;
use crate::{
    kernel::{TCP_ESTABLISHED, offset, read},
    maps::{PAIRS, SETTINGS, word},
};

const O_NONBLOCK: u32 = 0o4000;
/// `SOCK_ZEROCOPY` in `sk_flags`.
const SOCK_ZEROCOPY: u64 = 1 << 18;
/// `SK_USER_DATA_PSOCK` and all flag bits of `sk_user_data`.
const USER_DATA_PSOCK: u64 = 4;
const USER_DATA_FLAGS: u64 = 7;

/// 0, or the code why a message of `size` bytes stays on TCP. A global function (see `workload.rs`).
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn up_guard(e: *mut End, size: u32) -> u32 {
    // SAFETY: the sending socket's own element.
    let Some(e) = (unsafe { e.as_mut() }) else {
        return code::SHORTCUT_UNPAIRED.into();
    };
    if e.flags & end::OUT != 0 {
        return e.why;
    }
    if e.peer == 0 && !meet(e) {
        return code::SHORTCUT_UNPAIRED.into();
    }
    let (me, peer) = (e.sk, e.peer);
    let unread = read::<u32>(me + offset!(tcp_write_seq)) != read(peer + offset!(tcp_copied_seq));
    // After the reading: the memory of a freed socket stays a socket's, but may be another's.
    let why = if read::<u64>(peer + at!(sk_cookie)) != e.peer_cookie
        || is_closing(me)
        || is_closing(peer)
    {
        code::SHORTCUT_CLOSING
    } else if unread {
        code::SHORTCUT_UNREAD
    } else if blocks(e) {
        code::SHORTCUT_BLOCKING
    } else if is_unusual(me) || is_unusual(peer) {
        code::SHORTCUT_SOCKET
    } else {
        room(e, size)
    };
    why.into()
}

/// Takes the other end's address from what both share.
#[inline(always)]
fn meet(e: &mut End) -> bool {
    let Some(p) = PAIRS.get_ptr(&e.pair) else {
        return false;
    };
    // SAFETY: elements stay readable for the run; an entry of other sockets is told by the cookie.
    let (active, passive, active_cookie, passive_cookie) = unsafe {
        let passive_cookie = core::ptr::read_volatile(&raw const (*p).passive_cookie);
        (
            (*p).active,
            (*p).passive,
            (*p).active_cookie,
            passive_cookie,
        )
    };
    if passive_cookie == 0 || active_cookie != e.pair {
        return false;
    }
    if e.flags & end::ACTIVE != 0 {
        e.peer_cookie = passive_cookie;
        e.peer = passive;
    } else {
        e.peer_cookie = active_cookie;
        e.peer = active;
    }
    true
}

#[inline(always)]
fn is_closing(sk: u64) -> bool {
    let state: u8 = read(sk + offset!(sk_state));
    let shutdown: u8 = read(sk + offset!(sk_shutdown));
    u32::from(state) != TCP_ESTABLISHED || shutdown != 0
}

/// True if an end is blocking. Then the connection stays on TCP for good, unless the reader's
/// application has only just accepted it and may still set the flag.
#[inline(always)]
fn blocks(e: &mut End) -> bool {
    if is_blocking(e.sk) {
        e.flags |= end::OUT;
        return true;
    }
    // Not accepted yet: no file. Its listener was non-blocking when the connection entered the map.
    if !has_file(e.peer) || !is_blocking(e.peer) {
        return false;
    }
    let write_seq: u32 = read(e.peer + offset!(tcp_write_seq));
    let copied_seq: u32 = read(e.peer + offset!(tcp_copied_seq));
    if write_seq != e.peer_write_seq || copied_seq != e.peer_copied_seq {
        e.flags |= end::OUT;
    }
    true
}

#[inline(always)]
fn has_file(sk: u64) -> bool {
    file(sk) != 0
}

#[inline(always)]
fn file(sk: u64) -> u64 {
    let socket: u64 = read(sk + offset!(sk_socket));
    if socket == 0 {
        return 0;
    }
    read(socket + offset!(socket_file))
}

/// True if the socket's file is blocking, or if it has none.
#[inline(always)]
pub fn is_blocking(sk: u64) -> bool {
    let file = file(sk);
    file == 0 || read::<u32>(file + at!(file_flags)) & O_NONBLOCK == 0
}

/// Somebody works below or beside plain TCP, or waits for what the map does not give.
#[inline(always)]
pub fn is_unusual(sk: u64) -> bool {
    let mptcp = at!(tcp_is_mptcp);
    read::<u64>(sk + at!(icsk_ulp_ops)) != 0
        || read::<u64>(sk + offset!(sk_flags)) & SOCK_ZEROCOPY != 0
        || read::<u32>(sk + at!(sk_rcvlowat)) > 1
        || (mptcp != 0 && read::<u8>(sk + mptcp) & 1 != 0)
}

/// The socket's psock, 0 if it has none.
#[inline(always)]
fn psock(sk: u64) -> u64 {
    let data: u64 = read(sk + at!(sk_user_data));
    if data & USER_DATA_PSOCK == 0 {
        0
    } else {
        data & !USER_DATA_FLAGS
    }
}

/// 0, or the code of the bound that the message would pass.
#[inline(always)]
fn room(e: &End, size: u32) -> u16 {
    let psock = psock(e.peer);
    if psock == 0 {
        return code::SHORTCUT_UNPAIRED;
    }
    let control = word!(SETTINGS, setting::SHORTCUT) & switch::WITHOUT_VERDICT != 0;
    if read::<u64>(psock + at!(psock_skb_verdict)) == 0 && !control {
        return code::SHORTCUT_NO_VERDICT;
    }
    let queued: u32 = read(psock + at!(psock_msg_tot_len));
    let full = u64::from(queued) + u64::from(size) > word!(SETTINGS, setting::SHORTCUT_SOCKET);
    if full || !leaves_backlog(e.peer, size) {
        return code::SHORTCUT_QUEUE_FULL;
    }
    // Signed: CPUs keep reserves of their own, so a quiet node's count may be below zero.
    if read::<i64>(e.memory) > word!(SETTINGS, setting::SHORTCUT_NODE) as i64 {
        return code::SHORTCUT_NODE_MEMORY;
    }
    0
}

/// A segment that comes while the reader holds its socket is dropped if more than this is charged to
/// it (`tcp_add_backlog`), and then TCP waits for a retransmission timer.
#[inline(always)]
fn leaves_backlog(sk: u64, size: u32) -> bool {
    let charged: u32 = read(sk + at!(sk_rmem_alloc));
    let rcvbuf: u32 = read(sk + at!(sk_rcvbuf));
    let sndbuf: u32 = read(sk + at!(sk_sndbuf));
    u64::from(charged) + u64::from(size) <= 2 * u64::from(rcvbuf) + u64::from(sndbuf / 2)
}

/// Redirected bytes that the socket's application has not read: what its queue holds beyond TCP's.
#[inline(always)]
pub fn unread(sk: u64) -> u64 {
    let psock = psock(sk);
    if psock == 0 {
        return 0;
    }
    let queued: u32 = read(psock + at!(psock_msg_tot_len));
    let rcv_nxt: u32 = read(sk + offset!(tcp_rcv_nxt));
    let copied_seq: u32 = read(sk + offset!(tcp_copied_seq));
    let by_tcp = rcv_nxt.wrapping_sub(copied_seq);
    if queued > by_tcp {
        u64::from(queued - by_tcp)
    } else {
        0
    }
}
