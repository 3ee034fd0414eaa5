//! Capabilities: what the vendor keeps, and why.

use std::io;

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities,
};

/// A capability and what it is for.
#[derive(Clone, Copy, Debug)]
pub struct Needed {
    pub set: CapabilitySet,
    pub name: &'static str,
    pub why: &'static str,
}

/// Of the vendor. Its children keep the first one alone, workers keep none. The systemd unit has the same
/// list; without any one of them something fails (tests/tests/vend_caps.rs).
pub const NEEDED: [Needed; 6] = [
    Needed {
        set: CapabilitySet::SYS_ADMIN,
        name: "CAP_SYS_ADMIN",
        why: "enter the network namespaces of workloads (setns, in a tenant's child), make an empty one \
              for each worker (unshare)",
    },
    Needed {
        set: CapabilitySet::SETUID,
        name: "CAP_SETUID",
        why: "give each worker its own user id",
    },
    Needed {
        set: CapabilitySet::SETGID,
        name: "CAP_SETGID",
        why: "give each worker its own group id and no other group",
    },
    Needed {
        set: CapabilitySet::SETPCAP,
        name: "CAP_SETPCAP",
        why: "empty the bounding set of workers and children",
    },
    Needed {
        set: CapabilitySet::KILL,
        name: "CAP_KILL",
        why: "end a worker, which has another user id",
    },
    Needed {
        set: CapabilitySet::SYS_PTRACE,
        name: "CAP_SYS_PTRACE",
        why: "open the network namespace of a process of another user (/proc/PID/ns/net)",
    },
];

/// Of a tenant's child.
pub const CHILD: CapabilitySet = CapabilitySet::SYS_ADMIN;

/// The union of [`NEEDED`], but for one that a test takes away.
pub fn needed(without: Option<&str>) -> CapabilitySet {
    NEEDED
        .iter()
        .filter(|n| Some(n.name) != without)
        .fold(CapabilitySet::empty(), |all, n| all | n.set)
}

/// Names of those that the calling thread lacks.
///
/// # Errors
/// Of capget.
pub fn missing() -> io::Result<Vec<&'static str>> {
    let have = capabilities(None)?.effective;
    let lacks = |n: &&Needed| !have.contains(n.set);
    Ok(NEEDED.iter().filter(lacks).map(|n| n.name).collect())
}

/// Keeps only `wanted`, also in the bounding set. The process must have one thread.
///
/// # Errors
/// Of capset and prctl.
pub fn keep(wanted: CapabilitySet) -> io::Result<()> {
    clear_ambient_capability_set()?;
    let have = capabilities(None)?;
    // Without it the bounding set stays: no_new_privs lets nothing be gained from it.
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
