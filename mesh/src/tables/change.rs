//! Map writes in the order in which they may be seen.

use std::collections::BTreeMap;

use underpass_abi::{
    plain::{Plain, bytes},
    tables::{Entry, OwnAddresses, maps},
};

/// Elements to write to one map: keys and values contiguous, as `BPF_MAP_UPDATE_BATCH` wants them
/// (flags `BPF_ANY`). Array keys are `u32` indexes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    pub map: &'static str,
    pub keys: Vec<u8>,
    pub values: Vec<u8>,
    pub count: usize,
}

/// Keys to delete from one hash or trie.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deletes {
    pub map: &'static str,
    pub keys: Vec<u8>,
    pub count: usize,
}

/// One pass of writes. Apply in this order: `fresh` (batch by batch, as listed), `words` (as
/// listed; this is the moment of effect), a grace period, `stale`, a grace period.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// What nothing refers to yet; keys of hashes are new keys. (`NAMES`, which programs never
    /// read, may be overwritten.) The last batches are the entry points: hash keys by which
    /// programs find what was written before.
    pub fresh: Vec<Batch>,
    /// Array words, and new values of existing keys of hashes. Each must be written in place.
    pub words: Vec<Batch>,
    /// What nothing refers to any more.
    pub stale: Vec<Deletes>,
}

impl Round {
    pub fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.words.is_empty() && self.stale.is_empty()
    }
}

/// The way from one plan to the next: one round, or two if workloads go together with their policy
/// tables. Empty if nothing is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    pub rounds: Vec<Round>,
    /// Elements written and deleted, over all rounds.
    pub writes: usize,
}

impl Change {
    pub fn is_empty(&self) -> bool {
        self.rounds.is_empty()
    }
}

/// All (key, value) pairs by map; of arrays only the non-zero values. Keys and values as bytes of
/// the map's types.
pub type Dump = BTreeMap<&'static str, Vec<(Vec<u8>, Vec<u8>)>>;

/// Order of `fresh`: a map comes after those that its values refer to, entry points last.
const FRESH: [&str; 17] = [
    maps::NAMES,
    maps::RULES,
    maps::BLOCKS,
    maps::POLICIES,
    maps::IDENTITIES,
    maps::HOMES,
    maps::OWN,
    maps::STEERED,
    maps::WORKLOADS,
    maps::BACKENDS,
    maps::BACKEND_LIFE,
    maps::SLOTS,
    maps::SERVICES,
    maps::SERVICE_IDS,
    maps::ADDRESSES,
    maps::NETNS,
    maps::CGROUPS,
];

/// Order of `words`. A backend's life ends before the service's word moves on to the version that
/// has it no more: a reader of the old word is still within that life, one of the new word is not.
const WORDS: [&str; 9] = [
    maps::HOMES,
    maps::OWN,
    maps::WORKLOADS,
    maps::BACKEND_LIFE,
    maps::SERVICES,
    maps::ADDRESSES,
    maps::NETNS,
    maps::CGROUPS,
    maps::SETTINGS,
];

/// Collects a change.
#[derive(Default)]
pub(super) struct Writer {
    fresh: Vec<Batch>,
    words: Vec<Batch>,
    stale: Vec<Deletes>,
}

impl Writer {
    /// Writes what nothing refers to yet.
    pub(super) fn fresh<K: Plain, V: Plain>(&mut self, map: &'static str, key: &K, value: &V) {
        put(&mut self.fresh, map, bytes(key), bytes(value));
    }

    /// The same for keys that are no type of abi.
    pub(super) fn fresh_bytes(&mut self, map: &'static str, key: &[u8], value: &[u8]) {
        put(&mut self.fresh, map, key, value);
    }

    /// Writes a word of an array, which takes effect.
    pub(super) fn word(&mut self, map: &'static str, index: u32, value: u64) {
        put(&mut self.words, map, bytes(&index), bytes(&value));
    }

    /// Writes a workload's own addresses, whose readers tell half a write by its check.
    pub(super) fn own(&mut self, index: u32, value: &OwnAddresses) {
        put(&mut self.words, maps::OWN, bytes(&index), bytes(value));
    }

    /// Gives an existing key of a hash another word, which takes effect.
    pub(super) fn entry<K: Plain>(&mut self, map: &'static str, key: &K, word: u32) {
        put(&mut self.words, map, bytes(key), bytes(&Entry::new(word)));
    }

    /// Deletes what nothing will refer to once the words are written.
    pub(super) fn stale(&mut self, map: &'static str, key: &[u8]) {
        delete(&mut self.stale, map, key);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.words.is_empty() && self.stale.is_empty()
    }

    pub(super) fn finish(self) -> Change {
        let Self {
            fresh,
            words,
            stale,
        } = self;
        // Policy tables and steered ports are deleted after the last way to the workloads that have them is
        // closed: a run that came by such a workload finds its rules.
        let rules = [maps::RULES, maps::BLOCKS, maps::STEERED];
        let (rules, stale): (Vec<Deletes>, Vec<Deletes>) =
            stale.into_iter().partition(|d| rules.contains(&d.map));
        let closes = stale.iter().any(|d| d.map != maps::SERVICE_IDS);
        let mut rounds = vec![Round {
            fresh,
            words,
            stale,
        }];
        if closes && !rules.is_empty() {
            rounds.push(Round::default());
        }
        if let Some(last) = rounds.last_mut() {
            last.stale.extend(rules);
        }
        rounds.retain(|r| !r.is_empty());
        let place = |order: &[&str], map| order.iter().position(|m| *m == map);
        let mut writes = 0;
        for round in &mut rounds {
            round.fresh.sort_by_key(|b| place(&FRESH, b.map));
            round.words.sort_by_key(|b| place(&WORDS, b.map));
            writes += round
                .fresh
                .iter()
                .chain(&round.words)
                .map(|b| b.count)
                .sum::<usize>();
            writes += round.stale.iter().map(|d| d.count).sum::<usize>();
        }
        Change { rounds, writes }
    }
}

fn put(batches: &mut Vec<Batch>, map: &'static str, key: &[u8], value: &[u8]) {
    let at = batches
        .iter()
        .position(|b| b.map == map)
        .unwrap_or_else(|| {
            batches.push(Batch {
                map,
                ..Batch::default()
            });
            batches.len() - 1
        });
    let batch = &mut batches[at];
    batch.keys.extend_from_slice(key);
    batch.values.extend_from_slice(value);
    batch.count += 1;
}

fn delete(deletes: &mut Vec<Deletes>, map: &'static str, key: &[u8]) {
    let at = deletes
        .iter()
        .position(|d| d.map == map)
        .unwrap_or_else(|| {
            deletes.push(Deletes {
                map,
                ..Deletes::default()
            });
            deletes.len() - 1
        });
    deletes[at].keys.extend_from_slice(key);
    deletes[at].count += 1;
}
