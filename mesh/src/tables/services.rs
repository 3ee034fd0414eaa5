//! Services: `SERVICE_IDS`, `SERVICES`, `SLOTS`, `BACKENDS` and `BACKEND_LIFE`.

use std::collections::{BTreeMap, HashMap, HashSet};

use underpass_abi::{
    Ip,
    plain::bytes,
    tables::{Backend, Life, ServiceKey, ServiceWord, SlotHeader, TABLE_HEADER, limits, maps},
};

use super::{TablesError, alias, change::Writer, extents::Extents, indexes::Indexes, names::Names};
use crate::plan::{Plan, Service, ServicePort};

/// One dialed address and port. Its index stays with the key: if another service takes the key
/// over, only the word changes, so that no run finds the key without a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Row {
    pub index: u32,
    /// Where the table is in `SLOTS`; 0: there is none.
    pub offset: u32,
    pub version: u32,
    pub policy: u32,
    pub header: u64,
    pub slots: Box<[u64]>,
    /// Backend indexes of the current table.
    pub backends: Box<[u32]>,
}

impl Row {
    fn extent(&self) -> u32 {
        TABLE_HEADER + SlotHeader(self.header).count()
    }
}

#[derive(Clone, Debug)]
pub(super) struct Services {
    pub rows: HashMap<ServiceKey, Row>,
    /// By backend index.
    pub backends: Vec<(Backend, Life)>,
    pub backend_indexes: Indexes,
    pub extents: Extents,
    /// Of indexes without a key: the last version. Versions go on from there, so that a backend
    /// that session affinity remembers from an earlier owner is never alive again.
    pub last_versions: HashMap<u32, u32>,
}

/// What services refer to: indexes by position in the world.
pub(super) struct Context<'a> {
    pub workloads: &'a [u32],
    pub tables: &'a [u32],
}

impl Services {
    pub(super) fn empty() -> Self {
        Self {
            rows: HashMap::new(),
            backends: Vec::new(),
            backend_indexes: Indexes::new("BACKENDS", limits::BACKENDS),
            extents: Extents::new(limits::SLOTS),
            last_versions: HashMap::new(),
        }
    }

    pub(super) fn begin(&mut self) {
        self.backend_indexes.begin();
        self.extents.begin();
    }

    /// Lays everything out.
    pub(super) fn lay_out(
        &mut self,
        plan: &Plan,
        context: &Context,
        names: &mut Names,
        out: &mut Writer,
    ) -> Result<(), TablesError> {
        // Of two services with one address and port, the first by name counts.
        let mut wanted: BTreeMap<ServiceKey, (&Service, &ServicePort)> = BTreeMap::new();
        for service in plan.services() {
            for port in &service.ports {
                wanted.entry(key_of(port)).or_insert((service, port));
            }
        }
        let mut gone: Vec<ServiceKey> = self
            .rows
            .keys()
            .filter(|k| !wanted.contains_key(k))
            .copied()
            .collect();
        gone.sort();
        let added = wanted.keys().filter(|k| !self.rows.contains_key(k)).count();
        let need = self.rows.len() + added;
        if need > limits::SERVICES {
            return Err(TablesError::Limit {
                what: "SERVICE_IDS",
                need,
                limit: limits::SERVICES,
            });
        }
        for key in gone {
            self.remove(&key, names, out);
        }
        let endpoints: usize = wanted.values().map(|(_, port)| port.endpoints.len()).sum();
        let more = (endpoints + 1).saturating_sub(self.backends.len());
        self.backends.reserve_exact(more);
        names.services.reserve(wanted.len());
        for (service, port) in wanted.into_values() {
            self.lay(service, port, context, names, out)?;
        }
        Ok(())
    }

    /// Lays out the services that differ between two plans of one world. False if that is not
    /// enough, because addresses or ports changed.
    pub(super) fn lay_out_changed(
        &mut self,
        before: &Plan,
        plan: &Plan,
        context: &Context,
        names: &mut Names,
        out: &mut Writer,
    ) -> Result<bool, TablesError> {
        if before.services.len() != plan.services.len() {
            return Ok(false);
        }
        let mut changed = Vec::new();
        for ((old_name, old), (name, new)) in before.services.iter().zip(plan.services.iter()) {
            if std::sync::Arc::ptr_eq(old, new) {
                continue;
            }
            if old_name != name
                || !old
                    .ports
                    .iter()
                    .map(key_of)
                    .eq(new.ports.iter().map(key_of))
            {
                return Ok(false);
            }
            changed.push(new);
        }
        for service in changed {
            for port in &service.ports {
                let row = self.rows.get(&key_of(port));
                // The key may be another service's.
                let owner = row.and_then(|r| names.services.get(r.index));
                if owner.is_some_and(|n| **n == *super::names::cut(&service.port_name(port))) {
                    self.lay(service, port, context, names, out)?;
                }
            }
        }
        Ok(true)
    }

    fn remove(&mut self, key: &ServiceKey, names: &mut Names, out: &mut Writer) {
        let Some(row) = self.rows.remove(key) else {
            return;
        };
        for backend in &row.backends {
            self.end(*backend, row.version, out);
        }
        if row.offset != 0 {
            self.extents.free(row.offset, row.extent());
        }
        out.word(maps::SERVICES, row.index, 0);
        out.stale(maps::SERVICE_IDS, bytes(key));
        self.last_versions.insert(row.index, row.version);
        names.services.release(row.index);
    }

