//! Who may enter the shortcut's map: the program that dials, the listener that answers and its program,
//! and the mode of a workload.

use aya_ebpf::{bindings::bpf_sock_ops, helpers::generated as h};
use underpass_abi::{
    Ip,
    reason::code,
    shortcut::{Candidate, Mode, ProgramKey, programs, switch},
    sock::{SockState, flag},
    tables::{ListenKey, setting},
};

use super::{at, guard};
use crate::{
    kernel::{read, zeroed},
    maps::{CANDIDATES, PROGRAMS, SETTINGS, WORKLOADS, entry, word},
    sock_ops::context::tcp_sock_address,
};

pub const OFF: u32 = Mode::Off as u32;
pub const AUTO: u32 = Mode::Auto as u32;
const ON: u32 = Mode::On as u32;

/// The mode of a workload; 0 is a process of this node outside every workload.
#[inline(always)]
pub fn mode(switches: u64, workload: u32) -> u32 {
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
pub fn listener(s: &SockState, auto: bool) -> u16 {
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
