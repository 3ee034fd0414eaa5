//! Vose's alias method over integer weights: a weighted choice in constant time.

use underpass_abi::tables::AliasSlot;

/// One slot for each (backend, weight). Weights are above 0. The probability of a backend differs
/// from its weight's share by less than 1/65536.
pub(super) fn slots(weighted: &[(u32, u32)]) -> Box<[u64]> {
    let count = weighted.len() as u64;
    // In units of total / count: a slot holds `total`.
    let total: u64 = weighted.iter().map(|(_, w)| u64::from(*w)).sum();
    let mut scaled: Vec<u64> = weighted
        .iter()
        .map(|(_, w)| u64::from(*w) * count)
        .collect();
    let backend = |i: usize| weighted[i].0;
    let mut slots: Box<[u64]> = (0..weighted.len())
        .map(|i| AliasSlot::new(backend(i), backend(i), 0).0)
        .collect();
    let (mut small, mut large): (Vec<usize>, Vec<usize>) =
        (0..weighted.len()).partition(|i| scaled[*i] < total);
    while let (Some(&lack), Some(&plenty)) = (small.last(), large.last()) {
        small.pop();
        // Rounded; 0 means "always the backend" in a slot, so the ends are whole slots.
        let threshold = (scaled[lack] * 65_536 + total / 2) / total;
        slots[lack] = match threshold {
            0 => AliasSlot::new(backend(plenty), backend(plenty), 0).0,
            t if t >= 65_536 => AliasSlot::new(backend(lack), backend(lack), 0).0,
            t => AliasSlot::new(backend(lack), backend(plenty), t as u16).0,
        };
        scaled[plenty] -= total - scaled[lack];
        if scaled[plenty] < total {
            large.pop();
            small.push(plenty);
        }
    }
    slots
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Exact probability of each backend, in units of 1 / (slots * 65536).
    fn shares(slots: &[u64]) -> BTreeMap<u32, u64> {
        let mut shares = BTreeMap::new();
        for slot in slots.iter().map(|s| AliasSlot(*s)) {
            let own = match slot.threshold() {
                0 => 65_536,
                t => u64::from(t),
            };
            *shares.entry(slot.backend()).or_default() += own;
            *shares.entry(slot.alias()).or_default() += 65_536 - own;
        }
        shares
    }

    proptest! {
        #[test]
        fn shares_are_the_weights(weights in prop::collection::vec(1..=65_535u32, 1..300)) {
            let weighted: Vec<(u32, u32)> =
                weights.iter().enumerate().map(|(i, w)| (i as u32 + 1, *w)).collect();
            let shares = shares(&slots(&weighted));
            let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
            for (backend, weight) in weighted {
                let wanted = f64::from(weight) / total as f64;
                let got = *shares.get(&backend).unwrap_or(&0) as f64;
                let got = got / (weights.len() as f64 * 65_536.0);
                prop_assert!((wanted - got).abs() <= 1.0 / 65_536.0, "{wanted} {got}");
            }
        }
    }

    #[test]
    fn equal_weights_need_no_alias() {
        for slot in slots(&[(1, 7), (2, 7), (3, 7)]) {
            assert_eq!(AliasSlot(slot).threshold(), 0);
        }
    }

    #[test]
    fn ninety_to_ten() {
        let shares = shares(&slots(&[(1, 90), (2, 10)]));
        let ten = shares[&2] as f64 / (2.0 * 65_536.0);
        assert!((ten - 0.1).abs() < 1.0 / 65_536.0);
    }
}
