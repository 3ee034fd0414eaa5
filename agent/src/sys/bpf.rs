//! bpf(2): pins and links. Fields as in `union bpf_attr` of linux/bpf.h.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use super::Raw;

const OBJ_PIN: u32 = 6;
const OBJ_GET: u32 = 7;
const PROG_ATTACH: u32 = 8;
const PROG_QUERY: u32 = 16;
const LINK_CREATE: u32 = 28;
const LINK_UPDATE: u32 = 29;
const ITER_CREATE: u32 = 33;
const LINK_DETACH: u32 = 34;

/// `enum bpf_attach_type`: the hooks that we use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attach(pub u32);

impl Attach {
    pub const SOCK_OPS: Self = Self(3);
    pub const SK_MSG: Self = Self(7);
    pub const CONNECT4: Self = Self(10);
    pub const CONNECT6: Self = Self(11);
    pub const SENDMSG4: Self = Self(14);
    pub const SENDMSG6: Self = Self(15);
    pub const RECVMSG4: Self = Self(19);
    pub const RECVMSG6: Self = Self(20);
    pub const GETSOCKOPT: Self = Self(21);
    pub const TRACE_RAW_TP: Self = Self(23);
    pub const ITER: Self = Self(28);
    pub const GETPEERNAME4: Self = Self(29);
    pub const GETPEERNAME6: Self = Self(30);
    pub const SOCK_RELEASE: Self = Self(34);
    pub const SK_LOOKUP: Self = Self(36);
    pub const SK_SKB: Self = Self(38);
}

/// Calls bpf(2). `T` mirrors a prefix of `union bpf_attr`; what lies behind counts as zero.
///
/// # Safety
/// Every pointer in `attr` is valid for what `cmd` reads or writes through it.
pub(super) unsafe fn bpf<T: Raw>(cmd: u32, attr: &mut T) -> io::Result<i32> {
    // SAFETY: attr is live and its size is given; the caller answers for pointers inside.
    let r = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            cmd,
            std::ptr::from_mut(attr),
            size_of::<T>() as u32,
        )
    };
    if r < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(r as i32)
    }
}

/// Takes ownership of a descriptor that the kernel has just returned.
pub(super) fn owned(fd: i32) -> OwnedFd {
    // SAFETY: only called with the fresh result of a call that returns a new descriptor.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Obj {
    path: u64,
    fd: u32,
    flags: u32,
}
// SAFETY: integers, no padding.
unsafe impl Raw for Obj {}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Opens a pinned map, program or link.
pub fn obj_get(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = Obj {
        path: path.as_ptr() as u64,
        ..Obj::default()
    };
    // SAFETY: the path outlives the call.
    unsafe { bpf(OBJ_GET, &mut attr) }.map(owned)
}

