//! bpf(2): tracing programs of a few instructions, to find out what this kernel lets them do. aya
//! knows no `fmod_ret`.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use super::{
    Raw,
    bpf::{bpf, owned},
};

const PROG_LOAD: u32 = 5;
const RAW_TRACEPOINT_OPEN: u32 = 17;
const PROG_TYPE_TRACING: u32 = 26;
const PROG_TYPE_LSM: u32 = 29;

/// How a program hangs on a kernel function (by `enum bpf_attach_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Tracing {
    Tracepoint = 23,
    Entry = 24,
    ModifyReturn = 26,
    Lsm = 27,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Load {
    kind: u32,
    count: u32,
    code: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    ifindex: u32,
    attach: u32,
    btf_fd: u32,
    func_info_size: u32,
    func_info: u64,
    func_info_count: u32,
    line_info_size: u32,
    line_info: u64,
    line_info_count: u32,
    attach_btf_id: u32,
}
// SAFETY: integers, no padding.
unsafe impl Raw for Load {}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Open {
    name: u64,
    prog: u32,
    pad: u32,
}
// SAFETY: integers, no padding.
unsafe impl Raw for Open {}

/// Loads a program for the kernel's type `btf_id`: a function, or the typedef of a tracepoint.
pub fn load(how: Tracing, btf_id: u32, code: &[[u8; 8]]) -> io::Result<OwnedFd> {
    let mut attr = Load {
        kind: match how {
            Tracing::Lsm => PROG_TYPE_LSM,
            _ => PROG_TYPE_TRACING,
        },
        count: code.len() as u32,
        code: code.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        attach: how as u32,
        attach_btf_id: btf_id,
        ..Load::default()
    };
    // SAFETY: `code` has `count` instructions and, as the license, outlives the call; no log.
    unsafe { bpf(PROG_LOAD, &mut attr) }.map(owned)
}

/// Attaches a program of [`load`]; it stays until the link is closed.
pub fn attach(prog: impl AsFd) -> io::Result<OwnedFd> {
    let mut attr = Open {
        prog: prog.as_fd().as_raw_fd() as u32,
        ..Open::default()
    };
    // SAFETY: no pointers.
    unsafe { bpf(RAW_TRACEPOINT_OPEN, &mut attr) }.map(owned)
}
