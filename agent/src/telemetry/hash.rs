//! A fast hasher for keys that the kernel or the operator chose: cookies, indexes, names of services.
//! The default one, made for keys that an attacker chooses, cost more than the rest of a row.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

pub type FastMap<K, V> = HashMap<K, V, BuildHasherDefault<Mix>>;

/// Multiplies each word by an odd constant and folds the product's halves together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.write_u64(u64::from_ne_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.write_u64(u64::from_ne_bytes(last));
    }

    #[inline]
    fn write_u64(&mut self, word: u64) {
        /// 2^64 divided by the golden ratio.
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        let product = u128::from(self.0 ^ word ^ ODD) * u128::from(ODD);
        self.0 = product as u64 ^ (product >> 64) as u64;
    }

    #[inline]
    fn write_u32(&mut self, word: u32) {
        self.write_u64(word.into());
    }

    #[inline]
    fn write_u8(&mut self, byte: u8) {
        self.write_u64(byte.into());
    }

    #[inline]
    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashSet,
        hash::{BuildHasher, Hash},
    };

    use super::*;

    fn hash(key: impl Hash) -> u64 {
        BuildHasherDefault::<Mix>::default().hash_one(key)
    }

    /// The map takes its bucket from the low bits, and seven high ones to tell keys of a bucket apart.
    #[test]
    fn keys_in_a_row_are_spread() {
        let (mut low, mut high) = (HashSet::new(), HashSet::new());
        for cookie in 0..4_096_u64 {
            let hash = hash(cookie);
            low.insert(hash % 4_096);
            high.insert(hash >> 57);
        }
        // Random ones would fill 1 - 1/e of the buckets.
        assert!(low.len() > 2_400, "{}", low.len());
        assert_eq!(high.len(), 128);
    }

    #[test]
    fn every_part_of_a_key_counts() {
        let names = [
            "",
            "a",
            "b",
            "shop/ledger:80",
            "shop/ledger:8",
            "shop/ledger:81",
        ];
        let hashes: HashSet<u64> = names.into_iter().map(hash).collect();
        assert_eq!(hashes.len(), names.len());
        let kinds: HashSet<u64> = (0..6)
            .map(|n| {
                let mut kind = [1_u32; 6];
                kind[n] = 2;
                hash(kind)
            })
            .collect();
        assert_eq!(kinds.len(), 6);
    }
}
