//! bpf(2): map elements, singly and in batches. All sizes are checked against the map's own.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::atomic::Ordering,
};

use super::{
    Raw,
    bpf::bpf,
    info::{MapInfo, map_info},
};
use window::Window;

mod window;

const LOOKUP: u32 = 1;
const UPDATE: u32 = 2;
const DELETE: u32 = 3;
const NEXT_KEY: u32 = 4;
const LOOKUP_BATCH: u32 = 24;
const UPDATE_BATCH: u32 = 26;
const DELETE_BATCH: u32 = 27;
/// `BPF_F_MMAPABLE`
const MMAPABLE: u32 = 1 << 10;

/// Elements per batch call: bounds the time in one system call (50,000 took 31 ms).
const BATCH: usize = 8_192;

/// So many elements of an array are written through a mapping: a batch call takes 0.2 µs for each
/// element, mapping and unmapping some 20 µs.
const MAPPED: usize = 256;

/// An open map with its shape.
#[derive(Debug)]
pub struct Map {
    fd: OwnedFd,
    pub info: MapInfo,
    /// Bytes of a value as user space sees it: per-CPU maps have one copy for each possible CPU.
    value_len: usize,
}

/// What an update requires of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    Any = 0,
    /// The key must be new.
    New = 1,
    /// The value of an existing key is written where it is (`BPF_F_LOCK`); it must hold a lock.
    InPlace = 4,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Elem {
    map: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}
// SAFETY: integers, no padding.
unsafe impl Raw for Elem {}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    elem_flags: u64,
    flags: u64,
}
// SAFETY: integers, no padding.
unsafe impl Raw for Batch {}

impl AsFd for Map {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Map {
    /// `cpus`: the number of possible CPUs.
    pub fn new(fd: OwnedFd, cpus: usize) -> io::Result<Self> {
        const PER_CPU: [u32; 4] = [5, 6, 10, 21];
        let info = map_info(&fd)?;
        let value = info.value_size as usize;
        let value_len = if PER_CPU.contains(&info.kind) {
            value.next_multiple_of(8) * cpus
        } else {
            value
        };
        Ok(Self {
            fd,
            info,
            value_len,
        })
    }

    pub fn key_len(&self) -> usize {
        self.info.key_size as usize
    }

    pub fn value_len(&self) -> usize {
        self.value_len
    }

    /// True for arrays: keys are indexes and always exist.
    pub fn is_array(&self) -> bool {
        matches!(self.info.kind, 2 | 6)
    }