/// Pins a map, program or link to a path on a bpffs.
pub fn obj_pin(fd: impl AsFd, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = Obj {
        path: path.as_ptr() as u64,
        fd: fd.as_fd().as_raw_fd() as u32,
        flags: 0,
    };
    // SAFETY: the path outlives the call.
    unsafe { bpf(OBJ_PIN, &mut attr) }.map(drop)
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct LinkCreate {
    prog: u32,
    target: u32,
    attach: u32,
    flags: u32,
    iter_info: u64,
    iter_info_len: u32,
    pad: u32,
}
// SAFETY: integers, no padding.
unsafe impl Raw for LinkCreate {}

/// Attaches a program to a cgroup directory, a network namespace or (from 6.10 on) a socket map.
pub fn link_create(prog: impl AsFd, target: impl AsFd, attach: Attach) -> io::Result<OwnedFd> {
    let mut attr = LinkCreate {
        prog: prog.as_fd().as_raw_fd() as u32,
        target: target.as_fd().as_raw_fd() as u32,
        attach: attach.0,
        ..LinkCreate::default()
    };
    // SAFETY: no pointers.
    unsafe { bpf(LINK_CREATE, &mut attr) }.map(owned)
}

/// Attaches a tracing program to the tracepoint for which it was loaded.
pub fn link_create_tracing(prog: impl AsFd) -> io::Result<OwnedFd> {
    let mut attr = LinkCreate {
        prog: prog.as_fd().as_raw_fd() as u32,
        attach: Attach::TRACE_RAW_TP.0,
        ..LinkCreate::default()
    };
    // SAFETY: no pointers.
    unsafe { bpf(LINK_CREATE, &mut attr) }.map(owned)
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ProgAttach {
    target: u32,
    prog: u32,
    attach: u32,
    flags: u32,
}
// SAFETY: integers, no padding.
unsafe impl Raw for ProgAttach {}

/// Attaches a program to a socket map without a link: it stays as long as the map, and takes the
/// place of an earlier one.
pub fn prog_attach(prog: impl AsFd, map: impl AsFd, attach: Attach) -> io::Result<()> {
    let mut attr = ProgAttach {
        target: map.as_fd().as_raw_fd() as u32,
        prog: prog.as_fd().as_raw_fd() as u32,
        attach: attach.0,
        flags: 0,
    };
    // SAFETY: no pointers.
    unsafe { bpf(PROG_ATTACH, &mut attr) }.map(drop)
}

/// Makes a link of an iterator program over the elements of a map.
pub fn link_create_iter(prog: impl AsFd, map: impl AsFd) -> io::Result<OwnedFd> {
    // `union bpf_iter_link_info`: the map is the first word.
    let info: [u32; 4] = [map.as_fd().as_raw_fd() as u32, 0, 0, 0];
    let mut attr = LinkCreate {
        prog: prog.as_fd().as_raw_fd() as u32,
        attach: Attach::ITER.0,
        iter_info: info.as_ptr() as u64,
        iter_info_len: size_of_val(&info) as u32,
        ..LinkCreate::default()
    };
    // SAFETY: `info` outlives the call.
    unsafe { bpf(LINK_CREATE, &mut attr) }.map(owned)
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct LinkUpdate {
    link: u32,
    prog: u32,
    flags: u32,
    old_prog: u32,
}
// SAFETY: integers, no padding.
unsafe impl Raw for LinkUpdate {}

/// Replaces a link's program in one step: every run uses the old or the new one.
pub fn link_update(link: impl AsFd, prog: impl AsFd) -> io::Result<()> {
    let mut attr = LinkUpdate {
        link: link.as_fd().as_raw_fd() as u32,
        prog: prog.as_fd().as_raw_fd() as u32,
        ..LinkUpdate::default()
    };
    // SAFETY: no pointers.
    unsafe { bpf(LINK_UPDATE, &mut attr) }.map(drop)
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct OneFd {
    fd: u32,
    flags: u32,
}
// SAFETY: integers, no padding.
unsafe impl Raw for OneFd {}

/// Detaches a link for good, whoever still holds or pins it.
pub fn link_detach(link: impl AsFd) -> io::Result<()> {
    let mut attr = OneFd {
        fd: link.as_fd().as_raw_fd() as u32,
        flags: 0,
    };
    // SAFETY: no pointers.
    unsafe { bpf(LINK_DETACH, &mut attr) }.map(drop)
}

/// Starts a pass of an iterator; read the descriptor to its end.
pub fn iter_create(link: impl AsFd) -> io::Result<OwnedFd> {
    let mut attr = OneFd {
        fd: link.as_fd().as_raw_fd() as u32,
        flags: 0,
    };
    // SAFETY: no pointers.
    unsafe { bpf(ITER_CREATE, &mut attr) }.map(owned)
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Query {
    target: u32,
    attach: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    pad: u32,
}
// SAFETY: integers, no padding.
unsafe impl Raw for Query {}

/// Ids of the programs attached directly to a cgroup or namespace, in order, at most 64.
pub fn attached(target: impl AsFd, attach: Attach) -> io::Result<Vec<u32>> {
    let mut ids = vec![0_u32; 64];
    let mut attr = Query {
        target: target.as_fd().as_raw_fd() as u32,
        attach: attach.0,
        ids: ids.as_mut_ptr() as u64,
        count: ids.len() as u32,
        ..Query::default()
    };
    // SAFETY: `ids` has room for `count` words and outlives the call.
    unsafe { bpf(PROG_QUERY, &mut attr) }?;
    ids.truncate(attr.count as usize);
    Ok(ids)
}
