//! The register index ↔ name of what plans mention. Removed objects keep their name until the index
//! is used again, so that open connections can still be named.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    hash::{BuildHasher, RandomState},
};

use hashbrown::HashTable;

use underpass_abi::tables::{
    NAME_LEN, NAMES_PAGE, NAMES_PER_PAGE, NameKey, NameKind, limits, maps,
};

use super::{TablesError, change::Writer, indexes::Indexes};
use crate::Str;

/// Bounds of the registers that have no map of their own; with workloads and services they fill
/// `NAMES`.
pub const IDENTITIES_MAX: usize = 12_288;
pub const NAMESPACES_MAX: usize = 2_048;
pub const POLICIES_MAX: usize = 2_048;

const fn pages(indexes: usize) -> usize {
    indexes.div_ceil(NAMES_PER_PAGE)
}

const _: () = assert!(
    pages(limits::WORKLOADS)
        + pages(limits::SERVICES)
        + pages(IDENTITIES_MAX)
        + pages(NAMESPACES_MAX)
        + pages(POLICIES_MAX)
        <= limits::NAMES
);

/// Names by index, of all kinds.
#[derive(Clone, Debug)]
pub struct Names {
    pub(super) workloads: Register,
    /// A service has an index for each of its ports and addresses, so that two families have one
    /// name.
    pub(super) services: Register,
    pub(super) identities: Register,
    pub(super) namespaces: Register,
    pub(super) policies: Register,
}

impl Names {
    pub(super) fn empty() -> Self {
        use NameKind::*;
        Self {
            workloads: Register::new(Workload, "WORKLOADS", limits::WORKLOADS),
            services: Register::new(Service, "SERVICES", limits::SERVICES),
            identities: Register::new(Identity, "identities", IDENTITIES_MAX),
            namespaces: Register::new(Namespace, "namespaces", NAMESPACES_MAX),
            policies: Register::new(Policy, "policies", POLICIES_MAX),
        }
    }

    /// The name of an index, also if its object was removed not long ago.
    pub fn get(&self, kind: NameKind, index: impl Into<u32>) -> Option<&str> {
        self.register(kind).get(index.into()).map(|s| &**s)
    }

    /// The index of a name; of a service with two addresses, one of them.
    pub fn find(&self, kind: NameKind, name: &str) -> Option<u32> {
        self.register(kind).find(&cut(name))
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

    pub(super) fn all_mut(&mut self) -> [&mut Register; 5] {
        let Self {
            workloads,
            services,
            identities,
            namespaces,
            policies,
        } = self;
        [workloads, services, identities, namespaces, policies]
    }

    /// Writes the names that were given since the last change.
    pub(super) fn write(&mut self, out: &mut Writer) {
        for register in self.all_mut() {
            register.write(out);
        }
    }

    /// True if there are such.
    pub(super) fn wants_write(&self) -> bool {
        self.all().iter().any(|r| !r.changed.is_empty())
    }

    /// True if something was freed by the last change.
    pub(super) fn wants_begin(&self) -> bool {
        self.all().iter().any(|r| r.indexes.wants_begin())
    }

    fn all(&self) -> [&Register; 5] {
        let Self {
            workloads,
            services,
            identities,
            namespaces,
            policies,
        } = self;
        [workloads, services, identities, namespaces, policies]
    }
}

/// One kind's register.
#[derive(Clone, Debug)]
pub(super) struct Register {
    kind: NameKind,
    by_index: Vec<Option<Str>>,
    /// By the hash of the name; of two indexes with one name, the later.
    by_name: HashTable<u32>,
    hasher: RandomState,
    /// The pass in which each index was last asked for; 0: it is free.
    seen: Vec<u32>,
    pass: u32,
    /// Pages with names that are to be written.
    changed: BTreeSet<u32>,
    pub(super) indexes: Indexes,
}

impl Register {
    fn new(kind: NameKind, what: &'static str, limit: usize) -> Self {
        let indexes = Indexes::new(what, limit);
        let (by_index, seen) = (Vec::new(), Vec::new());
        Self {
            kind,
            by_index,
            by_name: HashTable::new(),
            hasher: RandomState::new(),
            seen,
            pass: 1,
            changed: BTreeSet::new(),
            indexes,
        }
    }

    pub(super) fn get(&self, index: u32) -> Option<&Str> {
        self.by_index.get(index as usize)?.as_ref()
    }

    /// Begins a pass: what is not asked for until `sweep` is freed there.
    pub(super) fn begin_pass(&mut self) {
        self.pass += 1;
    }

    /// Makes room for so many names at once.
    pub(super) fn reserve(&mut self, names: usize) {
        let more = (names + 1).saturating_sub(self.by_index.len());
        self.by_index.reserve_exact(more);
        self.seen.reserve_exact(more);
        let text = |i: &u32| self.by_index[*i as usize].as_deref().unwrap_or_default();
        self.by_name
            .reserve(more, |i| self.hasher.hash_one(text(i)));
    }

    /// The index of a name: its own, also if it was removed not long ago, else a fresh one.
    pub(super) fn ask(&mut self, name: &str) -> Result<u32, TablesError> {
        self.ask_as(name, || name.into())
    }

    /// The same for a name that is shared with the plan.
    pub(super) fn ask_shared(&mut self, name: &Str) -> Result<u32, TablesError> {
        self.ask_as(name, || name.clone())
    }

