//! Whether one message may be redirected. Everything is read anew: what held at the last message may
//! not hold now.

use underpass_abi::{
    reason::code,
    shortcut::{End, bound, end, programs, switch},
    tables::setting,
};

use super::{at, candidate::both_on, program};
use crate::{
    kernel::{TCP_ESTABLISHED, cast, field, offset, read, tcp},
    maps::{PAIRS, SETTINGS, word},
};

const O_NONBLOCK: u32 = 0o4000;
/// `SOCK_ZEROCOPY` in `sk_flags`.
const SOCK_ZEROCOPY: u64 = 1 << 18;
/// `SK_USER_DATA_PSOCK` and all flag bits of `sk_user_data`.
const USER_DATA_PSOCK: u64 = 4;
const USER_DATA_FLAGS: u64 = 7;

/// What the sender's own end says: 0, or the code why its message stays on TCP. The context's socket is
/// typed, so its fields are plain loads.
#[inline(always)]
pub fn sender(e: &mut End, tp: *const u8) -> u32 {
    if e.flags & end::OUT != 0 {
        return e.why;
    }
    let state: u8 = field(tp, offset!(sk_state));
    let shutdown: u8 = field(tp, offset!(sk_shutdown));
    let why = if u32::from(state) != TCP_ESTABLISHED || shutdown != 0 {
        code::SHORTCUT_CLOSING
    } else if field::<u64>(tp, at!(icsk_ulp_ops)) != 0
        || field::<u64>(tp, offset!(sk_flags)) & SOCK_ZEROCOPY != 0
    {
        code::SHORTCUT_SOCKET
    } else if own_is_blocking(tp) {
        e.flags |= end::OUT;
        // Its next connections do not enter the map.
        program::learn(programs::BLOCKS);
        code::SHORTCUT_BLOCKING
    } else {
        0
    };
    why.into()
}

/// The open file behind a socket; none before the connection is accepted.
#[inline(always)]
fn file_of(tp: *const u8) -> *const u8 {
    let socket: *const u8 = field(tp, offset!(sk_socket));
    if socket.is_null() {
        return socket;
    }
    field(socket, offset!(socket_file))
}

#[inline(always)]
fn is_nonblocking(file: *const u8) -> bool {
    field::<u32>(file, at!(file_flags)) & O_NONBLOCK != 0
}

/// What the reader's end says: 0, or the code why a message of `size` bytes stays on TCP.
/// `write_seq`: the sender's. A global function (see `workload.rs`).
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn up_reader(e: *mut End, size: u32, write_seq: u32) -> u32 {
    // SAFETY: the sending socket's own element.
    let Some(e) = (unsafe { e.as_mut() }) else {
        return code::SHORTCUT_UNPAIRED.into();
    };
    if e.peer == 0 && !meet(e) {
        return code::SHORTCUT_UNPAIRED.into();
    }
    if !both_on(e.source, e.destination) {
        return code::SHORTCUT_OFF.into();
    }
    let peer = cast(e.peer, offset!(type_tcp_sock));
    e.waiting = write_seq.wrapping_sub(field(peer, offset!(tcp_copied_seq)));
    let state: u8 = field(peer, offset!(sk_state));
    let shutdown: u8 = field(peer, offset!(sk_shutdown));
    // After the reading: the memory of a freed socket stays a socket's, but may be another's.
    let why = if field::<u64>(peer, at!(sk_cookie)) != e.peer_cookie
        || u32::from(state) != TCP_ESTABLISHED
        || shutdown != 0
    {
        code::SHORTCUT_CLOSING
    } else if e.waiting != 0 {
        code::SHORTCUT_UNREAD
    } else if blocks(e, peer) {
        code::SHORTCUT_BLOCKING
    } else if field::<u64>(peer, at!(icsk_ulp_ops)) != 0 || field::<u32>(peer, at!(sk_rcvlowat)) > 1
    {
        code::SHORTCUT_SOCKET
    } else {
        room(e, peer, size)
    };
    why.into()
}

