//! The allocator.

use libc::c_int;

/// Buffers from this size on are mapped, and unmapped when they are freed. While a mesh is read for the first
/// time: what stays in the heap leaves holes in which small ones settle (1.1 MiB with 10,000 endpoints).
const WHILE_READING: c_int = 32 << 10;
/// Later: mapping costs time whenever a change is laid out.
const LATER: c_int = 256 << 10;

/// Makes the allocator keep little of what is freed. By itself it raises both thresholds to the
/// largest buffer that was ever freed, and gives each thread an arena of its own; one is enough for
/// threads that seldom run at the same time. To be called before the first thread starts.
pub fn keep_little() {
    set(libc::M_ARENA_MAX, 1);
    set(libc::M_TRIM_THRESHOLD, LATER);
    set(libc::M_MMAP_THRESHOLD, WHILE_READING);
}

/// The mesh has been read.
pub fn has_read() {
    set(libc::M_MMAP_THRESHOLD, LATER);
}

fn set(setting: c_int, value: c_int) {
    // SAFETY: `mallopt` takes no pointer, and locks what it changes.
    unsafe { libc::mallopt(setting, value) };
}

/// Gives memory that is free, but scattered, back to the kernel: reading a large mesh needs much
/// more than keeping it.
pub fn give_back() {
    // SAFETY: `malloc_trim` takes no pointer and may be called at any time.
    unsafe { libc::malloc_trim(0) };
}
