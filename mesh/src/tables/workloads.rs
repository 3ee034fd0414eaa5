//! Workloads by index (`IDENTITIES`, `WORKLOADS`, `HOMES`) and how programs find them
//! (`CGROUPS`, `NETNS`, `ADDRESSES`).

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::Hash,
};

use underpass_abi::{
    Ip,
    plain::{Plain, bytes},
    shortcut::Mode,
    tables::{AddressWord, Entry, IdentityPair, limits, maps},
    verdict::subject,
};

use super::{TablesError, change::Writer, names::Names, services::Services};
use crate::plan::World;

/// What is in the arrays at an index. It stays there when the workload is removed: a run that still
/// holds the index must judge as before, and nobody else can come by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Row {
    pub identity: IdentityPair,
    pub word: u64,
    pub home: u64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Workloads {
    /// By index.
    pub rows: Vec<Row>,
    pub cgroups: HashMap<u64, u32>,
    pub netns: HashMap<u64, u32>,
    pub addresses: HashMap<Ip, u32>,
    /// Indexes by position in the last world.
    pub index_of: Box<[u32]>,
}

impl Workloads {
    /// Indexes that programs can come by.
    pub(super) fn reachable(&self, services: &Services) -> HashSet<u32> {
        let Self {
            cgroups,
            netns,
            addresses,
            ..
        } = self;
        let addresses = addresses.values().map(|w| AddressWord(*w).workload());
        let entries = cgroups.values().chain(netns.values()).copied();
        let backends = services.rows.values().flat_map(|row| &row.backends);
        let behind = backends.map(|b| services.backends[*b as usize].0.workload);
        entries
            .chain(addresses)
            .chain(behind)
            .filter(|w| *w != 0)
            .collect()
    }

    /// `tables`: policy tables by position of the world's sets. `reachable`: before this change.
    pub(super) fn lay_out(
        &mut self,
        world: &World,
        tables: &[u32],
        reachable: &HashSet<u32>,
        names: &mut Names,
        out: &mut Writer,
    ) -> Result<(), TablesError> {
        names.workloads.begin_pass();
        let mut index_of = Vec::with_capacity(world.workloads.len());
        let mut name = String::new();
        for workload in &world.workloads {
            // One index for one name and identity: whoever gets another identity gets another index.
            name.clear();
            name.extend([&workload.full_name, " ", &*workload.identity]);
            let index = names.workloads.ask(&name)?;
            let identity = names.identities.ask(&workload.identity)?;
            let namespace = names.namespaces.ask(&workload.namespace)?;
            let row = Row {
                identity: IdentityPair {
                    identity: subject::identity(identity),
                    namespace: subject::namespace(namespace),
                },
                // A word of 0 says that the workload is not in the mesh.
                word: match workload.enrolled() {
                    true => {
                        let mode = workload.shortcut.map_or(0, |m| m as u64);
                        u64::from(tables[workload.policies as usize]) | mode << Mode::SHIFT
                    }
                    false => 0,
                },
                home: workload.netns,
            };
            self.row(index, reachable.contains(&index), row, out);
            index_of.push(index);
        }
        names.workloads.sweep();
        names.identities.sweep();
        names.namespaces.sweep();
        names.policies.sweep();
        self.index_of = index_of.into();
        self.entry_points(world, out)
    }

    /// What programs can come by changes by words. All else is written before the entry points that
    /// lead to it: also a workload that had none until now.
    fn row(&mut self, index: u32, reachable: bool, new: Row, out: &mut Writer) {
        let at = index as usize;
        if self.rows.len() <= at {
            self.rows.resize(at + 1, Row::default());
        }
        let old = std::mem::replace(&mut self.rows[at], new);
        // An index keeps its identity; it differs only where it is new, or where a crash left it half
        // written, before anything referred to it.
        if old.identity != new.identity {
            out.fresh(maps::IDENTITIES, &index, &new.identity);
        }
        for (map, old, new) in [
            (maps::HOMES, old.home, new.home),
            (maps::WORKLOADS, old.word, new.word),
        ] {
            if old == new {
                continue;
            }
            if reachable {
                out.word(map, index, new);
            } else {
                out.fresh(map, &index, &new);
            }
        }
    }

    fn entry_points(&mut self, world: &World, out: &mut Writer) -> Result<(), TablesError> {
        let index_of = &self.index_of;
        let index = |position: u32| index_of[position as usize];
        let addresses = world.addresses.iter().map(|(ip, owner)| {
            let local = if owner.local { AddressWord::LOCAL } else { 0 };
            let shared = if owner.shared { AddressWord::SHARED } else { 0 };
            (
                *ip,
                AddressWord::new(owner.workload.map_or(0, index), local | shared).0,
            )
        });
        let netns = world
            .netns
            .iter()
            .map(|(c, owner)| (*c, owner.map_or(0, index)));
        let cgroups = world.cgroups.iter().map(|(id, owner)| (*id, index(*owner)));
        entries(
            maps::ADDRESSES,
            limits::ADDRESSES,
            &mut self.addresses,
            addresses,
            out,
        )?;
        entries(maps::NETNS, limits::NETNS, &mut self.netns, netns, out)?;
        entries(
            maps::CGROUPS,
            limits::WORKLOADS,
            &mut self.cgroups,
            cgroups,
            out,
        )
    }

    /// The bits of `SETTINGS[CGROUP_LEVELS]`.
    pub(super) fn levels(world: &World) -> u64 {
        let all = world.workloads.iter().flat_map(|w| &w.cgroups);
        all.fold(0, |bits, c| bits | 1 << c.level)
    }
}

/// Makes a hash's pairs these.
fn entries<K: Plain + Hash + Ord>(
    map: &'static str,
    limit: usize,
    installed: &mut HashMap<K, u32>,
    wanted: impl Iterator<Item = (K, u32)>,
    out: &mut Writer,
) -> Result<(), TablesError> {
    let mut keys = HashSet::with_capacity(installed.len());
    for (key, word) in wanted {
        keys.insert(key);
        match installed.insert(key, word) {
            None => out.fresh(map, &key, &Entry::new(word)),
            Some(old) if old != word => out.entry(map, &key, word),
            Some(_) => {}
        }
    }
    // What is to go is there until the end of the change.
    if installed.len() > limit {
        return Err(TablesError::Limit {
            what: map,
            need: installed.len(),
            limit,
        });
    }
    if installed.len() > keys.len() {
        let gone: BTreeMap<K, ()> = installed
            .keys()
            .filter(|k| !keys.contains(k))
            .map(|k| (*k, ()))
            .collect();
        for key in gone.keys() {
            installed.remove(key);
            out.stale(map, bytes(key));
        }
    }
    Ok(())
}
