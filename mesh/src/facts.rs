//! What only the node knows: the agent finds it, the compiler needs it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    str::FromStr,
};

use crate::Str;

/// What decides about an enrolled workload that no policy selects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DefaultPolicy {
    #[default]
    Allow,
    Deny,
    Audit,
}

impl FromStr for DefaultPolicy {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "allow" => Ok(Self::Allow),
            "deny" => Ok(Self::Deny),
            "audit" => Ok(Self::Audit),
            other => Err(format!("`{other}` is none of allow, deny, audit")),
        }
    }
}

/// A cgroup2 directory of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cgroup {
    /// cgroup id (inode number).
    pub id: u64,
    /// Levels below the cgroup2 root, 1 to 15.
    pub level: u32,
}

/// Where a workload was found on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub cgroups: Vec<Cgroup>,
    /// Cookie of its network namespace; `None` while unknown. For a workload in the node's own
    /// namespace: [`Facts::host_netns`].
    pub netns: Option<u64>,
}

/// The node, as found at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    pub node: String,
    pub default_policy: DefaultPolicy,
    /// Cookie of the node's own network namespace.
    pub host_netns: u64,
    /// The node's own addresses, without loopback.
    pub addresses: Vec<IpAddr>,
    /// By `namespace/name` of the workload; one that is not here yet was not found.
    pub places: BTreeMap<Str, Place>,
    /// Workloads (`namespace/name`) in whose network namespace the worker listens, on both ports of
    /// `abi::tables::door`.
    pub doors: BTreeSet<Str>,
}
