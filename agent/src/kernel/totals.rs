//! Exact sums: per-CPU copies added up.

use std::io;

use underpass_abi::{
    plain,
    sock::{Total, TotalKey, counter},
};

use crate::sys::maps::Map;

pub fn totals(map: &Map) -> io::Result<Vec<(TotalKey, Total)>> {
    let mut out = Vec::new();
    map.each(|key, copies| {
        if let Some(key) = plain::from_bytes(key) {
            out.push((key, sum(copies)));
        }
    })?;
    // A concurrent insert can make the walk see an element twice.
    out.sort_by_key(|(key, _)| *key);
    out.dedup_by_key(|(key, _)| *key);
    Ok(out)
}

fn sum(copies: &[u8]) -> Total {
    let mut all = Total::default();
    let (copies, _) = copies.as_chunks::<{ size_of::<Total>() }>();
    for t in copies.iter().filter_map(|c| plain::from_bytes::<Total>(c)) {
        all.add(&t);
    }
    all
}

pub fn counters(map: &Map) -> io::Result<[u64; counter::COUNT]> {
    let mut out = [0; counter::COUNT];
    for (index, slot) in out.iter_mut().enumerate() {
        let copies = map.get(&(index as u32).to_ne_bytes())?.unwrap_or_default();
        *slot = copies
            .as_chunks::<8>()
            .0
            .iter()
            .map(|c| u64::from_ne_bytes(*c))
            .sum();
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_up_all_cpus() {
        let one = Total {
            opened: 1,
            sent: 10,
            datagrams: 3,
            ..Total::default()
        };
        let two = Total {
            opened: 2,
            closed: 1,
            received: 7,
            ..Total::default()
        };
        let copies = [plain::bytes(&one), plain::bytes(&two)].concat();
        let all = sum(&copies);
        assert_eq!(
            (all.opened, all.closed, all.sent, all.received),
            (3, 1, 10, 7)
        );
        assert_eq!(all.datagrams, 3);
    }
}
