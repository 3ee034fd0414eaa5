//! The shortcut past TCP between two sockets of this node: who enters the map, and what of it is in a
//! connection's counts. `sock_ops` calls these functions and knows nothing else of it; the decision
//! about each message is in `guard.rs`.

use aya_ebpf::{
    bindings::{BPF_NOEXIST, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock_ops},
    helpers::generated as h,
};
use underpass_abi::{
    reason::code,
    shortcut::{End, Pair, end, switch},
    sock::{SockState, counter, flag},
    tables::{FlowKey, setting},
};

use crate::{
    flow,
    kernel::{offset, tcp, zeroed},
    maps::{ENDS, MATES, PAIRS, SETTINGS, SHORTCUT, count, entry, word},
    sock_ops::context::{tcp_sock_address, watch_states},
};

pub mod candidate;
pub mod close;
pub mod guard;
pub mod learn;
pub mod notice;
pub mod overlap;
pub mod program;

/// One offset of `SHORTCUT_OFFSETS`, read from the frozen `.rodata`.
macro_rules! at {
    ($field:ident) => {{
        let offsets = (&raw const crate::maps::SHORTCUT_OFFSETS)
            .cast::<underpass_abi::shortcut::ShortcutOffsets>();
        // SAFETY: `Global` is transparent; the static lives in the object's read-only data.
        u64::from(unsafe { core::ptr::read_volatile(&raw const (*offsets).$field) })
    }};
}
pub(crate) use at;

/// Counts a connection or message that stayed on TCP.
#[inline(always)]
pub fn count_why(why: u32) {
    count(counter::SHORTCUT_OFF + why - u32::from(code::SHORTCUT_OFF));
}

/// Notes why bytes go by TCP.
#[inline(always)]
pub fn stayed(e: &mut End, why: u32) {
    if e.why == why {
        return;
    }
    e.why = why;
    if let Some(p) = PAIRS.get_ptr_mut(&e.pair) {
        // SAFETY: elements stay writable for the run; one of another connection is told by the cookie.
        unsafe {
            if (*p).active_cookie == e.pair {
                (*p).why = why as u16;
            }
        }
    }
}

/// At ACTIVE_ESTABLISHED: the dialing end enters the map, before any byte, if both ends may
/// ([`candidate::up_may_enter`] has told by `s.tcp.off_shortcut`).
#[inline(always)]
pub fn dialed(ops: *mut bpf_sock_ops, s: &mut SockState) {
    if s.tcp.off_shortcut == 0 {
        s.tcp.off_shortcut = enter_fresh(ops, s) as u16;
    }
    let why = s.tcp.off_shortcut;
    if why != 0 && why != code::SHORTCUT_OFF {
        count_why(why.into());
    }
}

#[inline(always)]
fn enter_fresh(ops: *mut bpf_sock_ops, s: &mut SockState) -> u32 {
    let why = match closed_to_new() {
        0 => up_fresh(s),
        why => why,
    };
    if why != 0 {
        return why;
    }
    let kept_out = learn::kept_out(s);
    if kept_out != 0 {
        return kept_out.into();
    }
    enter_active(ops, s, &flow::key(s))
}

/// 0 if new sockets may enter the map: they must not while nobody would see them splice.
#[inline(always)]
fn closed_to_new() -> u32 {
    let why = if word!(SETTINGS, setting::SHORTCUT) & switch::INSERT == 0 {
        code::SHORTCUT_OFF
    } else if word!(SETTINGS, setting::SHORTCUT_WATCHED) == 0 {
        code::SHORTCUT_UNWATCHED
    } else {
        0
    };
    why.into()
}

