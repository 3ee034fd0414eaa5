//! An array map's memory in this process, while many elements are written.

use std::{
    io,
    ops::{Deref, Range},
    os::fd::{AsRawFd, OwnedFd},
    ptr,
    sync::atomic::AtomicU64,
};

const WORD: usize = size_of::<u64>();

/// A part of a `BPF_F_MMAPABLE` array, as words. Unmapped when dropped: a mapping that stays would
/// count as the agent's memory.
pub struct Window {
    /// Of the mapping, and its bytes.
    base: *mut libc::c_void,
    len: usize,
    /// Words before the first that was asked for.
    skip: usize,
}

impl Window {
    /// Maps `words` of the array; the kernel refuses what is beyond its end.
    pub fn open(map: &OwnedFd, words: Range<usize>) -> io::Result<Self> {
        // SAFETY: plain call.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        let (start, end) = (words.start * WORD, words.end * WORD);
        let skipped = start % page;
        let len = end - start + skipped;
        // SAFETY: a fresh shared mapping at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                (start - skipped) as libc::off_t,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            base,
            len,
            skip: skipped / WORD,
        })
    }
}

impl Deref for Window {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: `len` bytes are mapped as long as `self` lives, page-aligned, and BPF programs and
        // other agents access them as words too.
        let words =
            unsafe { std::slice::from_raw_parts(self.base.cast::<AtomicU64>(), self.len / WORD) };
        &words[self.skip..]
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing refers to it any more.
        unsafe { libc::munmap(self.base, self.len) };
    }
}
