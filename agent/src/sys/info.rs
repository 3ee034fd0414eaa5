//! bpf(2): what is loaded, by id and by descriptor.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use super::{
    Raw,
    bpf::{bpf, owned},
};

const PROG_GET_NEXT_ID: u32 = 11;
const PROG_GET_FD_BY_ID: u32 = 13;
const OBJ_GET_INFO_BY_FD: u32 = 15;
const LINK_GET_FD_BY_ID: u32 = 30;
const LINK_GET_NEXT_ID: u32 = 31;

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ById {
    id: u32,
    next_id: u32,
    flags: u32,
}
// SAFETY: integers, no padding.
unsafe impl Raw for ById {}

fn ids(next: u32) -> impl Iterator<Item = u32> {
    let mut attr = ById::default();
    std::iter::from_fn(move || {
        // SAFETY: no pointers.
        unsafe { bpf(next, &mut attr) }.ok()?;
        attr.id = attr.next_id;
        Some(attr.next_id)
    })
}

fn by_id(cmd: u32, id: u32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    unsafe {
        bpf(
            cmd,
            &mut ById {
                id,
                ..ById::default()
            },
        )
    }
    .map(owned)
}

/// Ids of all links of the system.
pub fn link_ids() -> impl Iterator<Item = u32> {
    ids(LINK_GET_NEXT_ID)
}

/// Ids of all programs of the system.
pub fn prog_ids() -> impl Iterator<Item = u32> {
    ids(PROG_GET_NEXT_ID)
}

pub fn link_by_id(id: u32) -> io::Result<OwnedFd> {
    by_id(LINK_GET_FD_BY_ID, id)
}

pub fn prog_by_id(id: u32) -> io::Result<OwnedFd> {
    by_id(PROG_GET_FD_BY_ID, id)
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Info {
    fd: u32,
    len: u32,
    info: u64,
}
// SAFETY: integers, no padding.
unsafe impl Raw for Info {}

fn info<T: Raw>(fd: impl AsFd, info: &mut T) -> io::Result<()> {
    let mut attr = Info {
        fd: fd.as_fd().as_raw_fd() as u32,
        len: size_of::<T>() as u32,
        info: std::ptr::from_mut(info) as u64,
    };
    // SAFETY: `info` has `len` bytes and outlives the call; pointers inside it are the caller's.
    unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut attr) }.map(drop)
}

/// What the kernel says of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    pub id: u32,
    /// 0: none (the link was severed).
    pub prog: u32,
    pub target: LinkTarget,
}

/// Where a link is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkTarget {
    /// Cgroup id, attach type; an id of 0: the cgroup is gone, or the link was detached.
    Cgroup(u64, u32),
    /// Inode of the network namespace, attach type; 0: gone.
    Netns(u32, u32),
    /// Id of the socket map, attach type.
    Sockmap(u32, u32),
    Other(u32),
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct RawLink {
    kind: u32,
    id: u32,
    prog: u32,
    pad: u32,
    words: [u32; 8],
}
// SAFETY: integers, no padding.
unsafe impl Raw for RawLink {}

pub fn link_info(fd: impl AsFd) -> io::Result<LinkInfo> {
    const CGROUP: u32 = 3;
    const NETNS: u32 = 5;
    const SOCKMAP: u32 = 14;
    let mut raw = RawLink::default();
    info(fd, &mut raw)?;
    let w = raw.words;
    let target = match raw.kind {
        CGROUP => {
            let halves = [w[0].to_ne_bytes(), w[1].to_ne_bytes()].concat();
            LinkTarget::Cgroup(
                u64::from_ne_bytes(halves.try_into().expect("eight bytes")),
                w[2],
            )
        }
        NETNS => LinkTarget::Netns(w[0], w[1]),
        SOCKMAP => LinkTarget::Sockmap(w[0], w[1]),
        kind => LinkTarget::Other(kind),
    };
    Ok(LinkInfo {
        id: raw.id,
        prog: raw.prog,
        target,
    })
}

/// What the kernel says of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgInfo {
    pub id: u32,
    /// `enum bpf_prog_type`.
    pub kind: u32,
    /// Hash of the instructions as loaded; equal tags are equal code.
    pub tag: [u8; 8],
    pub name: String,
    pub jited_len: u32,
    pub verified_instructions: u32,
    /// Ids of the maps that it uses, at most 64.
    pub maps: Vec<u32>,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct RawProg {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    jited_len: u32,
    xlated_len: u32,
    jited: u64,
    xlated: u64,
    load_time: u64,
    uid: u32,
    map_count: u32,
    map_ids: u64,
    name: [u8; 16],
    ifindex: u32,
    gpl: u32,
    netns_dev: u64,
    netns_ino: u64,
    ksym_count: u32,
    func_len_count: u32,
    ksyms: u64,
    func_lens: u64,
    btf_id: u32,
    func_info_size: u32,
    func_info: u64,
    func_info_count: u32,
    line_info_count: u32,
    line_info: u64,
    jited_line_info: u64,
    jited_line_info_count: u32,
    line_info_size: u32,
    jited_line_info_size: u32,
    tag_count: u32,
    tags: u64,
    run_time: u64,
    run_count: u64,
    recursion_misses: u64,
    verified_instructions: u32,
    attach_btf_obj: u32,
}
// SAFETY: integers, no padding.
unsafe impl Raw for RawProg {}

pub fn prog_info(fd: impl AsFd) -> io::Result<ProgInfo> {
    let mut maps = vec![0_u32; 64];
    let mut raw = RawProg {
        map_count: maps.len() as u32,
        map_ids: maps.as_mut_ptr() as u64,
        ..RawProg::default()
    };
    // `info` passes the address of `maps` on: it has room for `map_count` ids and is still alive.
    info(fd, &mut raw)?;
    maps.truncate(raw.map_count as usize);
    Ok(ProgInfo {
        id: raw.id,
        kind: raw.kind,
        tag: raw.tag,
        name: c_name(&raw.name),
        jited_len: raw.jited_len,
        verified_instructions: raw.verified_instructions,
        maps,
    })
}

/// What the kernel says of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapInfo {
    /// `enum bpf_map_type`.
    pub kind: u32,
    pub id: u32,
    pub key_size: u32,
    pub value_size: u32,
    pub max_entries: u32,
    pub flags: u32,
    pub name: String,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct RawMap {
    kind: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    name: [u8; 16],
}
// SAFETY: integers, no padding.
unsafe impl Raw for RawMap {}

pub fn map_info(fd: impl AsFd) -> io::Result<MapInfo> {
    let mut raw = RawMap::default();
    info(fd, &mut raw)?;
    Ok(MapInfo {
        kind: raw.kind,
        id: raw.id,
        key_size: raw.key_size,
        value_size: raw.value_size,
        max_entries: raw.max_entries,
        flags: raw.flags,
        name: c_name(&raw.name),
    })
}

fn c_name(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