/// Takes the other end's address from what both share.
#[inline(always)]
pub fn meet(e: &mut End) -> bool {
    let pair = e.pair;
    let Some(p) = PAIRS.get_ptr(&pair) else {
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
    // SAFETY: as above.
    unsafe {
        e.source = (*p).key.source;
        e.destination = (*p).key.destination;
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
fn own_is_blocking(tp: *const u8) -> bool {
    let file = file_of(tp);
    file.is_null() || !is_nonblocking(file)
}

/// True if the reader is blocking. Then the connection stays on TCP for good, unless its application
/// has only just accepted it and may still set the flag.
#[inline(always)]
fn blocks(e: &mut End, peer: *const u8) -> bool {
    let file = file_of(peer);
    // Not accepted yet: its listener was non-blocking when the connection entered the map.
    if file.is_null() || is_nonblocking(file) {
        return false;
    }
    let write_seq: u32 = field(peer, offset!(tcp_write_seq));
    let copied_seq: u32 = field(peer, offset!(tcp_copied_seq));
    if write_seq != e.peer_write_seq || copied_seq != e.peer_copied_seq {
        e.flags |= end::OUT;
    }
    true
}

/// True if the socket's file is blocking, or if it has none. Also of memory that is no socket any more.
#[inline(always)]
pub fn is_blocking(sk: u64) -> bool {
    if offset!(rdonly_cast) != 0 {
        return own_is_blocking(cast(sk, offset!(type_tcp_sock)));
    }
    let socket: u64 = read(sk + offset!(sk_socket));
    let file: u64 = read(socket + offset!(socket_file));
    read::<u32>(file + at!(file_flags)) & O_NONBLOCK == 0
}

/// Somebody works below or beside plain TCP, or waits for what the map does not give.
#[inline(always)]
pub fn is_unusual(sk: u64) -> bool {
    let mptcp = at!(tcp_is_mptcp);
    tcp::<u64>(sk, at!(icsk_ulp_ops)) != 0
        || tcp::<u64>(sk, offset!(sk_flags)) & SOCK_ZEROCOPY != 0
        || tcp::<u32>(sk, at!(sk_rcvlowat)) > 1
        || (mptcp != 0 && tcp::<u8>(sk, mptcp) & 1 != 0)
}

/// The socket's psock, 0 if it has none.
#[inline(always)]
pub fn psock_of(user_data: u64) -> u64 {
    if user_data & USER_DATA_PSOCK == 0 {
        0
    } else {
        user_data & !USER_DATA_FLAGS
    }
}

/// 0, or the code of the bound that the message would pass.
#[inline(always)]
fn room(e: &mut End, peer: *const u8, size: u32) -> u16 {
    let psock = psock_of(field(peer, at!(sk_user_data)));
    if psock == 0 {
        return code::SHORTCUT_UNPAIRED;
    }
    let psock = cast(psock, at!(type_psock));
    if field::<u64>(psock, at!(psock_skb_verdict)) == 0
        && word!(SETTINGS, setting::SHORTCUT) & switch::WITHOUT_VERDICT == 0
    {
        return code::SHORTCUT_NO_VERDICT;
    }
    // A segment that comes while the reader holds its socket is dropped if more than this is charged to
    // it (`tcp_add_backlog`), and then TCP waits for a retransmission timer.
    let rcvbuf: u32 = field(peer, at!(sk_rcvbuf));
    let sndbuf: u32 = field(peer, at!(sk_sndbuf));
    let backlog = 2 * u64::from(rcvbuf) + u64::from(sndbuf / 2);
    let charged: u32 = field(peer, at!(sk_rmem_alloc));
    let queued: u32 = field(psock, at!(psock_msg_tot_len));
    e.waiting = queued;
    // The kernel tells bytes, not messages.
    e.piled = if queued < e.piled { queued } else { e.piled };
    let held = u64::from(queued) + u64::from(e.piled) * bound::MESSAGE;
    let size = u64::from(size);
    if held + size > word!(SETTINGS, setting::SHORTCUT_SOCKET)
        || u64::from(charged) + size > backlog
    {
        return code::SHORTCUT_QUEUE_FULL;
    }
    let protocol: *const u8 = field(peer, at!(sk_prot));
    let memory: *const u8 = field(protocol, at!(proto_memory_allocated));
    // Signed: CPUs keep reserves of their own, so a quiet node's count may be below zero.
    if field::<i64>(memory, 0) > word!(SETTINGS, setting::SHORTCUT_NODE) as i64 {
        return code::SHORTCUT_NODE_MEMORY;
    }
    e.piled += 1;
    0
}

/// Notes what waits unread at the reader, by either path, where [`up_reader`] was not asked. A global
/// function (see `workload.rs`).
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn up_waiting(e: *mut End, write_seq: u32) -> u32 {
    // SAFETY: the sending socket's own element.
    let Some(e) = (unsafe { e.as_mut() }) else {
        return 0;
    };
    let peer = cast(e.peer, offset!(type_tcp_sock));
    e.waiting = write_seq.wrapping_sub(field(peer, offset!(tcp_copied_seq)));
    let psock = psock_of(field(peer, at!(sk_user_data)));
    if psock != 0 && field::<u64>(peer, at!(sk_cookie)) == e.peer_cookie {
        let psock = cast(psock, at!(type_psock));
        e.waiting |= field::<u32>(psock, at!(psock_msg_tot_len));
    }
    0
}

/// Redirected bytes that the socket's application has not read: what its queue holds beyond TCP's.
#[inline(always)]
pub fn unread(sk: u64) -> u64 {
    let psock = psock_of(tcp(sk, at!(sk_user_data)));
    if psock == 0 {
        return 0;
    }
    let queued: u32 = read(psock + at!(psock_msg_tot_len));
    let rcv_nxt: u32 = tcp(sk, offset!(tcp_rcv_nxt));
    let copied_seq: u32 = tcp(sk, offset!(tcp_copied_seq));
    let by_tcp = rcv_nxt.wrapping_sub(copied_seq);
    if queued > by_tcp {
        u64::from(queued - by_tcp)
    } else {
        0
    }
}
