//! The agent's only unsafe code: system calls that rustix and aya do not wrap, behind safe functions.
#![allow(unsafe_code)]

pub mod bpf;
pub mod info;
pub mod maps;
pub mod memory;
pub mod net;
pub mod tracing;

/// A value as the kernel wants it in `bpf_attr` and netlink messages: plain bytes, padding written
/// out.
///
/// # Safety
/// `repr(C)`, integers only, no padding.
pub(crate) unsafe trait Raw: Copy {}
