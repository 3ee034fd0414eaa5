//! The allocator.

/// Gives memory that is free, but scattered, back to the kernel: reading a large mesh needs much
/// more than keeping it.
pub fn give_back() {
    // SAFETY: `malloc_trim` takes no pointer and may be called at any time.
    unsafe { libc::malloc_trim(0) };
}
