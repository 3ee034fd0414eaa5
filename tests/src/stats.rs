//! Pearson's chi-squared test.

/// The statistic for observed counts against weights. `None` if an expected count is 0.
pub fn chi_squared(observed: &[u64], weights: &[u64]) -> Option<f64> {
    let total = observed.iter().sum::<u64>() as f64;
    let sum = weights.iter().sum::<u64>() as f64;
    let mut statistic = 0.0;
    for (&seen, &weight) in observed.iter().zip(weights) {
        let expected = total * weight as f64 / sum;
        if expected <= 0.0 {
            return None;
        }
        statistic += (seen as f64 - expected).powi(2) / expected;
    }
    Some(statistic)
}

/// The value that chance exceeds once in ten thousand tests, by Wilson and Hilferty's cube
/// (7 % too high for one degree of freedom, 1.3 % for nine).
pub fn critical_value(degrees: usize) -> f64 {
    const Z: f64 = 3.719; // upper 0.0001 point of the normal distribution
    let k = degrees as f64;
    let root = 1.0 - 2.0 / (9.0 * k) + Z * (2.0 / (9.0 * k)).sqrt();
    k * root.powi(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_fair_from_skewed() {
        let weights = [90, 10];
        let limit = critical_value(1);
        assert!(chi_squared(&[9_010, 990], &weights).unwrap() < limit);
        assert!(chi_squared(&[8_500, 1_500], &weights).unwrap() > limit);
        assert!(chi_squared(&[1, 2], &[1, 0]).is_none());
    }

    #[test]
    fn critical_values_match_the_tables() {
        assert!(
            (critical_value(9) - 33.72).abs() < 0.5,
            "{}",
            critical_value(9)
        );
        assert!(
            (critical_value(1) - 15.14).abs() < 1.2,
            "{}",
            critical_value(1)
        );
    }
}
