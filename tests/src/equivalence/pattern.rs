//! The bytes of a stream: each offset has its value, so that any part can be checked alone.

use std::sync::LazyLock;

use crate::bytes::Random;

/// A prime, so that bytes that moved by a whole page, segment or message never match.
const PERIOD: usize = 1_000_003;

static TABLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut random = Random(0x5eed);
    let mut bytes = Vec::with_capacity(PERIOD + 8);
    while bytes.len() < PERIOD {
        bytes.extend(random.next_u64().to_le_bytes());
    }
    bytes.truncate(PERIOD);
    bytes
});

#[derive(Clone, Copy, Debug)]
pub struct Pattern {
    start: u64,
}

impl Pattern {
    pub fn new(seed: u64) -> Self {
        Self {
            start: Random(seed).below(PERIOD as u64),
        }
    }

    pub fn fill(self, offset: u64, mut out: &mut [u8]) {
        let mut at = self.index(offset);
        while !out.is_empty() {
            let part = out.len().min(PERIOD - at);
            out[..part].copy_from_slice(&TABLE[at..at + part]);
            out = &mut out[part..];
            at = 0;
        }
    }

    pub fn bytes(self, offset: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        self.fill(offset, &mut out);
        out
    }

    /// The offset of the first byte that is not what was sent.
    pub fn wrong(self, offset: u64, mut got: &[u8]) -> Option<u64> {
        let (mut at, mut here) = (self.index(offset), offset);
        while !got.is_empty() {
            let part = got.len().min(PERIOD - at);
            if got[..part] != TABLE[at..at + part] {
                let same = got.iter().zip(&TABLE[at..]).take_while(|(a, b)| a == b);
                return Some(here + same.count() as u64);
            }
            here += part as u64;
            got = &got[part..];
            at = 0;
        }
        None
    }

    /// Where in the stream these bytes stand, as near to `offset` as the period allows: what tells bytes
    /// that were lost from bytes that came twice.
    pub fn found(self, offset: u64, got: &[u8]) -> Option<u64> {
        /// So many random bytes stand at one place only.
        const SURE: usize = 16;
        let got = got.get(..SURE)?;
        let index = TABLE.windows(SURE).position(|w| w == got)? as u64;
        let period = PERIOD as u64;
        let ahead = (index + period - self.index(offset) as u64) % period;
        let behind = period - ahead;
        if ahead <= behind || behind > offset {
            Some(offset + ahead)
        } else {
            Some(offset - behind)
        }
    }

    fn index(self, offset: u64) -> usize {
        ((self.start + offset) % PERIOD as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moved_byte_is_found() {
        let p = Pattern::new(7);
        let mut bytes = p.bytes(999_990, 4_000);
        assert_eq!(p.wrong(999_990, &bytes), None);
        assert!(p.wrong(999_990 + 4096, &bytes).is_some());
        bytes[3_000] ^= 1;
        assert_eq!(p.wrong(999_990, &bytes), Some(1_002_990));
        let later = p.bytes(999_990 + 4096, 100);
        assert_eq!(p.found(999_990, &later), Some(999_990 + 4096));
        assert_eq!(p.found(1_010_000, &later), Some(999_990 + 4096));
    }
}
