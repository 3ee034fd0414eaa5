//! Workloads by index (`IDENTITIES`, `WORKLOADS`, `HOMES`) and how programs find them
//! (`CGROUPS`, `NETNS`, `ADDRESSES`).

use underpass_abi::{
    Ip,
    plain::{Plain, bytes},
    shortcut::Mode,
    tables::{
        AddressWord, Entry, IdentityPair, OwnAddresses, SteerKey, limits, maps, workload as bits,
    },
    verdict::subject,
};

use super::{TablesError, change::Writer, names::Names, services::Services};
use crate::plan::{Workload, World};

/// What is in the arrays at an index. It stays there when the workload is removed: a run that still
/// holds the index must judge as before, and nobody else can come by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Row {
    pub identity: IdentityPair,
    pub word: u64,
    pub home: u64,
    pub own: OwnAddresses,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Workloads {
    /// By index.
    pub rows: Vec<Row>,
    // Keys and words of the hashes, sorted.
    pub cgroups: Vec<(u64, u32)>,
    pub netns: Vec<(u64, u32)>,
    pub addresses: Vec<(Ip, u32)>,
    pub steered: Vec<(SteerKey, u32)>,
    /// Indexes by position in the last world.
    pub index_of: Box<[u32]>,
}

impl Workloads {
    /// For each index, whether programs can come by it.
    pub(super) fn reachable(&self, services: &Services) -> Vec<bool> {
        let mut reachable = vec![false; limits::WORKLOADS];
        let places = self.cgroups.iter().chain(&self.netns).map(|(_, w)| *w);
        let addresses = self.addresses.iter();
        let addresses = addresses.map(|(_, w)| AddressWord(*w).workload());
        let backends = services.rows.values().flat_map(|row| &row.backends);
        let behind = backends.map(|b| services.backends[*b as usize].0.workload);
        for workload in places.chain(addresses).chain(behind) {
            if let Some(entry) = reachable.get_mut(workload as usize) {
                *entry = workload != 0;
            }
        }
        reachable
    }

    /// `tables`: policy tables by position of the world's sets. `reachable`: before this change.
    pub(super) fn lay_out(
        &mut self,
        world: &World,
        tables: &[u32],
        reachable: &[bool],
        names: &mut Names,
        out: &mut Writer,
    ) -> Result<(), TablesError> {
        names.workloads.begin_pass();
        names.workloads.reserve(world.workloads.len());
        let more = (world.workloads.len() + 1).saturating_sub(self.rows.len());
        self.rows.reserve_exact(more);
        let mut index_of = Vec::with_capacity(world.workloads.len());
        let mut name = String::new();
        for workload in &world.workloads {
            // One index for one name and identity: whoever gets another identity gets another index.
            name.clear();
            name.extend([&workload.full_name, " ", &*workload.identity]);
            let index = names.workloads.ask(&name)?;
            let identity = names.identities.ask_shared(&workload.identity)?;
            let namespace = names.namespaces.ask(workload.namespace())?;
            let row = Row {
                identity: IdentityPair {
                    identity: subject::identity(identity),
                    namespace: subject::namespace(namespace),
                },
                word: word(workload, tables),
                home: workload.netns(),
                own: own_addresses(workload),
            };
            self.row(index, reachable[index as usize], row, out);
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
        // Before the word, which says that there is a door there.
        if old.own != new.own {
            if reachable {
                out.own(index, &new.own);
            } else {
                out.fresh(maps::OWN, &index, &new.own);
            }
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
            let workload = owner.workload.map_or(0, index);
            (*ip, AddressWord::new(workload, local | shared).0)
        });
        let netns = world.netns.iter();
        let netns = netns.map(|(cookie, owner)| (*cookie, owner.map_or(0, index)));
        let cgroups = world.cgroups.iter();
        let cgroups = cgroups.map(|(id, owner)| (*id, index(*owner)));
        let mut steered: Vec<(SteerKey, u32)> = Vec::new();
        for (workload, index) in world.workloads.iter().zip(index_of) {
            let key = |port| SteerKey {
                workload: *index,
                port,
                pad: 0,
            };
            let inbound = workload.inbound.iter().filter(|_| is_steered(workload));
            steered.extend(inbound.map(|i| (key(i.port), 1)));
        }
        steered.sort_unstable();
        steered.dedup();
        let addresses = addresses.collect();
        let (netns, cgroups) = (netns.collect(), cgroups.collect());
        entries(
            maps::ADDRESSES,
            limits::ADDRESSES,
            &mut self.addresses,
            addresses,
            out,
        )?;
        entries(
            maps::STEERED,
            limits::STEERED,
            &mut self.steered,
            steered,
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
        let places = world.workloads.iter().filter_map(|w| w.place.as_ref());
        let all = places.flat_map(|p| &p.cgroups);
        all.fold(0, |bits, c| bits | 1 << c.level)
    }
}

/// A word of 0 says that the workload is not in the mesh.
fn word(workload: &Workload, tables: &[u32]) -> u64 {
    if !workload.enrolled() {
        return 0;
    }
    let mode = workload.shortcut.map_or(0, |m| m as u64);
    let mut word = u64::from(tables[workload.policies as usize]) | mode << Mode::SHIFT;
    if workload.door {
        word |= bits::DOOR;
        if workload.observed.is_some() {
            word |= bits::OUTBOUND;
        }
    }
    if is_steered(workload) {
        word |= bits::INBOUND;
    }
    word
}

/// Some of its ports lead to its worker.
fn is_steered(workload: &Workload) -> bool {
    workload.enrolled() && workload.door && !workload.inbound.is_empty()
}

/// The first of each family, of a workload of this node.
fn own_addresses(workload: &Workload) -> OwnAddresses {
    if workload.netns() == 0 {
        return OwnAddresses::default();
    }
    let first = |v4| {
        let mut all = workload.addresses.iter();
        all.find(|ip| ip.is_v4() == v4).copied()
    };
    OwnAddresses::new(first(true), first(false))
}

/// Makes a hash's pairs these; both are sorted.
fn entries<K: Plain + Ord>(
    map: &'static str,
    limit: usize,
    installed: &mut Vec<(K, u32)>,
    wanted: Vec<(K, u32)>,
    out: &mut Writer,
) -> Result<(), TablesError> {
    let mut old = installed.iter().peekable();
    let mut added = 0;
    for (key, word) in &wanted {
        while let Some((gone, _)) = old.next_if(|(k, _)| k < key) {
            out.stale(map, bytes(gone));
        }
        match old.next_if(|(k, _)| k == key) {
            None => {
                added += 1;
                out.fresh(map, key, &Entry::new(*word));
            }
            Some((_, before)) if before != word => out.entry(map, key, *word),
            Some(_) => {}
        }
    }
    for (gone, _) in old {
        out.stale(map, bytes(gone));
    }
    // What is to go is there until the end of the change.
    let need = installed.len() + added;
    if need > limit {
        return Err(TablesError::Limit {
            what: map,
            need,
            limit,
        });
    }
    *installed = wanted;
    Ok(())
}
