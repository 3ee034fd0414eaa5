//! The BPF programs of Underpass: one file per hook, helpers beside them. All state is in the maps
//! of `maps.rs`; the contract with user space is the `abi` crate.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
// For `flow.rs`: the BPF target has no compare-and-swap in its `AtomicU64`, the instruction set has.
#![cfg_attr(
    target_arch = "bpf",
    feature(core_intrinsics),
    allow(internal_features)
)]

/// On the host this crate is empty; `cargo xtask build-ebpf` compiles it for the kernel.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
mod authorize;
#[cfg(target_arch = "bpf")]
mod connect;
#[cfg(target_arch = "bpf")]
mod door;
#[cfg(target_arch = "bpf")]
mod flow;
#[cfg(target_arch = "bpf")]
mod getsockopt;
#[cfg(target_arch = "bpf")]
mod iter_candidates;
#[cfg(target_arch = "bpf")]
mod iter_ends;
#[cfg(target_arch = "bpf")]
mod iter_socks;
#[cfg(target_arch = "bpf")]
mod kernel;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod peername;
#[cfg(target_arch = "bpf")]
mod record;
#[cfg(target_arch = "bpf")]
mod service;
#[cfg(target_arch = "bpf")]
mod shortcut;
#[cfg(target_arch = "bpf")]
mod sk_lookup;
#[cfg(target_arch = "bpf")]
mod sk_msg;
#[cfg(target_arch = "bpf")]
mod sk_skb;
#[cfg(target_arch = "bpf")]
mod sock_ops;
#[cfg(target_arch = "bpf")]
mod sock_release;
mod socket;
#[cfg(target_arch = "bpf")]
mod splice;
#[cfg(target_arch = "bpf")]
mod splice_guard;
#[cfg(target_arch = "bpf")]
mod udp;
#[cfg(target_arch = "bpf")]
mod workload;

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The crate is `Apache-2.0 OR GPL-2.0-only`; the kernel gives GPL-only helpers
/// (`bpf_probe_read_kernel`, …) to programs that name a license of its own list.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 7] = *b"GPL v2\0";
