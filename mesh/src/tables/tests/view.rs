//! What programs can see in the maps, in names instead of indexes.

use std::collections::{BTreeMap, BTreeSet};

use underpass_abi::{
    Ip,
    plain::{bytes, from_bytes},
    shortcut::Mode,
    tables::*,
    verdict::{PolicyHeader, RuleKey, RuleWord, subject},
};

use super::store::Store;
use crate::tables::policies::parse_block_key;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    services: BTreeMap<ServiceKey, ServiceView>,
    service_names: BTreeMap<ServiceKey, String>,
    entries: BTreeMap<(&'static str, Vec<u8>), (String, u32)>,
    /// Of reachable workloads, by name.
    workloads: BTreeMap<String, WorkloadView>,
    /// Without the plan's version and the default's table id.
    settings: Vec<u64>,
    default_policy: PolicyView,
}

#[derive(Clone, Debug, PartialEq)]
struct ServiceView {
    policy: Option<PolicyView>,
    affinity: u32,
    http: bool,
    /// Share of each endpoint in the slots, in 1/65536 of a slot.
    endpoints: BTreeMap<(Ip, u16, String), u32>,
}

#[derive(Clone, Debug, PartialEq)]
struct WorkloadView {
    identity: (String, String),
    policy: Option<PolicyView>,
    home: u64,
    pub shortcut: u32,
    /// `workload::{DOOR, OUTBOUND}`
    door: u64,
    own: OwnAddresses,
    /// Ports that are steered.
    steered: BTreeSet<u16>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct PolicyView {
    flags: u8,
    deny: String,
    audit: String,
    rules: BTreeMap<(String, u16, u8), (u32, String)>,
    blocks: BTreeMap<(u32, Ip), String>,
}

impl View {
    pub fn of(store: &Store) -> Self {
        let mut view = Self::default();
        let mut reachable = BTreeSet::new();
        for (key, value) in store.hash(maps::SERVICE_IDS) {
            let key: ServiceKey = from_bytes(key).unwrap();
            let index = word_of(value) as u32;
            let word = ServiceWord(store.word(maps::SERVICES, index));
            if word.0 == 0 {
                continue;
            }
            view.services
                .insert(key, service(store, index, word, &mut reachable));
            view.service_names
                .insert(key, name(store, NameKind::Service, index));
        }
        for map in [maps::ADDRESSES, maps::NETNS, maps::CGROUPS] {
            for (key, value) in store.hash(map) {
                let word = AddressWord(entry_of(value));
                reachable.insert(word.workload());
                let owner = name(store, NameKind::Workload, word.workload());
                view.entries
                    .insert((map, key.to_vec()), (owner, word.flags()));
            }
        }
        reachable.remove(&0);
        for index in reachable {
            let twice = view.workloads.insert(
                name(store, NameKind::Workload, index),
                workload(store, index),
            );
            assert!(twice.is_none(), "two indexes for one workload");
        }
        view.settings = [setting::CGROUP_LEVELS, setting::HOST_NETNS]
            .map(|i| store.word(maps::SETTINGS, i))
            .to_vec();
        let default = store.word(maps::SETTINGS, setting::DEFAULT_POLICY) as u32;
        view.default_policy = policy(store, default);
        view
    }

    /// Adds the workloads that programs cannot come by; of a store that holds one plan only.
    pub fn with_unreachable(mut self, store: &Store) -> Self {
        for (key, page) in store.hash(maps::NAMES) {
            let key: NameKey = from_bytes(key).unwrap();
            let first = key.page * NAMES_PER_PAGE as u32;
            let named = (first..).zip(page.chunks(NAME_LEN));
            for (index, _) in named.filter(|(_, name)| name[0] != 0) {
                if key.kind == NameKind::Workload as u32 {
                    let name = name(store, NameKind::Workload, index);
                    self.workloads
                        .entry(name)
                        .or_insert_with(|| workload(store, index));
                }
            }
        }
        self
    }

