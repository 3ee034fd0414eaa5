//! Where a `Workload` object says that it is found.

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
