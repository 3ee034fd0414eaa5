//! BPF iterators over maps: the open sockets of all namespaces, and others.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::AsFd,
};

use underpass_abi::{plain, sock::SockState};

use crate::sys::bpf::{iter_create, link_create_iter};

/// Bytes per read; the kernel's own buffer is 32 KiB.
const CHUNK: usize = 32 << 10;

/// Reads that may yield nothing before the pass is given up.
const PATIENCE: u32 = 1_000;

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
