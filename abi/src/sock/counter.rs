//! Indexes into the per-CPU `COUNTERS` array.

/// Ring buffer full: rows lost, totals unaffected.
pub const EVENTS_LOST: u32 = 0;
/// `TOTALS` full: sums lost.
pub const TOTALS_FULL: u32 = 1;
/// `FLOWS` full: the source is unknown to the other end, which fails closed.
pub const FLOWS_FULL: u32 = 2;
/// No memory for per-socket state: connect refused.
pub const STORAGE_FAILED: u32 = 3;
pub const LISTENERS_FULL: u32 = 4;
/// Inbound connections whose state could not be kept: they are not rows.
pub const INBOUND_UNTRACKED: u32 = 5;
/// Values that belonged to another key by the time they were read.
pub const STALE_READS: u32 = 6;
/// Connects of kernel sockets, left alone.
pub const KERNEL_SOCKETS: u32 = 7;
/// Segments of connections that had ended.
pub const LATE_SEGMENTS: u32 = 8;
/// Messages that took the shortcut.
pub const SHORTCUT_TAKEN: u32 = 9;
/// From here on one for each code from `SHORTCUT_OFF` (220): connections that did not enter the
/// map, and messages of those in it that stayed on TCP.
pub const SHORTCUT_OFF: u32 = 10;
/// `ORIGINALS` full: the connection is refused at the worker's door.
pub const ORIGINALS_FULL: u32 = 29;
/// Connections that a worker accepted and whose original destination could not be kept: it closes them.
pub const ORIGINALS_LOST: u32 = 30;
/// A worker's listener for steered ports could not be noted: what is steered there is refused.
pub const DOORS_FULL: u32 = 31;
pub const COUNT: usize = 40;
pub const NAMES: [&str; 32] = [
    "events_lost",
    "totals_full",
    "flows_full",
    "storage_failed",
    "listeners_full",
    "inbound_untracked",
    "stale_reads",
    "kernel_sockets",
    "late_segments",
    "shortcut_taken",
    "shortcut_off",
    "shortcut_not_listed",
    "shortcut_not_local",
    "shortcut_listener_unknown",
    "shortcut_blocking",
    "shortcut_splices",
    "shortcut_socket",
    "shortcut_late",
    "shortcut_full",
    "shortcut_unpaired",
    "shortcut_closing",
    "shortcut_unread",
    "shortcut_queue_full",
    "shortcut_node_memory",
    "shortcut_no_verdict",
    "shortcut_unwatched",
    "shortcut_small_writes",
    "shortcut_overflows",
    "shortcut_short",
    "originals_full",
    "originals_lost",
    "doors_full",
];
