//! What is installed, from the pinned maps alone. A crash can have left any prefix of a change:
//! what nothing refers to is taken for free or for waste, which the next change removes.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use underpass_abi::{
    plain::{Plain, from_bytes},
    tables::{
        AliasSlot, Backend, Entry, IdentityPair, Life, NAME_LEN, NAMES_PAGE, NAMES_PER_PAGE,
        NameKey, NameKind, OwnAddresses, ServiceKey, ServiceWord, SlotHeader, TABLE_HEADER, maps,
        setting,
    },
    verdict::RuleKey,
};

use super::{
    Dump, Tables, TablesError,
    names::Names,
    policies::{Content, Policies, parse_block_key},
    services::{Row, Services},
    workloads,
};

pub(super) fn adopt(dump: &Dump) -> Result<Tables, TablesError> {
    let mut tables = Tables::empty();
    let mut names = names(dump)?;
    let services = services(dump, &mut names)?;
    let mut settings = [0; setting::COUNT];
    for (index, value) in pairs::<u32, u64>(dump, maps::SETTINGS)? {
        if let Some(slot) = settings.get_mut(index as usize) {
            *slot = value;
        }
    }
    let workloads = workloads::Workloads {
        rows: rows(dump)?,
        cgroups: entries(dump, maps::CGROUPS)?,
        netns: entries(dump, maps::NETNS)?,
        addresses: entries(dump, maps::ADDRESSES)?,
        steered: entries(dump, maps::STEERED)?,
        index_of: Box::default(),
    };
    // All others are free, so that what the arrays hold for them is written before anything refers
    // to it.
    let used = workloads.reachable(&services);
    names.workloads.adopt_used(|i| used[i as usize]);
    tables.policies = policies(dump, &workloads, &services, &settings)?.into();
    tables.names = names.into();
    tables.services = services.into();
    tables.workloads = workloads.into();
    tables.settings = settings;
    Ok(tables)
}

fn pairs<K: Plain, V: Plain>(dump: &Dump, map: &'static str) -> Result<Vec<(K, V)>, TablesError> {
    let all = dump.get(map).map(Vec::as_slice).unwrap_or_default();
    let typed = all
        .iter()
        .map(|(key, value)| Some((from_bytes(key)?, from_bytes(value)?)));
    typed
        .collect::<Option<_>>()
        .ok_or_else(|| corrupt(map, "keys or values have another size".into()))
}

fn entries<K: Plain + Ord>(dump: &Dump, map: &'static str) -> Result<Vec<(K, u32)>, TablesError> {
    let pairs = pairs::<K, Entry>(dump, map)?.into_iter();
    let mut words: Vec<(K, u32)> = pairs.map(|(key, entry)| (key, entry.word)).collect();
    words.sort_unstable();
    Ok(words)
}

fn corrupt(map: &'static str, why: String) -> TablesError {
    TablesError::Corrupt { map, why }
}

fn names(dump: &Dump) -> Result<Names, TablesError> {
    let mut names = Names::empty();
    for (key, page) in pairs::<NameKey, [u8; NAMES_PAGE]>(dump, maps::NAMES)? {
        let [workloads, services, identities, namespaces, policies] = names.all_mut();
        let register = match key.kind {
            k if k == NameKind::Workload as u32 => workloads,
            k if k == NameKind::Service as u32 => services,
            k if k == NameKind::Identity as u32 => identities,
            k if k == NameKind::Namespace as u32 => namespaces,
            k if k == NameKind::Policy as u32 => policies,
            k => return Err(corrupt(maps::NAMES, format!("unknown kind {k}"))),
        };
        let first = key.page.saturating_mul(NAMES_PER_PAGE as u32);
        for (index, name) in (first..).zip(page.as_chunks::<NAME_LEN>().0) {
            let len = name.iter().position(|b| *b == 0).unwrap_or(NAME_LEN);
            if len == 0 {
                continue;
            }
            let name = std::str::from_utf8(&name[..len])
                .map_err(|_| corrupt(maps::NAMES, format!("{key:?} is no text")))?;
            if index == 0 || !register.indexes.holds(index) {
                return Err(corrupt(maps::NAMES, format!("{key:?} is out of range")));
            }
            register.adopt(index, name.into());
        }
    }
    // Whatever has a name may be in use; the next pass frees what is not.
    let [_, _, identities, namespaces, policies] = names.all_mut();
    for register in [identities, namespaces, policies] {
        let named: HashSet<u32> = register.named().collect();
        register.adopt_used(|i| named.contains(&i));
    }
    Ok(names)
}

fn rows(dump: &Dump) -> Result<Vec<workloads::Row>, TablesError> {
    let mut rows: Vec<workloads::Row> = Vec::new();
    let mut at = |index: u32, set: &dyn Fn(&mut workloads::Row)| {
        let index = index as usize;
        if rows.len() <= index {
            rows.resize(index + 1, workloads::Row::default());
        }
        set(&mut rows[index]);
    };
    for (index, identity) in pairs::<u32, IdentityPair>(dump, maps::IDENTITIES)? {
        at(index, &|row| row.identity = identity);
    }
    for (index, word) in pairs::<u32, u64>(dump, maps::WORKLOADS)? {
        at(index, &|row| row.word = word);
    }
    for (index, home) in pairs::<u32, u64>(dump, maps::HOMES)? {
        at(index, &|row| row.home = home);
    }
    for (index, own) in pairs::<u32, OwnAddresses>(dump, maps::OWN)? {
        at(index, &|row| row.own = own);
    }
    Ok(rows)
}

