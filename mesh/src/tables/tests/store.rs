//! Maps as the kernel has them. A hash gives a freed element to the next insert at once, while
//! readers may still look at it: whatever a reader could hold must stay its key's.

use std::collections::BTreeMap;

use underpass_abi::tables::{limits, maps};

use crate::tables::Dump;

type Bytes = Vec<u8>;

#[derive(Clone, Default)]
pub struct Store {
    pub arrays: BTreeMap<&'static str, BTreeMap<u32, Bytes>>,
    hashes: BTreeMap<&'static str, Hash>,
    /// What runs that began since the last grace period can hold: map, element, its key.
    held: Vec<(&'static str, usize, Bytes)>,
}

#[derive(Clone, Default)]
struct Hash {
    keys: BTreeMap<Bytes, usize>,
    /// Key and value, also of freed ones.
    elements: Vec<(Bytes, Bytes)>,
    free: Vec<usize>,
}

const ARRAYS: [(&str, usize); 10] = [
    (maps::SETTINGS, 16),
    (maps::SERVICES, limits::SERVICES),
    (maps::SLOTS, limits::SLOTS),
    (maps::BACKENDS, limits::BACKENDS),
    (maps::BACKEND_LIFE, limits::BACKENDS),
    (maps::WORKLOADS, limits::WORKLOADS),
    (maps::IDENTITIES, limits::WORKLOADS),
    (maps::HOMES, limits::WORKLOADS),
    (maps::OWN, limits::WORKLOADS),
    (maps::POLICIES, limits::POLICIES),
];

impl Store {
    pub fn write(&mut self, map: &'static str, key: &[u8], value: &[u8], is_fresh: bool) {
        if let Some((_, limit)) = ARRAYS.iter().find(|(m, _)| *m == map) {
            let index = u32::from_ne_bytes(key.try_into().unwrap());
            assert!((index as usize) < *limit);
            self.arrays
                .entry(map)
                .or_default()
                .insert(index, value.to_vec());
            return;
        }
        let hash = self.hashes.entry(map).or_default();
        let old = hash.keys.get(key).copied();
        if map == maps::NAMES {
            // No program reads it.
        } else if is_fresh {
            assert!(old.is_none(), "{map}: fresh key exists");
        } else {
            // As with BPF_F_LOCK.
            hash.elements[old.expect("words of hashes are those of existing keys")].1 =
                value.to_vec();
            return;
        }
        let element = hash.free.pop().unwrap_or_else(|| {
            hash.elements.push(Default::default());
            hash.elements.len() - 1
        });
        hash.elements[element] = (key.to_vec(), value.to_vec());
        hash.keys.insert(key.to_vec(), element);
        hash.free.extend(old);
        if map != maps::NAMES {
            self.check_held();
            self.held.push((map, element, key.to_vec()));
        }
    }

    pub fn delete(&mut self, map: &'static str, key: &[u8]) {
        let hash = self.hashes.entry(map).or_default();
        let element = hash.keys.remove(key).expect("deleted keys exist");
        hash.free.push(element);
        self.check_held();
    }

    /// No run that began before is still under way.
    pub fn grace(&mut self) {
        self.held.clear();
        for (map, hash) in &self.hashes {
            if *map != maps::NAMES {
                let now = hash
                    .keys
                    .values()
                    .map(|e| (*map, *e, hash.elements[*e].0.clone()));
                self.held.extend(now);
            }
        }
    }

    fn check_held(&self) {
        for (map, element, key) in &self.held {
            assert_eq!(
                &self.hashes[map].elements[*element].0, key,
                "{map}: a held element is another key's"
            );
        }
    }

    pub fn hash(&self, map: &'static str) -> impl Iterator<Item = (&[u8], &[u8])> {
        let hash = self.hashes.get(map);
        hash.into_iter()
            .flat_map(|h| h.keys.iter().map(|(k, e)| (&**k, &*h.elements[*e].1)))
    }

    pub fn get(&self, map: &'static str, key: &[u8]) -> Option<&[u8]> {
        let hash = self.hashes.get(map)?;
        hash.keys.get(key).map(|e| &*hash.elements[*e].1)
    }

    pub fn word(&self, map: &'static str, index: u32) -> u64 {
        let value = self.arrays.get(map).and_then(|a| a.get(&index));
        value.map_or(0, |v| u64::from_ne_bytes(v[..].try_into().unwrap()))
    }

    pub fn dump(&self) -> Dump {
        let mut dump = Dump::new();
        for (map, array) in &self.arrays {
            let nonzero = array.iter().filter(|(_, v)| v.iter().any(|b| *b != 0));
            dump.insert(
                map,
                nonzero
                    .map(|(k, v)| (k.to_ne_bytes().to_vec(), v.clone()))
                    .collect(),
            );
        }
        for map in self.hashes.keys() {
            dump.insert(
                map,
                self.hash(map)
                    .map(|(k, v)| (k.to_vec(), v.to_vec()))
                    .collect(),
            );
        }
        dump
    }
}

pub fn elements<'a>(
    keys: &'a [u8],
    values: &'a [u8],
    count: usize,
) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
    keys.chunks(keys.len() / count)
        .zip(values.chunks(values.len() / count))
}

pub fn keys(keys: &[u8], count: usize) -> impl Iterator<Item = &[u8]> {
    keys.chunks(keys.len() / count.max(1))
}
