//! Kernels with known faults in socket maps are told by their number.

use super::Tested;

/// Oldest kernels on which the whole was proven, and whose known faults in socket maps are mended; of
/// other series, those from the last entry on.
const LEVELS: [(u32, u32, u32); 2] = [(6, 18, 44), (7, 2, 0)];

/// Refuses kernels with known faults.
pub fn check(release: &str) -> Tested<()> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    let mut next = || parts.next().and_then(Result::ok).unwrap_or(0_u32);
    let (major, minor, patch) = (next(), next(), next());
    let newest = LEVELS[LEVELS.len() - 1];
    let series = LEVELS.iter().find(|l| (l.0, l.1) == (major, minor));
    let good = match series {
        Some(level) => patch >= level.2,
        None => (major, minor, patch) >= newest,
    };
    if good {
        return Ok(());
    }
    let levels = LEVELS.map(|(a, b, c)| format!("{a}.{b}.{c}")).join(", ");
    Err(format!(
        "kernel {release} is not known to be safe; known: {levels} and newer"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_safe_kernels() {
        for good in ["6.18.44-fc-v669", "6.18.50", "7.2.0", "7.3.4-cloud"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in ["6.1.192-1", "6.12.117", "6.18.43", "6.19.3", "7.1.9", "odd"] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
