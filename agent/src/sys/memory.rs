//! The allocator.

use libc::c_int;

/// Makes the allocator keep little of what is freed. By itself it raises both thresholds to the
/// largest buffer that was ever freed, and gives each thread an arena of its own; one is enough for
/// threads that seldom run at the same time. To be called before the first thread starts.
pub fn keep_little() {
    /// Larger ones are mapped, and unmapped when they are freed.
    const LARGE: c_int = 256 << 10;
    for (setting, value) in [
        (libc::M_ARENA_MAX, 1),
        (libc::M_MMAP_THRESHOLD, LARGE),
        (libc::M_TRIM_THRESHOLD, LARGE),
    ] {
        // SAFETY: `mallopt` takes no pointer; no other thread allocates yet.
        unsafe { libc::mallopt(setting, value) };
    }
}

/// Gives memory that is free, but scattered, back to the kernel: reading a large mesh needs much
/// more than keeping it.
pub fn give_back() {
    // SAFETY: `malloc_trim` takes no pointer and may be called at any time.
    unsafe { libc::malloc_trim(0) };
}
