//! The plan of the byte-exact runs: client and server derive the same behavior of connection `i`
//! from the seed, the server by the port (one per behavior) and an 8-byte request.

use serde::{Deserialize, Serialize};

/// What happens on a connection; its place in [`ALL`] is the offset of its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Act {
    /// The client sends, half-closes and reads the answer to its end.
    HalfClose,
    /// Connect and close.
    Empty,
    /// Nothing is sent for 200 ms, then the client closes.
    Idle,
    /// The client sends, then resets; the server reads only then.
    ResetThenRead,
    /// The server sends; the client reads a part and closes with the rest unread.
    Unread,
    /// Both send and read at the same time.
    Duplex,
    /// The client writes as much as the kernel takes and is killed by SIGKILL; the server does not
    /// read before that, then only a part.
    Killed,
    /// The client writes and its process ends without closing anything.
    WriteAndExit,
}

pub const ALL: [Act; 8] = [
    Act::HalfClose,
    Act::Empty,
    Act::Idle,
    Act::ResetThenRead,
    Act::Unread,
    Act::Duplex,
    Act::Killed,
    Act::WriteAndExit,
];

impl Act {
    pub fn port(self, base: u16) -> u16 {
        base + ALL
            .iter()
            .position(|a| *a == self)
            .expect("every act is in ALL") as u16
    }
}

/// One connection: what the client sends (its request of 8 bytes included) and asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    pub act: Act,
    pub up: u64,
    pub down: u64,
}

/// Size of the request with which a client names the size of the answer.
pub const REQUEST: u64 = 8;

/// The steps of a run. Sizes are spread evenly over powers of two to 256 KiB; four connections
/// carry 50 MB.
pub fn plan(seed: u64, count: usize) -> Vec<Step> {
    let mut random = Random(seed);
    (0..count)
        .map(|i| {
            let act = ALL[random.below(6) as usize];
            let (up, down) = match i % (count / 4).max(1) {
                0 => (50_000_000, 50_000_000),
                _ => (random.size(18), random.size(18)),
            };
            match act {
                _ if up == 50_000_000 => Step {
                    act: Act::Duplex,
                    up,
                    down,
                },
                Act::Empty | Act::Idle => Step {
                    act,
                    up: 0,
                    down: 0,
                },
                _ => Step {
                    act,
                    up: up + REQUEST,
                    down,
                },
            }
        })
        .collect()
}

/// What one end of a connection counted, printed as one JSON line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    pub act: Act,
    /// The client's port: the key under which both ends and the mesh know the connection.
    pub port: u16,
    /// Sum of what `send` accepted.
    pub sent: u64,
    /// Sum of what `recv` returned.
    pub received: u64,
    /// errno of the last failed call, 0 if none failed.
    pub errno: i32,
}

/// SplitMix64: small, seeded, good enough for plans.
pub struct Random(pub u64);

impl Random {
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_u64() % bound
    }

    /// 0, or up to 2^bits, every power of two equally likely.
    fn size(&mut self, bits: u64) -> u64 {
        let power = self.below(bits + 1);
        self.below(1 << power)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_repeatable_and_has_all_sizes() {
        let steps = plan(1, 1_000);
        assert_eq!(steps, plan(1, 1_000));
        assert_eq!(steps.iter().filter(|s| s.up == 50_000_000).count(), 4);
        assert!(steps.iter().any(|s| s.act == Act::Empty));
        assert!(steps.iter().any(|s| s.act == Act::HalfClose && s.down == 0));
    }
}
