//! Draws by weight, in the same time whatever the number of entries: Vose's alias method.

/// Which of some entries, by weight.
#[derive(Debug, Default)]
pub(super) struct Weights {
    count: u64,
    /// Empty if all weigh the same.
    columns: Box<[Column]>,
}

/// An equal share of all draws: below the threshold this entry, else another.
#[derive(Clone, Copy, Debug)]
struct Column {
    /// Of 2^32.
    threshold: u64,
    other: usize,
}

impl Weights {
    /// None of the weights is 0.
    pub fn new(weights: impl Iterator<Item = u32>) -> Self {
        let weights: Vec<u64> = weights.map(u64::from).collect();
        let equal = weights.iter().all(|w| *w == weights[0]);
        Self {
            count: weights.len() as u64,
            columns: if equal {
                Box::default()
            } else {
                columns(&weights)
            },
        }
    }

    /// Two entries. Of equal weights they are two different ones if there are two. Else one may be drawn
    /// twice: were it not, a light one would always stand against a heavy one, and get half.
    ///
    /// There is at least one entry; `random` is evenly distributed over all of `u64`.
    pub fn draw_two(&self, random: u64) -> (usize, usize) {
        let (first, second) = (random >> 32, random & 0xffff_ffff);
        let one = self.draw(first);
        if !self.columns.is_empty() || self.count == 1 {
            return (one, self.draw(second));
        }
        let other = ((second * (self.count - 1)) >> 32) as usize;
        (one, other + usize::from(other >= one))
    }

    /// `random` is below 2^32.
    fn draw(&self, random: u64) -> usize {
        let wide = random * self.count;
        let entry = (wide >> 32) as usize;
        match self.columns.get(entry) {
            // What is left of the number after the entry was taken decides within the column.
            Some(column) if wide & 0xffff_ffff >= column.threshold => column.other,
            _ => entry,
        }
    }
}

/// Fills each column that is lighter than the mean from one that is heavier.
fn columns(weights: &[u64]) -> Box<[Column]> {
    let mean = weights.iter().sum::<u64>() as f64 / weights.len() as f64;
    let mut left: Vec<f64> = weights.iter().map(|w| *w as f64 / mean).collect();
    let whole = (0..weights.len()).map(|i| Column {
        threshold: 1 << 32,
        other: i,
    });
    let mut columns: Vec<Column> = whole.collect();
    let (mut light, mut heavy): (Vec<usize>, Vec<usize>) =
        (0..weights.len()).partition(|i| left[*i] < 1.0);
    while let (Some(small), Some(large)) = (light.pop(), heavy.pop()) {
        columns[small] = Column {
            threshold: (left[small] * (1u64 << 32) as f64) as u64,
            other: large,
        };
        left[large] -= 1.0 - left[small];
        if left[large] < 1.0 {
            light.push(large);
        } else {
            heavy.push(large);
        }
    }
    columns.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn draws_go_by_weight(weights in prop::collection::vec(1..1000u32, 1..20)) {
            let drawn = Weights::new(weights.iter().copied());
            let mut counts = vec![0f64; weights.len()];
            // The middles of equal parts of the range.
            let draws = 100_000u64;
            for i in 0..draws {
                counts[drawn.draw(((2 * i + 1) << 32) / (2 * draws))] += 1.0;
            }
            let sum: f64 = weights.iter().map(|w| f64::from(*w)).sum();
            for (count, weight) in counts.iter().zip(&weights) {
                let expected = f64::from(*weight) / sum * draws as f64;
                // Each column's parts are rounded to whole draws.
                prop_assert!((count - expected).abs() <= 2.0 * weights.len() as f64, "{counts:?}");
            }
        }

        #[test]
        fn two_of_equal_weights_are_two(count in 1..50usize, random in any::<u64>()) {
            let weights = Weights::new(std::iter::repeat_n(7, count));
            let (one, other) = weights.draw_two(random);
            prop_assert!(one < count && other < count);
            prop_assert_eq!(one == other, count == 1);
        }
    }

    #[test]
    fn each_pair_is_drawn_as_often() {
        let weights = Weights::new([1, 1, 1, 1].into_iter());
        let mut counts = [[0; 4]; 4];
        for i in 0..1200u64 {
            for j in 0..1200u64 {
                let random = |k: u64| ((2 * k + 1) << 32) / 2400;
                let (a, b) = weights.draw_two(random(i) << 32 | random(j));
                counts[a][b] += 1;
            }
        }
        for (i, j) in (0..4).flat_map(|i| (0..4).map(move |j| (i, j))) {
            assert_eq!(counts[i][j], if i == j { 0 } else { 300 * 400 });
        }
    }
}
