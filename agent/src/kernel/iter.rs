//! BPF iterators over maps: the open sockets of all namespaces, and others.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
};

use aya::{Btf, Ebpf, Endianness, programs::Program};
use underpass_abi::{plain, reason::code, sock::SockState};

use super::{KernelError, btf, load, splice_watch};
use crate::sys::bpf::{iter_create, link_create_iter};

/// Bytes per read; the kernel's own buffer is 32 KiB.
const CHUNK: usize = 32 << 10;

/// Reads that may yield nothing before the pass is given up.
const PATIENCE: u32 = 1_000;

/// Loads an iterator, which is tied to a function of this kernel.
pub fn load(
    ebpf: &mut Ebpf,
    name: &'static str,
    kernel: &btf::Btf,
) -> Result<OwnedFd, KernelError> {
    let Some(Program::Iter(program)) = ebpf.program_mut(name) else {
        return Err(load::absent(name));
    };
    let target = if name == splice_watch::CANDIDATES {
        "bpf_map_elem"
    } else {
        "bpf_sk_storage_map"
    };
    let types = iter_types(kernel, target)?;
    let loaded = program
        .load(target, &types)
        .and_then(|()| load::fd_of(program.fd()));
    loaded.map_err(|e| load::program_error(name, e))
}

fn iter_types(kernel: &btf::Btf, target: &str) -> Result<Btf, KernelError> {
    let name = format!("bpf_iter_{target}");
    let id = kernel
        .function(&name)
        .ok_or_else(|| KernelError::new(code::KERNEL_TOO_OLD, format!("no {name}")))?;
    Btf::parse(&btf::only_function(id, &name), Endianness::default())
        .map_err(|e| KernelError::new(code::NO_BTF, e.to_string()))
}

/// Runs an iterator over a map; how many words of 4 bytes it wrote.
pub fn words(program: impl AsFd, map: impl AsFd) -> io::Result<usize> {
    let link = link_create_iter(program, map)?;
    let mut file = File::from(iter_create(&link)?);
    let mut patience = PATIENCE;
    let mut bytes = 0;
    loop {
        match file.read(&mut [0; 4096]) {
            Ok(0) => return Ok(bytes / 4),
            Ok(n) => bytes += n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && patience > 0 => patience -= 1,
            Err(e) => return Err(e),
        }
    }
}

/// What `up_iter_socks` says of the elements of `SOCKS`.
pub fn sockets(program: impl AsFd, map: impl AsFd) -> io::Result<Vec<SockState>> {
    let link = link_create_iter(program, map)?;
    let mut file = File::from(iter_create(&link)?);
    let mut buffer = vec![0; CHUNK];
    let mut held = 0;
    let mut out = Vec::new();
    let mut patience = PATIENCE;
    loop {
        let n = match file.read(&mut buffer[held..]) {
            Ok(0) if held == 0 => return Ok(out),
            Ok(0) => return Err(io::Error::other("the iterator ended within a record")),
            Ok(n) => n,
            // The kernel gives up its CPU after many sockets without a record.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && patience > 0 => {
                patience -= 1;
                continue;
            }
            Err(e) => return Err(e),
        };
        let (records, rest) = buffer[..held + n].as_chunks::<{ size_of::<SockState>() }>();
        out.extend(
            records
                .iter()
                .filter_map(|r| plain::from_bytes::<SockState>(r)),
        );
        let rest = rest.len();
        buffer.copy_within(held + n - rest..held + n, 0);
        held = rest;
    }
}
