//! What workers dialed in their workloads' place: apart, so that no sum counts a byte twice.

use super::Column;

pub const COUNTERS: [Column; 5] = [
    (
        "underpass_leg_open",
        "Connections of workers that were established.",
        |s| s.opened,
    ),
    (
        "underpass_leg_close",
        "Connections of workers that ended.",
        |s| s.closed,
    ),
    (
        "underpass_leg_refused",
        "Connects of workers that were denied, refused or never established.",
        |s| s.refused,
    ),
    (
        "underpass_leg_read_bytes",
        "Payload that workers read from endpoints.",
        |s| s.received,
    ),
    (
        "underpass_leg_write_bytes",
        "Payload that workers sent to endpoints.",
        |s| s.sent,
    ),
];
