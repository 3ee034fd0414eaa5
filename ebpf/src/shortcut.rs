//! The shortcut past TCP between two sockets of this node: who enters the map, and what of it is in a
//! connection's counts. `sock_ops` calls these functions and knows nothing else of it; the decision
//! about each message is in `guard.rs`.

use aya_ebpf::{
    bindings::{BPF_NOEXIST, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock_ops},
    helpers::generated as h,
};
use underpass_abi::{
    Ip,
    reason::code,
    shortcut::{Candidate, End, Mode, Pair, ProgramKey, end, programs, switch},
    sock::{SockState, counter, flag},
    tables::{FlowKey, ListenKey, setting},
};

use crate::{
    kernel::{offset, read, zeroed},
    maps::{
        CANDIDATES, ENDS, MATES, PAIRS, PROGRAMS, SETTINGS, SHORTCUT, WORKLOADS, count, entry, word,
    },
    sock_ops::{context::tcp_sock_address, flow_key},
};

pub mod guard;
pub mod learn;

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

/// At TCP_CONNECT_CB, where the dialing task runs: its program, for [`dialed`].
#[inline(always)]
pub fn connecting(s: &mut SockState) {
    if s.flags & flag::LOCAL_DESTINATION == 0
        || word!(SETTINGS, setting::SHORTCUT) & switch::INSERT == 0
    {
        return;
    }
    let program = up_program_flags();
    if program & programs::LISTED != 0 {
        s.flags |= flag::LISTED;
    }
    if program & programs::SPLICES != 0 {
        s.flags |= flag::SPLICES;
    }
}

/// At ACTIVE_ESTABLISHED: the dialing end enters the map, before any byte, if both ends may.
#[inline(always)]
pub fn dialed(ops: *mut bpf_sock_ops, s: &mut SockState) {
    let switches = word!(SETTINGS, setting::SHORTCUT);
    if switches & switch::INSERT == 0 {
        s.shortcut = code::SHORTCUT_OFF.into();
        return;
    }
    let mut why = up_may_enter(s, switches);
    if why == 0 {
        why = enter_active(ops, s, &flow_key(s));
    }
    s.shortcut = why;
    if why != 0 {
        count_why(why);
    }
}

/// A code, or 0. A global function (see `workload.rs`), so the pointer may be null to the verifier.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn up_may_enter(s: *const SockState, switches: u64) -> u32 {
    // SAFETY: the caller's own element.
    let Some(s) = (unsafe { s.as_ref() }) else {
        return code::SHORTCUT_OFF.into();
    };
    let why = if s.flags & flag::LOCAL_DESTINATION == 0 {
        code::SHORTCUT_NOT_LOCAL
    } else {
        let (source, destination) = (mode(switches, s.source), mode(switches, s.destination));
        let auto = (source == AUTO, destination == AUTO);
        if source == OFF || destination == OFF {
            code::SHORTCUT_OFF
        } else if s.flags & flag::SPLICES != 0 {
            code::SHORTCUT_SPLICES
        } else if auto.0 && s.flags & flag::LISTED == 0 {
            code::SHORTCUT_NOT_LISTED
        } else {
            let why = listener(s, auto.1);
            match if why != 0 { why } else { fresh(s) } {
                0 => learn::kept_out(s),
                why => why,
            }
        }
    };
    why.into()
}

const OFF: u32 = Mode::Off as u32;
const AUTO: u32 = Mode::Auto as u32;
const ON: u32 = Mode::On as u32;

/// The mode of a workload; 0 is a process of this node outside every workload.
#[inline(always)]
fn mode(switches: u64, workload: u32) -> u32 {
    let node = if switches & switch::NODE_ON != 0 {
        ON
    } else {
        AUTO
    };
    if workload == 0 {
        return node;
    }
    let word = word!(WORKLOADS, workload);
    match (word >> Mode::SHIFT) as u32 {
        _ if word as u32 == 0 => OFF,
        0 => node,
        own => own,
    }
}

/// Why the listener that will answer is no candidate, 0 if it is one.
#[inline(always)]
fn listener(s: &SockState, auto: bool) -> u16 {
    zeroed!(key: ListenKey);
    key.netns = crate::sock_ops::arrives_in(s);
    key.port = s.remote_port;
    key.proto = s.proto;
    key.ip = s.remote;
    let mut found = CANDIDATES.get_ptr(key);
    if found.is_none() {
        key.ip = Ip::ANY;
        found = CANDIDATES.get_ptr(key);
    }
    let Some(found) = found else {
        return code::SHORTCUT_LISTENER_UNKNOWN;
    };
    // SAFETY: elements stay readable for the run; the cookie tells whether it is still the same.
    let (sk, cookie) = unsafe { ((*found).sk, (*found).cookie) };
    if read::<u64>(sk + at!(sk_cookie)) != cookie {
        return code::SHORTCUT_LISTENER_UNKNOWN;
    }
    // SAFETY: as above.
    let program = entry!(PROGRAMS, unsafe { &(*found).program }).unwrap_or(0);
    if program & programs::SPLICES != 0 {
        code::SHORTCUT_SPLICES
    } else if auto && program & programs::LISTED == 0 {
        code::SHORTCUT_NOT_LISTED
    } else if guard::is_blocking(sk) {
        code::SHORTCUT_BLOCKING
    } else {
        0
    }
}

