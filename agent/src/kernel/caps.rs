//! Capabilities: what the agent keeps after its start, and why.

use std::io;

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};
use underpass_abi::reason::code;

use super::KernelError;

/// A capability and what it is for.
#[derive(Clone, Copy, Debug)]
pub struct Needed {
    pub set: CapabilitySet,
    pub name: &'static str,
    pub why: &'static str,
}

/// Each was taken away alone, and something failed (`tests/capabilities.rs`). CAP_BPF and CAP_PERFMON
/// are not here because the kernel takes CAP_SYS_ADMIN for both, and nothing less lets a process enter
/// another network namespace. The systemd unit has the same list.
pub const NEEDED: [Needed; 3] = [
    Needed {
        set: CapabilitySet::NET_ADMIN,
        name: "CAP_NET_ADMIN",
        why: "end connections that a changed policy denies (SOCK_DESTROY)",
    },
    Needed {
        set: CapabilitySet::SYS_ADMIN,
        name: "CAP_SYS_ADMIN",
        why: "enter the network namespaces of workloads (setns), find links by id; the kernel also \
              takes it for CAP_BPF and CAP_PERFMON: load, attach and replace programs, write maps",
    },
    Needed {
        set: CapabilitySet::SYS_PTRACE,
        name: "CAP_SYS_PTRACE",
        why: "look at the network namespace of a process of another user (/proc/PID/ns/net)",
    },
];

/// The union of [`NEEDED`].
pub fn needed() -> CapabilitySet {
    NEEDED
        .iter()
        .fold(CapabilitySet::empty(), |all, n| all | n.set)
}

/// Fails with the names of those that the calling thread does not have.
pub fn require() -> Result<(), KernelError> {
    let have = capabilities(None)
        .map_err(|e| KernelError::io(code::NO_BPF_CAPABILITY, "capget")(e.into()))?
        .effective;
    let missing: Vec<&str> = NEEDED
        .iter()
        .filter(|n| !have.contains(n.set))
        .map(|n| n.name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(KernelError::new(
        code::NO_BPF_CAPABILITY,
        format!("missing {}", missing.join(" ")),
    ))
}

/// Drops every other capability, for good. Capabilities belong to threads: call it before the first
/// thread is started, after `Kernel::open` (mounting a bpffs and making directories need more).
pub fn drop_others() -> io::Result<()> {
    keep(needed())
}

/// Keeps only `wanted`.
pub fn keep(wanted: CapabilitySet) -> io::Result<()> {
    set_no_new_privs(true)?;
    clear_ambient_capability_set()?;
    let have = capabilities(None)?;
    // Without CAP_SETPCAP the bounding set stays: with no_new_privs nothing can be gained from it.
    if have.effective.contains(CapabilitySet::SETPCAP) {
        for bit in (0..=LAST).filter_map(|n| CapabilitySet::from_bits(1 << n)) {
            if !wanted.contains(bit) {
                // EINVAL: newer than this kernel.
                let _ = remove_capability_from_bounding_set(bit);
            }
        }
    }
    let keep = have.permitted & wanted;
    set_capabilities(
        None,
        CapabilitySets {
            effective: keep,
            permitted: keep,
            inheritable: CapabilitySet::empty(),
        },
    )?;
    Ok(())
}

/// CAP_CHECKPOINT_RESTORE
const LAST: u32 = 40;
