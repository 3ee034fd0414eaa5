//! Where workloads of this node are found: the compiler's question to the agent.

use crate::Str;

/// Where a workload of this node is found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Locator {
    /// Path below the cgroup2 root, without a leading slash.
    Cgroup(Str),
    Netns(NetnsRef),
    /// As `web.service`.
    SystemdUnit(Str),
}

/// A network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NetnsRef {
    /// A file that refers to it, as `/run/netns/web`.
    Path(Str),
    /// A process in it.
    Pid(u32),
}

/// A workload that the agent must find on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// `namespace/name`; the key of [`Facts::places`].
    pub full_name: Str,
    pub locator: Locator,
    /// In the mesh: its namespace needs a guard.
    pub enrolled: bool,
}