    /// Everything is as in `old` or as in `new`.
    pub fn check_between(&self, old: &View, new: &View) {
        let keys = self
            .services
            .keys()
            .chain(old.services.keys())
            .chain(new.services.keys());
        for key in keys {
            let now = self.services.get(key);
            assert!(
                now == old.services.get(key) || now == new.services.get(key),
                "service {key:?}: {now:#?}\nold {:#?}\nnew {:#?}",
                old.services.get(key),
                new.services.get(key)
            );
        }
        let keys = self
            .entries
            .keys()
            .chain(old.entries.keys())
            .chain(new.entries.keys());
        for key in keys {
            let now = self.entries.get(key);
            assert!(
                now == old.entries.get(key) || now == new.entries.get(key),
                "{key:?}: {now:?}, old {:?}, new {:?}",
                old.entries.get(key),
                new.entries.get(key)
            );
        }
        for (name, now) in &self.workloads {
            let known = [old.workloads.get(name), new.workloads.get(name)];
            let known: Vec<_> = known.into_iter().flatten().collect();
            assert!(!known.is_empty(), "{name} is reachable and in neither plan");
            assert!(
                known.iter().any(|w| w.policy == now.policy),
                "{name}: {now:#?}\n{known:#?}"
            );
            assert!(
                known.iter().any(|w| w.home == now.home),
                "{name}: {now:#?}\n{known:#?}"
            );
            assert!(
                known.iter().any(|w| (w.door, w.own) == (now.door, now.own))
                    // Where it changes its address too: the new one is there before the door.
                    || known.iter().any(|w| w.door == now.door)
                        && known.iter().any(|w| w.own == now.own),
                "{name}: {now:#?}\n{known:#?}"
            );
            assert!(now.own.is_whole() || now.own == OwnAddresses::default());
            let with = |port: &u16| known.iter().filter(|w| w.steered.contains(port)).count();
            assert!(
                now.steered.iter().all(|port| with(port) > 0),
                "{name}: {now:#?}"
            );
            let mut kept = known[0].steered.iter().filter(|p| with(p) == known.len());
            assert!(
                kept.all(|port| now.steered.contains(port)),
                "{name}: {now:#?}"
            );
            assert!(
                known.iter().all(|w| w.identity == now.identity),
                "{name}: {now:?}"
            );
        }
    }
}

/// Array elements that a run can come by: nothing fresh may be written there.
pub fn in_use(store: &Store) -> BTreeSet<(&'static str, u32)> {
    let mut found = BTreeSet::new();
    let mut workloads = BTreeSet::new();
    let mut tables = BTreeSet::new();
    for (_, value) in store.hash(maps::SERVICE_IDS) {
        let index = word_of(value) as u32;
        let word = ServiceWord(store.word(maps::SERVICES, index));
        found.insert((maps::SERVICES, index));
        if word.0 == 0 {
            continue;
        }
        let count = SlotHeader(store.word(maps::SLOTS, word.offset())).count();
        found.extend((0..TABLE_HEADER + count).map(|i| (maps::SLOTS, word.offset() + i)));
        tables.insert(store.word(maps::SLOTS, word.offset() + 1) as u32);
        for i in 0..count {
            let slot = AliasSlot(store.word(maps::SLOTS, word.offset() + TABLE_HEADER + i));
            for backend in [slot.backend(), slot.alias()] {
                found.extend([(maps::BACKENDS, backend), (maps::BACKEND_LIFE, backend)]);
                let b: Backend = from_bytes(&store.arrays[maps::BACKENDS][&backend]).unwrap();
                workloads.insert(b.workload);
            }
        }
    }
    for map in [maps::ADDRESSES, maps::NETNS, maps::CGROUPS] {
        let words = store
            .hash(map)
            .map(|(_, value)| AddressWord(entry_of(value)));
        workloads.extend(words.map(AddressWord::workload));
    }
    workloads.remove(&0);
    for index in workloads {
        tables.insert(store.word(maps::WORKLOADS, index) as u32);
        found.extend(
            [maps::WORKLOADS, maps::IDENTITIES, maps::HOMES, maps::OWN].map(|map| (map, index)),
        );
    }
    found.extend(tables.into_iter().map(|table| (maps::POLICIES, table)));
    found
}

fn word_of(value: &[u8]) -> u64 {
    u64::from_ne_bytes(value.try_into().unwrap())
}

fn entry_of(value: &[u8]) -> u32 {
    from_bytes::<Entry>(value).unwrap().word
}

pub fn name(store: &Store, kind: NameKind, index: u32) -> String {
    if index == 0 {
        return String::new();
    }
    let key = NameKey {
        kind: kind as u32,
        page: index / NAMES_PER_PAGE as u32,
    };
    let page = store.get(maps::NAMES, bytes(&key));
    let place = index as usize % NAMES_PER_PAGE * NAME_LEN;
    let value = &page.expect("indexes in use have names")[place..][..NAME_LEN];
    let len = value.iter().position(|b| *b == 0).unwrap_or(value.len());
    assert_ne!(len, 0, "indexes in use have names");
    String::from_utf8(value[..len].to_vec()).unwrap()
}

fn workload(store: &Store, index: u32) -> WorkloadView {
    let pair = store.arrays[maps::IDENTITIES]
        .get(&index)
        .expect("written before");
    let pair: IdentityPair = from_bytes(pair).unwrap();
    let word = store.word(maps::WORKLOADS, index);
    let table = word as u32;
    let own = store.arrays.get(maps::OWN).and_then(|a| a.get(&index));
    let steered = store.hash(maps::STEERED).filter_map(|(key, value)| {
        let key: SteerKey = from_bytes(key).unwrap();
        let on = word & workload::INBOUND != 0 && entry_of(value) != 0;
        (on && key.workload == index).then_some(key.port)
    });
    WorkloadView {
        door: word & (workload::DOOR | workload::OUTBOUND),
        own: own.map_or_else(OwnAddresses::default, |v| from_bytes(v).unwrap()),
        steered: steered.collect(),
        identity: (who(store, pair.identity, 0), who(store, pair.namespace, 0)),
        policy: (table != 0).then(|| policy(store, table)),
        shortcut: (word >> Mode::SHIFT) as u32 & Mode::MASK,
        home: store.word(maps::HOMES, index),
    }
}

fn service(
    store: &Store,
    index: u32,
    word: ServiceWord,
    reachable: &mut BTreeSet<u32>,
) -> ServiceView {
    let slot = |i: u32| store.word(maps::SLOTS, word.offset() + i);
    let header = SlotHeader(slot(0));
    let mut endpoints = BTreeMap::new();
    let mut add = |backend: u32, share: u32| {
        if share == 0 {
            return;
        }
        let b: Backend = from_bytes(&store.arrays[maps::BACKENDS][&backend]).unwrap();
        assert_eq!(b.service, index);
        let life = Life(store.word(maps::BACKEND_LIFE, backend));
        // What the table holds lives, unless its end was written and the word is next.
        assert!(
            life.from() <= word.version() && word.version() <= life.to(),
            "{life:?} {word:?}"
        );
        reachable.insert(b.workload);
        let workload = name(store, NameKind::Workload, b.workload);
        *endpoints.entry((b.ip, b.port, workload)).or_default() += share;
    };
    for i in 0..header.count() {
        let slot = AliasSlot(slot(TABLE_HEADER + i));
        let own = match slot.threshold() {
            0 => 65_536,
            t => u32::from(t),
        };
        add(slot.backend(), own);
        add(slot.alias(), 65_536 - own);
    }
    let table = slot(1) as u32;
    let policy = (table != 0).then(|| policy(store, table));
    ServiceView {
        policy,
        affinity: header.affinity_secs(),
        http: header.http(),
        endpoints,
    }
}

fn policy(store: &Store, table: u32) -> PolicyView {
    let header = PolicyHeader(store.word(maps::POLICIES, table));
    let set = u32::from(header.block_set());
    let mut rules = BTreeMap::new();
    for (key, value) in store.hash(maps::RULES) {
        let key: RuleKey = from_bytes(key).unwrap();
        let word = RuleWord(word_of(value));
        if key.table == table {
            let policy = name(store, NameKind::Policy, word.policy());
            rules.insert(
                (who(store, key.subject, set), key.port, key.proto),
                (word.flags(), policy),
            );
        }
    }
    let mut blocks = BTreeMap::new();
    for (key, value) in store.hash(maps::BLOCKS) {
        let (of, prefix) = parse_block_key(key).unwrap();
        if set != 0 && of == set {
            blocks.insert(prefix, who(store, word_of(value) as u32, set));
        }
    }
    PolicyView {
        flags: header.flags(),
        deny: name(store, NameKind::Policy, header.deny_policy()),
        audit: name(store, NameKind::Policy, header.audit_policy()),
        rules,
        blocks,
    }
}

fn who(store: &Store, subject: u32, set: u32) -> String {
    match subject::kind(subject) {
        1 => name(store, NameKind::Identity, subject::index(subject)),
        2 => name(store, NameKind::Namespace, subject::index(subject)),
        3 => store
            .hash(maps::BLOCKS)
            .find_map(|(key, value)| {
                let (of, prefix) = parse_block_key(key).unwrap();
                (of == set && word_of(value) as u32 == subject).then(|| format!("{prefix:?}"))
            })
            .expect("classes in rules are in the set"),
        _ => format!("{subject:x}"),
    }
}
