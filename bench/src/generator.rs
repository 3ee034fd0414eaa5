//! The load: fixed-size requests and responses over TCP, one single-threaded process per party, so
//! that each party's CPU can be told. Closed loop: a slot starts its next request when the last one
//! is answered.

pub mod client;
pub mod protocol;
pub mod server;

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// Bytes of a request, and of a response.
pub const MESSAGE: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Connect, one request, close.
    Connect,
    /// Requests on kept connections.
    Request,
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
    pub kind: Kind,
    pub concurrency: u32,
    pub targets: Targets,
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
}

/// Nanoseconds from the intended start to the last byte of the response.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Latency {
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
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
