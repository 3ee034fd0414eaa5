//! The load: messages of fixed sizes over TCP or a Unix socket, one single-threaded process per party,
//! so that each party's CPU can be told. Closed loop: a slot starts its next request when an earlier one
//! is answered. Open loop ([`open`]): requests begin by a schedule. Each message ends with its number, which the other end checks.

pub mod client;
mod framing;
pub mod open;
pub mod protocol;
mod run;
pub mod server;
mod slot;
pub mod stall;
pub mod timer;

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    path::PathBuf,
    time::Duration,
};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Bytes of a request, and of a response, until a server is told otherwise.
pub const MESSAGE: usize = 1024;
/// Bytes of one message at most.
pub const LARGEST: u32 = 1 << 20;
/// A stream counts in blocks of this size, which every size of its writes divides.
pub const BLOCK: u32 = 256 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Connect, one request, close.
    Connect,
    /// Requests on kept connections.
    Request,
    /// One direction, nothing is answered until its end.
    Stream,
}

/// What goes over a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchange {
    pub kind: Kind,
    /// Bytes of a request and of its response, or of a stream's block.
    pub message: u32,
    /// Bytes of one write of the client; divides `message`.
    pub write: u32,
    /// Requests of one connection that are under way together.
    pub depth: u32,
}

impl Exchange {
    pub const fn connect(message: u32) -> Self {
        Self {
            kind: Kind::Connect,
            message,
            write: message,
            depth: 1,
        }
    }

    pub const fn pipeline(message: u32, depth: u32) -> Self {
        Self {
            kind: Kind::Request,
            message,
            write: message,
            depth,
        }
    }

    pub const fn request(message: u32) -> Self {
        Self::pipeline(message, 1)
    }

    pub const fn stream(write: u32) -> Self {
        Self {
            kind: Kind::Stream,
            message: BLOCK,
            write,
            depth: 1,
        }
    }

    pub fn is_valid(&self) -> bool {
        (16..=LARGEST).contains(&self.message)
            && self.write > 0
            && self.message.is_multiple_of(self.write)
            && (1..=1024).contains(&self.depth)
    }
}

/// Consecutive addresses with one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Targets {
    pub base: Ipv4Addr,
    pub count: u32,
    pub port: u16,
}

impl Targets {
    pub fn at(&self, index: u32) -> SocketAddrV4 {
        SocketAddrV4::new(
            Ipv4Addr::from_bits(self.base.to_bits() + index % self.count),
            self.port,
        )
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Each target in turn.
    Sequential,
    Random,
}

/// One run of the client; ends at whichever bound comes first.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Load {
    pub exchange: Exchange,
    pub concurrency: u32,
    /// One slot with blocking calls and no epoll: the cheapest client there is.
    pub blocking: bool,
    pub targets: Targets,
    /// Dialed instead of the targets.
    pub unix: Option<PathBuf>,
    pub order: Order,
    pub seconds: f64,
    pub operations: u64,
}

/// What the client saw.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    pub operations: u64,
    /// Connections opened.
    pub connections: u64,
    pub errors: u64,
    pub first_error: Option<String>,
    pub seconds: f64,
    pub latency: Latency,
    /// Every latency that was recorded, in nanoseconds, and how often; empty where another program
    /// measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub distribution: Vec<(u64, u64)>,
}

/// Nanoseconds from the intended start to the last byte of the response; of a stream's block, until the
/// kernel had taken it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Latency {
    pub p50: u64,
    /// `None` where another program measured and does not tell.
    pub p90: Option<u64>,
    pub p99: u64,
    pub p999: Option<u64>,
    pub max: u64,
}

/// Longest latency that is recorded as itself, in nanoseconds.
const LONGEST: u64 = 60_000_000_000;

impl Latency {
    /// To record nanoseconds in.
    pub fn histogram() -> Histogram<u64> {
        Histogram::new_with_bounds(1, LONGEST, 3).expect("these bounds are allowed")
    }

    /// Recorded values to some 1.5 %, and how often they came: it is told in the time that is measured, so
    /// it must be short.
    pub fn distribution(recorded: &Histogram<u64>) -> Vec<(u64, u64)> {
        let mut all: Vec<(u64, u64)> = Vec::new();
        for value in recorded.iter_recorded() {
            let (coarse, count) = (coarse(value.value_iterated_to()), value.count_at_value());
            match all.last_mut() {
                Some((last, sum)) if *last == coarse => *sum += count,
                _ => all.push((coarse, count)),
            }
        }
        all
    }

    /// Of recorded nanoseconds.
    pub fn of(recorded: &Histogram<u64>) -> Self {
        let at = |quantile: f64| recorded.value_at_quantile(quantile);
        Self {
            p50: at(0.5),
            p90: Some(at(0.9)),
            p99: at(0.99),
            p999: Some(at(0.999)),
            max: recorded.max(),
        }
    }
}

/// The largest value with the same first seven bits.
const fn coarse(value: u64) -> u64 {
    let low = (u64::BITS - value.leading_zeros()).saturating_sub(7);
    value | ((1 << low) - 1)
}

/// `CLOCK_MONOTONIC`, the same in every process of the machine.
pub fn now() -> Duration {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(t.tv_sec.unsigned_abs(), t.tv_nsec.unsigned_abs() as u32)
}

/// Small generator of random numbers (xorshift64*): choosing a target must cost nothing.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    fn draw(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    /// Uniform enough below `n`.
    pub fn below(&mut self, n: u32) -> u32 {
        ((u64::from(self.draw()) * u64::from(n)) >> 32) as u32
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u32 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_count_upwards_and_wrap() {
        let targets = Targets {
            base: Ipv4Addr::new(10, 64, 0, 255),
            count: 3,
            port: 80,
        };
        assert_eq!(
            targets.at(1),
            SocketAddrV4::new(Ipv4Addr::new(10, 64, 1, 0), 80)
        );
        assert_eq!(targets.at(3), targets.at(0));
    }

    #[test]
    fn a_distribution_is_coarse_and_loses_nothing() {
        let mut recorded = Latency::histogram();
        for value in [100, 1_000_000, 1_000_100, 1_003_000, 2_000_000] {
            recorded.record(value).unwrap();
        }
        let all = Latency::distribution(&recorded);
        let counts: Vec<u64> = all.iter().map(|(_, count)| *count).collect();
        assert_eq!(counts, [1, 3, 1]);
        assert!((1_000_000..1_020_000).contains(&all[1].0), "{all:?}");
        assert_eq!((coarse(0), coarse(127), coarse(200)), (0, 127, 201));
    }

    #[test]
    fn what_cannot_be_framed_is_not_valid() {
        assert!(Exchange::stream(128 << 10).is_valid() && Exchange::request(LARGEST).is_valid());
        for wrong in [
            Exchange::request(8),
            Exchange::request(LARGEST + 1),
            Exchange::stream(100),
            Exchange::stream(0),
            Exchange::pipeline(64, 0),
        ] {
            assert!(!wrong.is_valid(), "{wrong:?}");
        }
    }

    #[test]
    fn random_numbers_stay_below_their_bound_and_reach_all() {
        let mut random = Random::new(7);
        let mut seen = [0; 10];
        (0..10_000).for_each(|_| seen[random.below(10) as usize] += 1);
        assert!(seen.iter().all(|n| (800..1200).contains(n)), "{seen:?}");
    }

    #[test]
    fn shuffling_loses_nothing() {
        let mut items: Vec<u32> = (0..50).collect();
        Random::new(3).shuffle(&mut items);
        assert_ne!(items, (0..50).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..50).collect::<Vec<_>>());
    }
}
