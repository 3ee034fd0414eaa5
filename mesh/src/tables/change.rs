//! Map writes in the order in which they may be seen.

use std::collections::BTreeMap;

use underpass_abi::{
    plain::{Plain, bytes},
    tables::maps,
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
    /// 8-byte array words, and of each hash at most one existing key.
    pub words: Vec<Batch>,
    /// What nothing refers to any more.
    pub stale: Vec<Deletes>,
}

impl Round {
    pub fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.words.is_empty() && self.stale.is_empty()
    }
}

/// The way from one plan to the next: usually one round. More only if existing keys of `CGROUPS`,
/// `NETNS` or `ADDRESSES` change their value (a workload was replaced by another at its place).
/// Empty if nothing is to be done.
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