/// Why the socket itself cannot enter, 0 if it can.
#[inline(always)]
fn fresh(s: &SockState) -> u16 {
    let sk = s.tcp_sock;
    let write_seq: u32 = read(sk + offset!(tcp_write_seq));
    if guard::is_blocking(sk) {
        code::SHORTCUT_BLOCKING
    } else if guard::is_unusual(sk) || read::<u64>(sk + at!(sk_user_data)) != 0 {
        code::SHORTCUT_SOCKET
    } else if write_seq != s.write_seq_start || !is_quiet(sk) {
        code::SHORTCUT_LATE
    } else {
        0
    }
}

/// No byte is under way or unread.
#[inline(always)]
fn is_quiet(sk: u64) -> bool {
    let write_seq: u32 = read(sk + offset!(tcp_write_seq));
    let snd_una: u32 = read(sk + offset!(tcp_snd_una));
    let copied_seq: u32 = read(sk + offset!(tcp_copied_seq));
    let rcv_nxt: u32 = read(sk + offset!(tcp_rcv_nxt));
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
    e.peer_write_seq = read(sk + offset!(tcp_rcv_nxt));
    e.peer_copied_seq = read(sk + offset!(tcp_snd_una));
    e.flags = flags;
    e.why = 0;
    let mut key = cookie;
    // SAFETY: helper call on a live map, with a key on the stack.
    unsafe {
        let map = (&raw const SHORTCUT).cast_mut().cast();
        h::bpf_sock_hash_update(ops, map, (&raw mut key).cast(), BPF_NOEXIST.into()) == 0
    }
}

/// At PASSIVE_ESTABLISHED of a connection that was dialed on this node: follows the other end into the
/// map if it is there. `key`: the entry of `FLOWS` that proved who dialed.
#[inline(always)]
pub fn accepted(ops: *mut bpf_sock_ops, key: &FlowKey) {
    if word!(SETTINGS, setting::SHORTCUT) & switch::INSERT == 0 {
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
            (*p).passive = sk;
            core::ptr::write_volatile(&raw mut (*p).passive_cookie, cookie);
        } else {
            (*p).why = why;
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
    let same = read::<u64>(active + at!(sk_cookie)) == cookie
        && read::<u32>(active + offset!(tcp_snd_una)) == read::<u32>(sk + offset!(tcp_rcv_nxt))
        && read::<u32>(active + offset!(tcp_rcv_nxt)) == read::<u32>(sk + offset!(tcp_snd_una));
    let why = if !same || !is_quiet(sk) {
        code::SHORTCUT_LATE
    } else if guard::is_unusual(sk) || read::<u64>(sk + at!(sk_user_data)) != 0 {
        code::SHORTCUT_SOCKET
    } else {
        0
    };
    why.into()
}

/// At TCP_LISTEN_CB, in the task that listens, for a meshed workload.
#[inline(always)]
pub fn listening(ops: *mut bpf_sock_ops, key: &ListenKey) {
    zeroed!(candidate: Candidate);
    candidate.sk = tcp_sock_address(ops);
    // SAFETY: plain helper call.
    candidate.cookie = unsafe { h::bpf_get_socket_cookie(ops.cast()) };
    current_program(&mut candidate.program);
    let _ = CANDIDATES.insert(key, candidate, 0);
}

/// The name of the calling task's executable.
#[inline(always)]
pub fn current_program(key: &mut ProgramKey) {
    // SAFETY: plain helper call.
    let task = unsafe { h::bpf_get_current_task() };
    let mm: u64 = read(task + at!(task_mm));
    let exe: u64 = read(mm + at!(mm_exe_file));
    let dentry: u64 = read(exe + at!(file_dentry));
    let name: u64 = read(dentry + at!(dentry_name));
    // SAFETY: the helper checks the address and writes at most the key's bytes.
    unsafe {
        let to = (&raw mut key.name).cast();
        h::bpf_probe_read_kernel_str(to, size_of::<ProgramKey>() as u32, name as *const _);
    }
}

/// What is known of the calling task's program. A global function (see `workload.rs`).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn up_program_flags() -> u64 {
    zeroed!(key: ProgramKey);
    current_program(key);
    entry!(PROGRAMS, &*key).unwrap_or(0)
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
        s.shortcut = why;
    }
    0
}

/// The connection's last close was counted.
#[inline(always)]
pub fn forget(s: &SockState) {
    if s.flags & flag::SHORTCUT != 0 {
        let pair = s.cookie;
        let _ = PAIRS.remove(&pair);
    }
}
