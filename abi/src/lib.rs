//! The contract between the BPF programs and user space: map keys and values, per-socket state,
//! events, limits and reason codes. `no_std`, no dependency but (for user space) aya's `Pod` marker.
#![no_std]

pub mod addr;
pub mod plain;
pub mod reason;
pub mod shortcut;
pub mod sock;
pub mod tables;
pub mod verdict;
pub mod worker;

pub use addr::Ip;

/// Version of everything in this crate; part of the pin directory's path. Two agents with the same
/// version can adopt each other's maps.
pub const VERSION: u32 = 5;