    fn lay(
        &mut self,
        service: &Service,
        port: &ServicePort,
        context: &Context,
        names: &mut Names,
        out: &mut Writer,
    ) -> Result<(), TablesError> {
        let key = key_of(port);
        let (fresh, old) = match self.rows.remove(&key) {
            Some(row) => (false, row),
            None => {
                let index = names.services.take()?;
                let version = self.last_versions.remove(&index).unwrap_or(0);
                (
                    true,
                    Row {
                        index,
                        version,
                        ..Row::default()
                    },
                )
            }
        };
        names.services.name(old.index, service.port_name(port));
        let version = old.version + 1;
        let known: HashMap<(Ip, u16, u32), u32> = old
            .backends
            .iter()
            .map(|b| (identity(&self.backends[*b as usize].0), *b))
            .collect();
        let mut weighted = Vec::with_capacity(port.endpoints.len());
        let mut added = Vec::new();
        for e in &port.endpoints {
            let workload = e.workload.map_or(0, |w| context.workloads[w as usize]);
            let index = match known.get(&(e.ip, e.port, workload)) {
                Some(index) => *index,
                None => {
                    let index = self.backend_indexes.take()?;
                    let (ip, port, service) = (e.ip, e.port, old.index);
                    added.push((
                        index,
                        Backend {
                            ip,
                            port,
                            pad: 0,
                            workload,
                            service,
                            pad2: 0,
                        },
                    ));
                    index
                }
            };
            weighted.push((index, e.weight));
        }
        let row = Row {
            index: old.index,
            offset: old.offset,
            version: old.version,
            policy: service
                .policies
                .map_or(0, |set| context.tables[set as usize]),
            header: SlotHeader::new(
                weighted.len() as u32,
                port.affinity_secs,
                port.http.is_some(),
            )
            .0,
            slots: alias::slots(&weighted),
            backends: weighted.iter().map(|(b, _)| *b).collect(),
        };
        let same = (row.policy, row.header, &row.slots) == (old.policy, old.header, &old.slots);
        if same && added.is_empty() && old.offset != 0 {
            self.keep_alive(&row, out);
            self.rows.insert(key, row);
            return Ok(());
        }
        for (index, backend) in added {
            self.add(index, backend, version, out);
        }
        let row = self.write(row, old, version, fresh, out)?;
        if fresh {
            out.fresh(maps::SERVICE_IDS, &key, &u64::from(row.index));
        }
        self.rows.insert(key, row);
        Ok(())
    }

    /// Writes a table beside the old one, then the word.
    fn write(
        &mut self,
        mut row: Row,
        old: Row,
        version: u32,
        fresh: bool,
        out: &mut Writer,
    ) -> Result<Row, TablesError> {
        row.version = version;
        row.offset = self.extents.take(row.extent())?;
        let words = [row.header, u64::from(row.policy)];
        for (i, word) in words.iter().chain(&row.slots).enumerate() {
            out.fresh(maps::SLOTS, &(row.offset + i as u32), word);
        }
        let word = ServiceWord::new(row.offset, version).0;
        if fresh {
            out.fresh(maps::SERVICES, &row.index, &word);
        } else {
            out.word(maps::SERVICES, row.index, word);
        }
        let kept: HashSet<u32> = row.backends.iter().copied().collect();
        for backend in old.backends.iter().filter(|b| !kept.contains(b)) {
            self.end(*backend, old.version, out);
        }
        self.keep_alive(&row, out);
        if old.offset != 0 {
            self.extents.free(old.offset, old.extent());
        }
        Ok(row)
    }

    fn add(&mut self, index: u32, backend: Backend, version: u32, out: &mut Writer) {
        let at = index as usize;
        if self.backends.len() <= at {
            self.backends.resize(at + 1, Default::default());
        }
        let life = Life::new(version, u32::MAX);
        self.backends[at] = (backend, life);
        out.fresh(maps::BACKENDS, &index, &backend);
        out.fresh(maps::BACKEND_LIFE, &index, &life.0);
    }

    fn end(&mut self, backend: u32, last_version: u32, out: &mut Writer) {
        let life = &mut self.backends[backend as usize].1;
        *life = Life::new(life.from(), last_version);
        out.word(maps::BACKEND_LIFE, backend, life.0);
        self.backend_indexes.free(backend);
    }

    /// A crash can come between the end of a life and the word that goes with it.
    fn keep_alive(&mut self, row: &Row, out: &mut Writer) {
        for backend in &row.backends {
            let life = &mut self.backends[*backend as usize].1;
            if life.to() != u32::MAX {
                *life = Life::new(life.from(), u32::MAX);
                out.word(maps::BACKEND_LIFE, *backend, life.0);
            }
        }
    }
}

fn identity(b: &Backend) -> (Ip, u16, u32) {
    (b.ip, b.port, b.workload)
}

fn key_of(port: &ServicePort) -> ServiceKey {
    ServiceKey {
        ip: port.ip,
        port: port.port,
        proto: port.proto,
        pad: 0,
    }
}
