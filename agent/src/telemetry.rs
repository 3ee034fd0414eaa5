//! Telemetry: rows of connections that ended or were refused, what the kernel says of open ones, and
//! sums per service. Everything here is pure; the control loop feeds it.

pub mod ended;
pub mod filter;
pub mod hash;
pub mod histogram;
pub mod labels;
pub mod reports;
pub mod row;
pub mod sums;
pub mod table;

use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use underpass_abi::tables::NameKind;

/// What indexes and addresses of a row mean; implemented over the table register by the control loop.
pub trait Names {
    /// The registered name, also of recently removed objects.
    fn name(&self, kind: NameKind, index: u32) -> Option<&str>;
}

impl Names for BTreeMap<(NameKind, u32), String> {
    fn name(&self, kind: NameKind, index: u32) -> Option<&str> {
        self.get(&(kind, index)).map(String::as_str)
    }
}

/// This node, for the fields that no socket knows.
#[derive(Clone, Debug, Default)]
pub struct Node {
    pub name: String,
    pub addresses: HashSet<IpAddr>,
    /// Workloads that are known by their network namespace, not by a cgroup.
    pub by_netns: HashSet<String>,
    /// `CLOCK_REALTIME` - `CLOCK_BOOTTIME`, in nanoseconds.
    pub boot_to_unix_ns: i64,
}

/// Strings that many rows share, kept once.
#[derive(Debug, Default)]
pub struct Interner {
    known: HashSet<Arc<str>>,
}

impl Interner {
    /// Strings kept before unused ones are removed.
    const SWEEP_AT: usize = 4096;

    pub fn get(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.known.get(text) {
            return known.clone();
        }
        if self.known.len() >= Self::SWEEP_AT && self.known.len().is_power_of_two() {
            self.known.retain(|s| Arc::strong_count(s) > 1);
        }
        let new: Arc<str> = text.into();
        self.known.insert(new.clone());
        new
    }
}