    /// Writes `keys.len() / key_len` elements. Returns how many calls the kernel needed.
    pub fn put_all(&self, keys: &[u8], values: &[u8], put: Put) -> io::Result<usize> {
        let count = self.count(keys)?;
        if values.len() != count * self.value_len {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if self.info.flags & MMAPABLE != 0 && count >= MAPPED {
            self.store_all(keys, values)?;
            return Ok(0);
        }
        let mut calls = 0;
        let mut done = 0;
        while done < count {
            let n = BATCH.min(count - done);
            let k = &keys[done * self.key_len()..(done + n) * self.key_len()];
            let v = &values[done * self.value_len..(done + n) * self.value_len];
            let mut attr = self.batch(n, put as u64);
            attr.keys = k.as_ptr() as u64;
            attr.values = v.as_ptr() as u64;
            // SAFETY: the kernel reads n keys and n values, whose lengths were checked.
            match unsafe { bpf(UPDATE_BATCH, &mut attr) } {
                Ok(_) => calls += 1,
                Err(e) if no_batches(&e) => calls += self.put_each(k, v, put)?,
                Err(e) => return Err(e),
            }
            done += n;
        }
        Ok(calls)
    }

    /// Writes elements of an array by stores, each word whole.
    fn store_all(&self, keys: &[u8], values: &[u8]) -> io::Result<()> {
        let words = self.value_len.div_ceil(8);
        let indexes = || {
            keys.as_chunks()
                .0
                .iter()
                .map(|k| u32::from_ne_bytes(*k) as usize)
        };
        let first = indexes().min().unwrap_or(0);
        let last = indexes().max().unwrap_or(0);
        if !self.value_len.is_multiple_of(8) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if last >= self.info.max_entries as usize {
            return Err(io::Error::from_raw_os_error(libc::E2BIG));
        }
        let window = Window::open(&self.fd, first * words..(last + 1) * words)?;
        for (index, value) in indexes().zip(values.chunks_exact(self.value_len)) {
            let element = &window[(index - first) * words..][..words];
            for (word, new) in element.iter().zip(value.as_chunks().0) {
                word.store(u64::from_ne_bytes(*new), Ordering::Release);
            }
        }
        Ok(())
    }

    fn put_each(&self, keys: &[u8], values: &[u8], put: Put) -> io::Result<usize> {
        let pairs = keys
            .chunks_exact(self.key_len())
            .zip(values.chunks_exact(self.value_len));
        let mut calls = 0;
        for (key, value) in pairs {
            self.put(key, value, put)?;
            calls += 1;
        }
        Ok(calls)
    }

    pub fn put(&self, key: &[u8], value: &[u8], put: Put) -> io::Result<()> {
        if key.len() != self.key_len() || value.len() != self.value_len {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut attr = self.elem(key);
        attr.value = value.as_ptr() as u64;
        attr.flags = put as u64;
        // SAFETY: the kernel reads one key and one value, whose lengths were checked.
        unsafe { bpf(UPDATE, &mut attr) }.map(drop)
    }

    /// `None` if the key is absent.
    pub fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        if key.len() != self.key_len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut value = vec![0; self.value_len];
        let mut attr = self.elem(key);
        attr.value = value.as_mut_ptr() as u64;
        // SAFETY: the kernel reads one key and writes `value_len` bytes.
        match unsafe { bpf(LOOKUP, &mut attr) } {
            Ok(_) => Ok(Some(value)),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Deletes elements; those already gone are no error. Returns how many were there.
    pub fn delete_all(&self, keys: &[u8]) -> io::Result<usize> {
        let count = self.count(keys)?;
        let mut deleted = 0;
        let mut done = 0;
        while done < count {
            let n = BATCH.min(count - done);
            let k = &keys[done * self.key_len()..(done + n) * self.key_len()];
            let mut attr = self.batch(n, 0);
            attr.keys = k.as_ptr() as u64;
            // SAFETY: the kernel reads n keys, whose length was checked, and writes `attr.count`.
            match unsafe { bpf(DELETE_BATCH, &mut attr) } {
                Ok(_) => {
                    deleted += n;
                    done += n;
                }
                // The batch stops at the first absent key: step over it.
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {
                    let before = (attr.count as usize).min(n - 1);
                    deleted += before;
                    done += before + 1;
                }
                Err(e) if no_batches(&e) => {
                    for key in k.chunks_exact(self.key_len()) {
                        deleted += usize::from(self.delete(key)?);
                    }
                    done += n;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(deleted)
    }

    /// False if the key was absent.
    pub fn delete(&self, key: &[u8]) -> io::Result<bool> {
        if key.len() != self.key_len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: the kernel reads one key, whose length was checked.
        match unsafe { bpf(DELETE, &mut self.elem(key)) } {
            Ok(_) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Calls `f` with every element. Programs may change the map meanwhile: an element can then be
    /// seen twice or not at all.
    pub fn each(&self, mut f: impl FnMut(&[u8], &[u8])) -> io::Result<()> {
        let limit = BATCH.min(self.info.max_entries.max(1) as usize);
        let mut limit = limit.min((1 << 17) / self.value_len.max(1)).max(64);
        let mut keys = vec![0_u8; limit * self.key_len()];
        let mut values = vec![0_u8; limit * self.value_len];
        // The cursor is a bucket number (hashes) or a key.
        let mut cursor = vec![0_u8; self.key_len().max(8)];
        let mut next = cursor.clone();
        let mut first = true;
        loop {
            let mut attr = self.batch(limit, 0);
            attr.in_batch = if first { 0 } else { cursor.as_ptr() as u64 };
            attr.out_batch = next.as_mut_ptr() as u64;
            attr.keys = keys.as_mut_ptr() as u64;
            attr.values = values.as_mut_ptr() as u64;
            // SAFETY: keys and values have room for `count` elements, cursor and next for a key or
            // a bucket number; all outlive the call.
            let end = match unsafe { bpf(LOOKUP_BATCH, &mut attr) } {
                Ok(_) => false,
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => true,
                // One bucket holds more than fits: nothing was lost, ask again with more room.
                Err(e) if e.raw_os_error() == Some(libc::ENOSPC) && limit < 1 << 20 => {
                    limit *= 2;
                    keys.resize(limit * self.key_len(), 0);
                    values.resize(limit * self.value_len, 0);
                    continue;
                }
                Err(e) if first && no_batches(&e) => return self.each_singly(f),
                Err(e) => return Err(e),
            };
            let got = attr.count as usize;
            let pairs = keys
                .chunks_exact(self.key_len())
                .zip(values.chunks_exact(self.value_len));
            pairs.take(got).for_each(|(k, v)| f(k, v));
            if end {
                return Ok(());
            }
            std::mem::swap(&mut cursor, &mut next);
            first = false;
        }
    }

    fn each_singly(&self, mut f: impl FnMut(&[u8], &[u8])) -> io::Result<()> {
        self.each_key(|key| {
            if let Some(value) = self.get(key)? {
                f(key, &value);
            }
            Ok(())
        })
    }

    /// Calls `f` with every key, also of maps whose values user space cannot read.
    pub fn each_key(&self, mut f: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut key: Option<Vec<u8>> = None;
        // A key deleted under us starts the walk again, so bound it.
        for _ in 0..4 * u64::from(self.info.max_entries.max(1)) {
            let mut next = vec![0_u8; self.key_len()];
            let mut attr = Elem {
                map: self.fd.as_raw_fd() as u32,
                key: key.as_ref().map_or(0, |k| k.as_ptr() as u64),
                value: next.as_mut_ptr() as u64,
                ..Elem::default()
            };
            // SAFETY: key is null or one key; the kernel writes one key to `next`.
            match unsafe { bpf(NEXT_KEY, &mut attr) } {
                Ok(_) => {}
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(()),
                Err(e) => return Err(e),
            }
            f(&next)?;
            key = Some(next);
        }
        Err(io::Error::other(
            "the map changes faster than it can be read",
        ))
    }

    fn count(&self, keys: &[u8]) -> io::Result<usize> {
        match self.key_len() {
            0 => Err(io::ErrorKind::InvalidInput.into()),
            len if keys.len().is_multiple_of(len) => Ok(keys.len() / len),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    fn elem(&self, key: &[u8]) -> Elem {
        Elem {
            map: self.fd.as_raw_fd() as u32,
            key: key.as_ptr() as u64,
            ..Elem::default()
        }
    }

    fn batch(&self, count: usize, elem_flags: u64) -> Batch {
        Batch {
            map: self.fd.as_raw_fd() as u32,
            count: count as u32,
            elem_flags,
            ..Batch::default()
        }
    }
}

/// `ENOTSUPP` (524, not in libc): this map type has no batch operations; EINVAL: nor has the kernel.
fn no_batches(e: &io::Error) -> bool {
    matches!(
        e.raw_os_error(),
        Some(524 | libc::EINVAL | libc::EOPNOTSUPP)
    )
}
