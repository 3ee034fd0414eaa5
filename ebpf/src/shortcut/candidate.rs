//! Who may enter the shortcut's map: the listener that answers, and the mode of a workload. What is known
//! of the programs is in `program.rs`.

use aya_ebpf::{bindings::bpf_sock_ops, helpers::generated as h};
use underpass_abi::{
    Ip,
    reason::code,
    shortcut::{Candidate, Mode, switch},
    sock::{SockState, flag},
    tables::{ListenKey, door::INBOUND as INBOUND_DOOR, setting},
};

use super::{at, guard, notice, program};
use crate::{
    door, flow,
    kernel::{tcp, zeroed},
    maps::{CANDIDATES, PROGRAMS, SETTINGS, WORKLOADS, entry, word},
    sock_ops::context::tcp_sock_address,
};

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
    match (word >> Mode::SHIFT) as u32 & Mode::MASK {
        _ if word as u32 == 0 => OFF,
        0 => node,
        own => own,
    }
}

/// False if the owner of an end has switched the shortcut off since the connection took it.
#[inline(always)]
pub fn both_on(source: u32, destination: u32) -> bool {
    // The node's own mode makes no difference here: its switch is another.
    mode(0, source) != OFF && mode(0, destination) != OFF
}

/// At TCP_CONNECT_CB, where the dialing task runs: a code, or 0 if both programs and the listener that
/// will answer allow the shortcut. The listener comes first: most are no candidates, and then nothing
/// is asked of the dialing task. A global function (see `workload.rs`), so the pointer may be null to
/// the verifier.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn up_may_enter(s: *const SockState) -> u32 {
    // SAFETY: the caller's own element.
    let Some(s) = (unsafe { s.as_ref() }) else {
        return code::SHORTCUT_OFF.into();
    };
    let switches = word!(SETTINGS, setting::SHORTCUT);
    if switches & switch::INSERT == 0 {
        return code::SHORTCUT_OFF.into();
    }
    if s.flags & flag::LOCAL_DESTINATION == 0 {
        return code::SHORTCUT_NOT_LOCAL.into();
    }
    let (source, destination) = (
        mode(switches, s.source.into()),
        mode(switches, s.destination.into()),
    );
    if source == OFF || destination == OFF {
        return code::SHORTCUT_OFF.into();
    }
    let why = listener(s, destination == AUTO);
    if why != 0 {
        return why.into();
    }
    program::keeps_out(program::up_program_flags(), source == AUTO).into()
}

/// Why the listener that will answer is no candidate, 0 if it is one.
#[inline(always)]
fn listener(s: &SockState, auto: bool) -> u16 {
    zeroed!(key: ListenKey);
    key.netns = flow::arrives_in(s);
    key.port = s.remote_port;
    key.proto = s.proto;
    key.ip = s.remote;
    let destination = u32::from(s.destination);
    if destination != 0
        && door::is_steered(destination, s.remote_port)
        && !door::passes(flow::proof(s), destination)
    {
        // The worker's listener answers.
        key.port = INBOUND_DOOR;
        key.ip = Ip::ANY;
    }
    let mut found = CANDIDATES.get_ptr(key);
    if found.is_none() {
        key.ip = Ip::ANY;
        found = CANDIDATES.get_ptr(key);
    }
    match found {
        // SAFETY: elements stay readable for the run, whoever they belong to by then.
        Some(candidate) => judge(unsafe { &*candidate }, auto),
        None => code::SHORTCUT_LISTENER_UNKNOWN,
    }
}

#[inline(always)]
fn judge(candidate: &Candidate, auto: bool) -> u16 {
    let (sk, cookie) = (candidate.sk, candidate.cookie);
    let known = entry!(PROGRAMS, &candidate.program).unwrap_or(0);
    let why = program::keeps_out(known, auto);
    if why != 0 {
        why
    } else if tcp::<u64>(sk, at!(sk_cookie)) != cookie {
        // The memory is another socket's by now.
        code::SHORTCUT_LISTENER_UNKNOWN
    } else if guard::is_blocking(sk) {
        // Or closed: then it has no file.
        code::SHORTCUT_BLOCKING
    } else {
        0
    }
}

/// True if connections to this listener of `owner`'s may enter the map now, as far as its end goes.
#[inline(always)]
pub fn could_enter(candidate: &Candidate, owner: u32) -> bool {
    let switches = word!(SETTINGS, setting::SHORTCUT);
    let mode = mode(switches, owner);
    switches & switch::INSERT != 0 && mode != OFF && judge(candidate, mode == AUTO) == 0
}

/// At TCP_LISTEN_CB, in the task that listens, for a meshed workload.
#[inline(always)]
pub fn listening(ops: *mut bpf_sock_ops, key: &ListenKey, owner: u32) {
    zeroed!(candidate: Candidate);
    candidate.sk = tcp_sock_address(ops);
    // SAFETY: plain helper call.
    candidate.cookie = unsafe { h::bpf_get_socket_cookie(ops.cast()) };
    program::current(&mut candidate.program);
    program::learn_ring();
    let _ = CANDIDATES.insert(key, candidate, 0);
    if word!(SETTINGS, setting::SHORTCUT_WATCHED) == 0 && could_enter(candidate, owner) {
        notice::candidate();
    }
}
