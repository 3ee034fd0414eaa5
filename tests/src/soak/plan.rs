//! What the connections of a burst do.

use std::time::Duration;

use crate::{bytes::Random, equivalence::poller::Reader};

/// One message of an end, sent when so many bytes have been received: request and response,
/// pipelining and streams differ only in this.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    pub after: u64,
    pub len: usize,
    pub pause: Option<Duration>,
}

/// How an end waits for its socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    Epoll(Reader),
    Tokio,
}

/// How an end leaves before its plan is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaves {
    /// It does not: it half-closes behind its last byte and reads to the end.
    No,
    /// Linger 0.
    Resets,
    /// Plain close, whatever is unread.
    Closes,
    /// The process that holds the socket is killed.
    Killed,
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub messages: Vec<Message>,
    /// Bytes that the other end sends.
    pub expects: u64,
    pub driver: Driver,
    pub read_size: usize,
    /// Stops reading for a while when so many bytes have come.
    pub stall: Option<(u64, Duration)>,
    /// Sleeps after each read, so many times.
    pub slow: Option<(u64, Duration)>,
    pub rcvbuf: Option<usize>,
    /// When so many bytes were received or sent.
    pub leaves: (Leaves, u64),
}

impl Plan {
    /// For the report of a problem.
    pub fn brief(&self) -> String {
        let first: Vec<(u64, usize)> = self
            .messages
            .iter()
            .take(3)
            .map(|m| (m.after, m.len))
            .collect();
        format!(
            "{} messages {first:?}.. (after, bytes), expects {}, {:?}, reads of {}, stall {:?}, slow {:?}, \
             rcvbuf {:?}, leaves {:?}",
            self.messages.len(),
            self.expects,
            self.driver,
            self.read_size,
            self.stall,
            self.slow,
            self.rcvbuf,
            self.leaves
        )
    }
}

/// Client's and server's.
pub type Pair = [Plan; 2];

/// At most so many bytes each way on a connection.
const BYTES_MAX: u64 = 8 << 20;

#[derive(Clone, Debug)]
pub struct BurstPlan {
    pub pairs: Vec<Pair>,
    pub veth: bool,
    /// Redirection is turned off and on at random intervals up to this.
    pub flips: Option<Duration>,
    pub seed: u64,
}

pub fn burst(seed: u64) -> BurstPlan {
    let mut r = Random(seed);
    let count = 8 + r.below(56);
    BurstPlan {
        pairs: (0..count).map(|_| pair(&mut r)).collect(),
        veth: r.below(4) == 0,
        flips: (r.below(3) > 0).then(|| Duration::from_millis(1 + r.below(30))),
        seed,
    }
}

/// The seed of the burst after one.
pub fn next(seed: u64) -> u64 {
    Random(seed ^ 0x0bad_5eed).next_u64() >> 1
}

/// Below 2^bits, small values as likely as large ones.
fn spread(r: &mut Random, bits: u64) -> u64 {
    let power = r.below(bits);
    r.below(1 << power)
}

/// 1 B to 2 MB, every power of two equally likely.
fn size(r: &mut Random) -> usize {
    1 + spread(r, 22) as usize
}

fn pair(r: &mut Random) -> Pair {
    let (mut up, mut down) = (Vec::new(), Vec::new());
    let kind = r.below(4);
    let rounds = 1 + spread(r, 9);
    let (typical, varied) = (size(r), r.below(2) == 0);
    let (mut sent, mut answered) = (0_u64, 0_u64);
    for _ in 0..rounds {
        let mut len = || if varied { size(r) } else { typical };
        let (there, back) = (len(), len());
        if sent + there as u64 > BYTES_MAX || answered + back as u64 > BYTES_MAX {
            break;
        }
        let pause = |r: &mut Random| {
            let pauses = r.below(40) == 0;
            pauses.then(|| Duration::from_micros(r.below(20_000)))
        };
        // Request and response; pipelining; two streams; one stream.
        let (after_back, after_there) = match kind {
            0 => (answered, sent + there as u64),
            1 => (0, sent + there as u64),
            _ => (0, 0),
        };
        up.push(Message {
            after: after_back,
            len: there,
            pause: pause(r),
        });
        sent += there as u64;
        if kind < 3 {
            down.push(Message {
                after: after_there,
                len: back,
                pause: pause(r),
            });
            answered += back as u64;
        }
    }
    // Somebody leaves early on one connection in eight.
    let leaves = match r.below(24) {
        0 => Leaves::Resets,
        1 => Leaves::Closes,
        2 => Leaves::Killed,
        _ => Leaves::No,
    };
    let leaver = r.below(2);
    let mut plan = |messages, expects, place| Plan {
        messages,
        expects,
        driver: match r.below(5) {
            0 => Driver::Epoll(Reader::Level),
            1 => Driver::Epoll(Reader::EdgeUntilEagain),
            2 | 3 => Driver::Epoll(Reader::EdgeShortRead),
            _ => Driver::Tokio,
        },
        // At most some thousand reads, so that a burst takes seconds.
        read_size: (1 + spread(r, 20)).max(expects / 5_000) as usize,
        stall: (r.below(10) == 0).then(|| {
            let ms = spread(r, 11);
            (r.below(expects + 1), Duration::from_millis(ms))
        }),
        slow: (r.below(20) == 0).then(|| (r.below(1_000), Duration::from_micros(r.below(300)))),
        // A window below loopback's segment moves at the pace of TCP's probe timer.
        rcvbuf: match r.below(12) {
            0 if expects < 2 << 20 => Some(64 << 10),
            1 if expects < 200 << 10 => Some(20 << 10),
            _ => None,
        },
        leaves: match place == leaver {
            true => (leaves, r.below(sent.max(answered) + 1)),
            false => (Leaves::No, 0),
        },
    };
    [plan(up, answered, 0), plan(down, sent, 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_plan_and_what_is_sent_is_expected() {
        let plan = burst(77);
        assert_eq!(format!("{plan:?}"), format!("{:?}", burst(77)));
        for seed in 0..200 {
            for [client, server] in burst(seed).pairs {
                for (one, other) in [(&client, &server), (&server, &client)] {
                    let sum: u64 = one.messages.iter().map(|m| m.len as u64).sum();
                    assert_eq!(sum, other.expects);
                    assert!(sum <= BYTES_MAX);
                    assert!(one.messages.iter().all(|m| m.after <= one.expects));
                }
            }
        }
    }
}
