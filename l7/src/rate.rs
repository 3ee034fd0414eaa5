//! A token bucket that is exact: tokens are counted in nanoseconds times requests, so that no rounding
//! adds up. It reads no clock.

use underpass_mesh::snapshot::Rate;

/// Full at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Requests in `unit`: what a nanosecond adds.
    requests: u128,
    /// What one token is.
    unit: u128,
    /// What it holds at most.
    most: u128,
    held: u128,
    /// When `held` was so; `None` before the first request.
    at_ns: Option<u64>,
}

impl Bucket {
    /// One of `shards` that share a rate. A burst is at least one token for each.
    pub fn new(rate: &Rate, shards: u32) -> Self {
        let shards = u128::from(shards.max(1));
        let per = rate.per.as_nanos().clamp(1, u128::from(u64::MAX));
        let unit = per * shards;
        let most = (u128::from(rate.burst) * per).max(unit);
        Self {
            requests: rate.requests.into(),
            unit,
            most,
            held: most,
            at_ns: None,
        }
    }

    /// The limit is the same, whatever it holds now.
    pub fn is_same(&self, other: &Self) -> bool {
        (self.requests, self.unit, self.most) == (other.requests, other.unit, other.most)
    }

    /// Takes a token.
    ///
    /// # Errors
    /// Without one: nanoseconds until there is.
    pub fn take(&mut self, now_ns: u64) -> Result<(), u64> {
        let since = now_ns.saturating_sub(self.at_ns.unwrap_or(now_ns));
        // A clock that went back does not count the same time twice.
        self.at_ns = Some(now_ns.max(self.at_ns.unwrap_or(0)));
        let new = u128::from(since) * self.requests;
        self.held = (self.held + new).min(self.most);
        if self.requests == 0 {
            return Err(u64::MAX);
        }
        if self.held >= self.unit {
            self.held -= self.unit;
            return Ok(());
        }
        let wait = (self.unit - self.held).div_ceil(self.requests);
        Err(u64::try_from(wait).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;

    fn rate(requests: u32, per: Duration, burst: u32) -> Rate {
        Rate {
            requests,
            per,
            burst,
        }
    }

    fn per_second(requests: u32, burst: u32) -> Bucket {
        Bucket::new(&rate(requests, Duration::from_secs(1), burst), 1)
    }

    #[test]
    fn a_burst_then_the_rate() {
        let mut bucket = per_second(10, 3);
        for _ in 0..3 {
            assert_eq!(bucket.take(5), Ok(()));
        }
        assert_eq!(bucket.take(5), Err(100 * MS));
        assert_eq!(bucket.take(5 + 40 * MS), Err(60 * MS));
        assert_eq!(bucket.take(5 + 100 * MS), Ok(()));
        assert_eq!(bucket.take(5 + 100 * MS), Err(100 * MS));
        // It fills up to the burst and no further.
        let later = 3_600_000 * MS;
        for _ in 0..3 {
            assert_eq!(bucket.take(later), Ok(()));
        }
        assert!(bucket.take(later).is_err());
    }

    #[test]
    fn nothing_is_lost_by_rounding() {
        let mut bucket = per_second(3, 1);
        let taken = (0..3_000_000).filter(|us| bucket.take(us * 1_000 + 1).is_ok());
        assert_eq!(taken.count(), 9);
    }

    #[test]
    fn shards_share_it() {
        let whole = rate(100, Duration::from_secs(1), 40);
        let mut shards = [Bucket::new(&whole, 4); 4];
        let mut taken = 0;
        for ms in 0..10_000 {
            for shard in &mut shards {
                taken += u32::from(shard.take(ms * MS).is_ok());
            }
        }
        assert_eq!(taken, 40 + 999 / 4 * 4, "burst and rate of all together");
    }

    #[test]
    fn odd_rates_and_clocks_do_no_harm() {
        let mut none = Bucket::new(&rate(0, Duration::ZERO, 0), 0);
        assert_eq!(none.take(0), Err(u64::MAX));
        let mut bucket = per_second(u32::MAX, u32::MAX);
        assert_eq!(bucket.take(u64::MAX), Ok(()));
        let mut back = per_second(1, 1);
        assert_eq!(back.take(5_000 * MS), Ok(()));
        for _ in 0..5 {
            assert!(back.take(10 * MS).is_err());
            assert!(back.take(5_000 * MS).is_err());
        }
        let mut long = Bucket::new(&rate(1, Duration::MAX, u32::MAX), u32::MAX);
        assert_eq!(long.take(0), Ok(()));
    }

    proptest! {
        /// In no window is there more than a burst and the window's rate; who waits as told gets a token.
        #[test]
        fn it_holds_in_every_window(
            requests in 1..1_000_u32,
            burst in 1..50_u32,
            gaps in proptest::collection::vec(0..50_000_000_u64, 1..300),
        ) {
            let mut bucket = per_second(requests, burst);
            let (mut now, mut taken) = (7, Vec::new());
            for gap in gaps {
                now += gap;
                match bucket.take(now) {
                    Ok(()) => taken.push(now),
                    Err(wait) => {
                        prop_assert!(wait > 0);
                        prop_assert!(bucket.clone().take(now + wait - 1).is_err());
                        prop_assert!(bucket.clone().take(now + wait).is_ok());
                    }
                }
            }
            for (i, from) in taken.iter().enumerate() {
                for (n, to) in taken[i..].iter().enumerate() {
                    let most = f64::from(burst) + (to - from) as f64 * f64::from(requests) / 1e9;
                    prop_assert!((n + 1) as f64 <= most + 1e-6, "{} in {}", n + 1, to - from);
                }
            }
        }
    }
}
