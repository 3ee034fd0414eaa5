//! The register index ↔ name of what plans mention. Removed objects keep their name until the index
//! is used again, so that open connections can still be named.

use std::collections::HashMap;

use underpass_abi::{
    tables::{NAME_LEN, NameKind},
    verdict::subject,
};

use super::indexes::Indexes;
use crate::Str;

/// Bounds of the registers that have no map of their own; with workloads and services they fill
/// `NAMES`.
pub const IDENTITIES_MAX: usize = 12_288;
pub const NAMESPACES_MAX: usize = 2_048;
pub const POLICIES_MAX: usize = 2_048;

/// One kind's register.
#[derive(Clone, Debug, Default)]
pub(crate) struct Register {
    by_index: Vec<Option<Str>>,
    by_name: HashMap<Str, u32>,
    pub(crate) indexes: Indexes,
}

/// Names by index, of all kinds.
#[derive(Clone, Debug)]
pub struct Names {
    pub(crate) workloads: Register,
    /// Services: several indexes may have one name (one for each address family).
    pub(crate) services: Register,
    pub(crate) identities: Register,
    pub(crate) namespaces: Register,
    pub(crate) policies: Register,
}

impl Names {
    /// The name of an index, also if its object was removed not long ago.
    pub fn get(&self, kind: NameKind, index: u32) -> Option<&str> {
        self.register(kind).get(index).map(|s| &**s)
    }

    /// The index of a name; of a service with two families, one of them.
    pub fn find(&self, kind: NameKind, name: &str) -> Option<u32> {
        self.register(kind).find(name)
    }

    /// All names of a kind, by index.
    pub fn iter(&self, kind: NameKind) -> impl Iterator<Item = (u32, &str)> {
        let all = self.register(kind).by_index.iter().enumerate();
        all.filter_map(|(i, name)| Some((i as u32, &**name.as_ref()?)))
    }

    fn register(&self, kind: NameKind) -> &Register {
        match kind {
            NameKind::Workload => &self.workloads,
            NameKind::Service => &self.services,
            NameKind::Identity => &self.identities,
            NameKind::Namespace => &self.namespaces,
            NameKind::Policy => &self.policies,
        }
    }
}

impl Register {
    pub(crate) fn get(&self, index: u32) -> Option<&Str> {
        self.by_index.get(index as usize)?.as_ref()
    }

    pub(crate) fn find(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied()
    }
}
