//! Allocation of ranges in `SLOTS`.

use std::collections::BTreeMap;

use super::TablesError;

/// Free ranges by offset, first fit. Offset 0 is never used. What is freed while a change is made
/// can be used in the next one only, after a grace period.
#[derive(Clone, Debug)]
pub(super) struct Extents {
    limit: u32,
    free: BTreeMap<u32, u32>,
    freed_now: Vec<(u32, u32)>,
}

impl Extents {
    pub(super) fn new(limit: usize) -> Self {
        let limit = limit as u32;
        Self {
            limit,
            free: BTreeMap::from([(1, limit - 1)]),
            freed_now: Vec::new(),
        }
    }

    pub(super) fn begin(&mut self) {
        for (offset, len) in std::mem::take(&mut self.freed_now) {
            self.give_back(offset, len);
        }
    }

    pub(super) fn in_use(&self) -> u32 {
        let waiting: u32 = self.freed_now.iter().map(|(_, len)| len).sum();
        self.limit - 1 - self.free.values().sum::<u32>() - waiting
    }

    pub(super) fn take(&mut self, len: u32) -> Result<u32, TablesError> {
        let fits = self.free.iter().find(|(_, l)| **l >= len);
        let Some((offset, found)) = fits.map(|(o, l)| (*o, *l)) else {
            let limit = self.limit as usize;
            let free: u32 = self.free.values().sum();
            let need = limit - free as usize + len as usize;
            return Err(TablesError::Limit {
                what: "SLOTS",
                need: need.max(limit + 1),
                limit,
            });
        };
        self.free.remove(&offset);
        if found > len {
            self.free.insert(offset + len, found - len);
        }
        Ok(offset)
    }

    pub(super) fn free(&mut self, offset: u32, len: u32) {
        self.freed_now.push((offset, len));
    }

    /// After a restart: a range is in use. False if it overlaps another or the end.
    pub(super) fn adopt(&mut self, offset: u32, len: u32) -> bool {
        let Some((start, size)) = self
            .free
            .range(..=offset)
            .next_back()
            .map(|(o, l)| (*o, *l))
        else {
            return false;
        };
        let Some(end) = offset.checked_add(len).filter(|end| *end <= start + size) else {
            return false;
        };
        self.free.remove(&start);
        if offset > start {
            self.free.insert(start, offset - start);
        }
        if start + size > end {
            self.free.insert(end, start + size - end);
        }
        true
    }

    fn give_back(&mut self, mut offset: u32, mut len: u32) {
        if let Some((before, size)) = self.free.range(..offset).next_back().map(|(o, l)| (*o, *l))
            && before + size == offset
        {
            self.free.remove(&before);
            offset = before;
            len += size;
        }
        if let Some(size) = self.free.remove(&(offset + len)) {
            len += size;
        }
        self.free.insert(offset, len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_ranges_merge_and_wait_for_the_next_change() {
        let mut e = Extents::new(100);
        let a = e.take(40).unwrap();
        let b = e.take(40).unwrap();
        assert_eq!((a, b), (1, 41));
        assert_eq!(e.in_use(), 80);
        e.free(a, 40);
        e.free(b, 40);
        assert!(e.take(40).is_err());
        assert_eq!(e.in_use(), 0);
        e.begin();
        assert_eq!(e.take(99).unwrap(), 1);
        assert!(e.take(1).is_err());
    }

    #[test]
    fn adopted_ranges_are_not_given_out() {
        let mut e = Extents::new(20);
        assert!(e.adopt(5, 5));
        assert!(!e.adopt(9, 2));
        assert!(!e.adopt(18, 3));
        assert_eq!(e.take(5).unwrap(), 10);
        assert_eq!(e.take(4).unwrap(), 1);
    }
}