/// Why the socket itself cannot enter, 0 if it can. A global function (see `workload.rs`).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn up_fresh(s: *const SockState) -> u32 {
    // SAFETY: the caller's own element.
    let Some(s) = (unsafe { s.as_ref() }) else {
        return code::SHORTCUT_OFF.into();
    };
    let sk = s.tcp_sock;
    let write_seq: u32 = tcp(sk, offset!(tcp_write_seq));
    let why = if guard::is_blocking(sk) {
        code::SHORTCUT_BLOCKING
    } else if guard::is_unusual(sk) || tcp::<u64>(sk, at!(sk_user_data)) != 0 {
        code::SHORTCUT_SOCKET
    } else if write_seq != s.write_seq_start || !is_quiet(sk) {
        code::SHORTCUT_LATE
    } else {
        0
    };
    why.into()
}

/// No byte is under way or unread.
#[inline(always)]
fn is_quiet(sk: u64) -> bool {
    let write_seq: u32 = tcp(sk, offset!(tcp_write_seq));
    let snd_una: u32 = tcp(sk, offset!(tcp_snd_una));
    let copied_seq: u32 = tcp(sk, offset!(tcp_copied_seq));
    let rcv_nxt: u32 = tcp(sk, offset!(tcp_rcv_nxt));
    write_seq == snd_una && copied_seq == rcv_nxt
}

/// Returns a code, or 0 if the socket is in the map.
#[inline(always)]
fn enter_active(ops: *mut bpf_sock_ops, s: &mut SockState, key: &FlowKey) -> u32 {
    zeroed!(pair: Pair);
    pair.active = s.tcp_sock;
    pair.active_cookie = s.cookie;
    pair.key = learn::key(s);
    let cookie = s.cookie;
    if PAIRS.insert(&cookie, pair, BPF_NOEXIST.into()).is_err() {
        return code::SHORTCUT_FULL.into();
    }
    let entered = MATES.insert(key, &cookie, 0).is_ok()
        && enter(ops, s.tcp_sock, cookie, cookie, end::ACTIVE);
    if !entered {
        let _ = PAIRS.remove(&cookie);
        return code::SHORTCUT_FULL.into();
    }
    s.flags |= flag::SHORTCUT;
    0
}

/// Puts the context's socket into the map. False: no room, or the socket has another user.
#[inline(always)]
fn enter(ops: *mut bpf_sock_ops, sk: u64, cookie: u64, pair: u64, flags: u32) -> bool {
    // SAFETY: helper calls on live maps and the context's socket.
    let state = unsafe {
        let socket = (*ops).__bindgen_anon_2.sk;
        if socket.is_null() {
            return false;
        }
        let map = (&raw const ENDS).cast_mut().cast();
        let create = u64::from(BPF_SK_STORAGE_GET_F_CREATE);
        h::bpf_sk_storage_get(map, socket.cast(), core::ptr::null_mut(), create).cast::<End>()
    };
    // SAFETY: the socket's own element, alive for the run.
    let Some(e) = (unsafe { state.as_mut() }) else {
        return false;
    };
    e.sk = sk;
    e.cookie = cookie;
    e.peer = 0;
    e.peer_cookie = 0;
    e.pair = pair;
    // Nothing was sent yet, so the other end's numbers are ours crossed over.
    e.peer_write_seq = tcp(sk, offset!(tcp_rcv_nxt));
    e.peer_copied_seq = tcp(sk, offset!(tcp_snd_una));
    e.flags = flags;
    e.why = 0;
    let mut key = cookie;
    // SAFETY: helper call on a live map, with a key on the stack.
    let entered = unsafe {
        let map = (&raw const SHORTCUT).cast_mut().cast();
        h::bpf_sock_hash_update(ops, map, (&raw mut key).cast(), BPF_NOEXIST.into()) == 0
    };
    let user_data: u64 = tcp(sk, at!(sk_user_data));
    // To the verifier what was loaded is a pointer; what was in a map is a number.
    // SAFETY: the socket's own element.
    unsafe {
        core::ptr::write_volatile(&raw mut e.psock, user_data);
        e.psock = guard::psock_of(core::ptr::read_volatile(&raw const e.psock));
    }
    entered
}