fn services(dump: &Dump, names: &mut Names) -> Result<Services, TablesError> {
    let mut services = Services::empty();
    let words: HashMap<u32, u64> = pairs(dump, maps::SERVICES)?.into_iter().collect();
    let slots: HashMap<u32, u64> = pairs(dump, maps::SLOTS)?.into_iter().collect();
    let lives: HashMap<u32, u64> = pairs(dump, maps::BACKEND_LIFE)?.into_iter().collect();
    for (index, backend) in pairs::<u32, Backend>(dump, maps::BACKENDS)? {
        let at = index as usize;
        if services.backends.len() <= at {
            services.backends.resize(at + 1, Default::default());
        }
        let life = Life(lives.get(&index).copied().unwrap_or(0));
        services.backends[at] = (backend, life);
        // An ended life tells how far its service had come.
        let seen = if life.to() == u32::MAX {
            life.from()
        } else {
            life.to()
        };
        let last = services.last_versions.entry(backend.service).or_default();
        *last = (*last).max(seen);
    }
    let mut used = HashSet::new();
    let mut backends = HashSet::new();
    for (key, index) in pairs::<ServiceKey, u64>(dump, maps::SERVICE_IDS)? {
        let index = index as u32;
        if index == 0 || !names.services.indexes.holds(index) || !used.insert(index) {
            return Err(corrupt(
                maps::SERVICE_IDS,
                format!("index {index} is out of range or used twice"),
            ));
        }
        names.services.grow(index);
        let word = ServiceWord(words.get(&index).copied().unwrap_or(0));
        let row = row(index, word, &slots, &mut services)?;
        backends.extend(row.backends.iter().copied());
        services.rows.insert(key, row);
    }
    let highest = services.backends.len().saturating_sub(1) as u32;
    services
        .backend_indexes
        .adopt(|i| backends.contains(&i), highest);
    for index in words.keys() {
        if names.services.indexes.holds(*index) {
            names.services.grow(*index);
        }
    }
    names.services.adopt_used(|i| used.contains(&i));
    Ok(services)
}

fn row(
    index: u32,
    word: ServiceWord,
    slots: &HashMap<u32, u64>,
    services: &mut Services,
) -> Result<Row, TablesError> {
    let seen = services.last_versions.remove(&index).unwrap_or(0);
    if word.0 == 0 {
        // Its word was cleared and its key is still there.
        return Ok(Row {
            index,
            version: seen,
            ..Row::default()
        });
    }
    let slot = |i: u32| slots.get(&(word.offset() + i)).copied().unwrap_or(0);
    let header = SlotHeader(slot(0));
    if !services
        .extents
        .adopt(word.offset(), TABLE_HEADER.saturating_add(header.count()))
    {
        return Err(corrupt(
            maps::SLOTS,
            format!("the table of service {index} overlaps another"),
        ));
    }
    let alias: Box<[u64]> = (0..header.count())
        .map(|i| slot(TABLE_HEADER + i))
        .collect();
    let mut backends = BTreeSet::new();
    for slot in alias.iter().map(|s| AliasSlot(*s)) {
        backends.extend([slot.backend(), slot.alias()]);
    }
    if let Some(b) = backends
        .iter()
        .find(|b| **b as usize >= services.backends.len())
    {
        return Err(corrupt(
            maps::SLOTS,
            format!("service {index} refers to backend {b}"),
        ));
    }
    Ok(Row {
        index,
        offset: word.offset(),
        version: word.version().max(seen),
        policy: slot(1) as u32,
        header: header.0,
        slots: alias,
        backends: backends.into_iter().collect(),
    })
}

fn policies(
    dump: &Dump,
    workloads: &workloads::Workloads,
    services: &Services,
    settings: &[u64],
) -> Result<Policies, TablesError> {
    let mut policies = Policies::empty();
    let mut found: BTreeMap<u32, (u64, Vec<(RuleKey, u64)>)> = BTreeMap::new();
    for (id, header) in pairs::<u32, u64>(dump, maps::POLICIES)? {
        found.entry(id).or_default().0 = header;
    }
    for (key, word) in pairs::<RuleKey, u64>(dump, maps::RULES)? {
        found
            .entry(key.table)
            .or_default()
            .1
            .push((RuleKey { table: 0, ..key }, word));
    }
    // A table that allows all is all zeros.
    let referred = workloads.rows.iter().map(|r| r.word as u32);
    let referred = referred.chain(services.rows.values().map(|r| r.policy));
    for id in referred.chain([settings[setting::DEFAULT_POLICY as usize] as u32]) {
        found.entry(id).or_default();
    }
    found.remove(&0);
    let highest = found.keys().next_back().copied().unwrap_or(0);
    if highest != 0 && !policies.indexes.holds(highest) {
        return Err(corrupt(
            maps::POLICIES,
            format!("table {highest} is out of range"),
        ));
    }
    policies.indexes.adopt(|i| found.contains_key(&i), highest);
    for (id, (header, mut rules)) in found {
        rules.sort();
        policies.adopt_table(
            id,
            Content {
                header,
                rules: rules.into(),
            },
        );
    }
    for (key, value) in dump
        .get(maps::BLOCKS)
        .map(Vec::as_slice)
        .unwrap_or_default()
    {
        let parsed = parse_block_key(key).zip(from_bytes::<u64>(value));
        let ((set, prefix), class) = parsed
            .filter(|((set, _), _)| *set != 0 && policies.set_ids.holds(*set))
            .ok_or_else(|| corrupt(maps::BLOCKS, "a key is none of ours".into()))?;
        policies.sets.entry(set).or_default().insert(prefix, class);
    }
    let highest = policies.sets.keys().next_back().copied().unwrap_or(0);
    let Policies { set_ids, sets, .. } = &mut policies;
    set_ids.adopt(|i| sets.contains_key(&i), highest);
    Ok(policies)
}
