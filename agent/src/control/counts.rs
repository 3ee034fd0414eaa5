//! What the loop counts, for `status` and `/metrics`.

/// The loop's own counters.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Connections that a policy change ended.
    pub destroyed: u64,
    /// Connections that a policy change denies and that could not be ended.
    pub not_destroyed: u64,
    pub plans_failed: u64,
    /// Connections that ended because a program spliced from a socket in the shortcut.
    pub shortcut_resets: u64,
    pub shortcut_resets_failed: u64,
    /// Connections older than the mesh that were too many to follow.
    pub older_left_out: u64,
}