/// At PASSIVE_ESTABLISHED of a connection that was dialed on this node: follows the other end into the
/// map if it is there. `key`: the entry of `FLOWS` that proved who dialed.
#[inline(always)]
pub fn accepted(ops: *mut bpf_sock_ops, key: &FlowKey) {
    if closed_to_new() != 0 {
        return;
    }
    let Some(mate) = entry!(MATES, key) else {
        return;
    };
    let _ = MATES.remove(key);
    let Some(p) = PAIRS.get_ptr_mut(&mate) else {
        return;
    };
    // SAFETY: plain helper call.
    let cookie = unsafe { h::bpf_get_socket_cookie(ops.cast()) };
    // SAFETY: elements stay readable for the run. Whoever it belongs to by now, the cookies and the
    // sequence numbers of both directions are compared.
    let active = unsafe { (*p).active };
    let sk = tcp_sock_address(ops);
    let mut why = up_fits(sk, active, mate);
    if why == 0 && !enter(ops, sk, cookie, mate, 0) {
        why = code::SHORTCUT_FULL.into();
    }
    // SAFETY: as above; the cookie last, since the other end looks at it first.
    unsafe {
        if why == 0 {
            // Its close matters: nobody else asks for the passive end's states.
            watch_states(ops);
            (*p).passive = sk;
            core::ptr::write_volatile(&raw mut (*p).passive_cookie, cookie);
        } else {
            (*p).why = why as u16;
        }
    }
    if why != 0 {
        count_why(why);
    }
}

/// A code, or 0 if the two sockets are the two ends of one connection and both are quiet: the initial
/// sequence numbers of both directions prove it. A global function (see `workload.rs`).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn up_fits(sk: u64, active: u64, cookie: u64) -> u32 {
    let same = tcp::<u64>(active, at!(sk_cookie)) == cookie
        && tcp::<u32>(active, offset!(tcp_snd_una)) == tcp::<u32>(sk, offset!(tcp_rcv_nxt))
        && tcp::<u32>(active, offset!(tcp_rcv_nxt)) == tcp::<u32>(sk, offset!(tcp_snd_una));
    let why = if !same || !is_quiet(sk) {
        code::SHORTCUT_LATE
    } else if guard::is_unusual(sk) || tcp::<u64>(sk, at!(sk_user_data)) != 0 {
        code::SHORTCUT_SOCKET
    } else {
        0
    };
    why.into()
}

/// Adds what took the shortcut to the counts that TCP gave.
#[inline(always)]
pub fn add(s: &mut SockState) {
    if s.flags & flag::SHORTCUT != 0 {
        up_add(s);
    }
}

/// A global function (see `workload.rs`), so the pointer may be null to the verifier.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn up_add(s: *mut SockState) -> u32 {
    // SAFETY: callers pass a live state.
    let Some(s) = (unsafe { s.as_mut() }) else {
        return 0;
    };
    // On the stack: before Linux 6.2 the verifier takes no argument's memory for a key.
    let pair = s.cookie;
    let Some(p) = PAIRS.get_ptr(&pair) else {
        return 0;
    };
    // SAFETY: elements stay readable for the run; this one lives until its dialing end is released.
    let (cookie, sent, arrived, why) = unsafe {
        (
            (*p).active_cookie,
            core::ptr::read_volatile(&raw const (*p).to_passive),
            core::ptr::read_volatile(&raw const (*p).to_active),
            (*p).why,
        )
    };
    if cookie != s.cookie {
        return 0;
    }
    let received = arrived - core::cmp::min(arrived, guard::unread(s.tcp_sock));
    s.tcp.shortcut_sent = sent;
    s.tcp.shortcut_received = received;
    s.tcp.sent += sent;
    s.tcp.delivered += sent;
    s.tcp.received += received;
    if why != 0 {
        s.tcp.off_shortcut = why;
    }
    0
}

/// The connection's last close was counted.
#[inline(always)]
pub fn forget(s: &SockState) {
    if s.flags & flag::SHORTCUT != 0 {
        learn::up_ended(s.cookie);
        let pair = s.cookie;
        let _ = PAIRS.remove(&pair);
    }
}