    fn ask_as(&mut self, name: &str, keep: impl FnOnce() -> Str) -> Result<u32, TablesError> {
        let cut = cut(name);
        if let Some(index) = self.find(&cut) {
            let seen = &mut self.seen[index as usize];
            let was_free = std::mem::replace(seen, self.pass) == 0;
            if !was_free || self.indexes.revive(index) {
                return Ok(index);
            }
            // Freed by this very change: somebody may still hold it.
            *seen = 0;
        }
        let index = self.indexes.take()?;
        let name = match cut {
            Cow::Borrowed(_) => keep(),
            Cow::Owned(cut) => cut.into(),
        };
        self.name(index, name);
        self.seen[index as usize] = self.pass;
        Ok(index)
    }

    /// Frees what this pass has not asked for.
    pub(super) fn sweep(&mut self) {
        for index in 1..self.seen.len() {
            if self.seen[index] != 0 && self.seen[index] != self.pass {
                self.release(index as u32);
            }
        }
    }

    /// A fresh index without a name.
    pub(super) fn take(&mut self) -> Result<u32, TablesError> {
        let index = self.indexes.take()?;
        self.grow(index);
        self.seen[index as usize] = self.pass;
        Ok(index)
    }

    /// Frees an index; it keeps its name.
    pub(super) fn release(&mut self, index: u32) {
        self.seen[index as usize] = 0;
        self.indexes.free(index);
    }

    /// Names an index, if that is not its name already.
    pub(super) fn name(&mut self, index: u32, name: Str) {
        let name = match cut(&name) {
            Cow::Borrowed(_) => name,
            Cow::Owned(cut) => cut.into(),
        };
        if self.get(index) != Some(&name) {
            self.adopt(index, name);
            self.changed.insert(index / NAMES_PER_PAGE as u32);
        }
    }

    fn write(&mut self, out: &mut Writer) {
        for page in std::mem::take(&mut self.changed) {
            let mut value = [0; NAMES_PAGE];
            let names = self.by_index.iter().skip(page as usize * NAMES_PER_PAGE);
            for (place, name) in value.as_chunks_mut::<NAME_LEN>().0.iter_mut().zip(names) {
                if let Some(name) = name {
                    place[..name.len()].copy_from_slice(name.as_bytes());
                }
            }
            let kind = self.kind as u32;
            out.fresh(maps::NAMES, &NameKey { kind, page }, &value);
        }
    }

    /// Sets a name that the register in the kernel has.
    pub(super) fn adopt(&mut self, index: u32, name: Str) {
        self.grow(index);
        if let Some(old) = self.by_index[index as usize].take() {
            let hash = self.hasher.hash_one(&*old);
            if let Ok(entry) = self.by_name.find_entry(hash, |i| *i == index) {
                entry.remove();
            }
        }
        let hash = self.hasher.hash_one(&*name);
        let named = |i: &u32| self.by_index[*i as usize].as_ref() == Some(&name);
        match self.by_name.find_mut(hash, named) {
            Some(other) => *other = index,
            None => {
                let names = &self.by_index;
                let text = |i: &u32| names[*i as usize].as_deref().unwrap_or_default();
                let hash_of = |i: &u32| self.hasher.hash_one(text(i));
                self.by_name.insert_unique(hash, index, hash_of);
            }
        }
        self.by_index[index as usize] = Some(name);
    }

    fn find(&self, name: &str) -> Option<u32> {
        let named = |i: &u32| self.by_index[*i as usize].as_deref() == Some(name);
        let hash = self.hasher.hash_one(name);
        self.by_name.find(hash, named).copied()
    }

    /// Indexes that have a name.
    pub(super) fn named(&self) -> impl Iterator<Item = u32> {
        let all = self.by_index.iter().enumerate();
        all.filter_map(|(i, name)| name.as_ref().map(|_| i as u32))
    }

    /// After a restart: these indexes are in use.
    pub(super) fn adopt_used(&mut self, is_used: impl Fn(u32) -> bool) {
        let highest = self.by_index.len().saturating_sub(1) as u32;
        for index in 1..=highest {
            self.seen[index as usize] = if is_used(index) { self.pass } else { 0 };
        }
        self.indexes.adopt(is_used, highest);
    }

    /// After a restart: this index exists, maybe without a name.
    pub(super) fn grow(&mut self, index: u32) {
        if self.by_index.len() <= index as usize {
            self.by_index.resize(index as usize + 1, None);
            self.seen.resize(index as usize + 1, 0);
        }
    }
}

/// A name as the register holds it: one that is too long ends in a hash of the whole.
pub(super) fn cut(name: &str) -> Cow<'_, str> {
    if name.len() <= NAME_LEN {
        return name.into();
    }
    // FNV-1a: it only has to tell names apart, and to stay the same.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    });
    let end = (0..=NAME_LEN - 17)
        .rev()
        .find(|i| name.is_char_boundary(*i))
        .unwrap_or(0);
    format!("{}~{hash:016x}", &name[..end]).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_cut_and_still_differ() {
        let a = format!("{}a", "x".repeat(300));
        let b = format!("{}b", "x".repeat(300));
        assert_eq!(cut(&a).len(), NAME_LEN);
        assert_ne!(cut(&a), cut(&b));
        assert_eq!(cut("shop/web"), "shop/web");
    }

    #[test]
    fn a_removed_name_comes_back_under_its_index() {
        let mut names = Register::new(NameKind::Workload, "WORKLOADS", 8);
        let web = names.ask("web").unwrap();
        names.begin_pass();
        let ledger = names.ask("ledger").unwrap();
        names.sweep();
        assert_ne!(ledger, web);
        assert_eq!(names.get(web).unwrap(), "web");
        names.indexes.begin();
        assert_eq!(names.ask("web").unwrap(), web);
    }
}
