//! When a worker starts, and when it is ended. Pure: time is passed in.
//!
//! ```text
//!            need              Hello               idle
//!   Asleep ───────► Starting ────────► Running ─────────► Leaving ──► Asleep (or Starting, if needed)
//!      ▲               │ ended, late      │ ended              (ends in time, or is killed)
//!      │               ▼                  ▼
//!      └── stopped ── Waiting ◄───────────┘   at once the first time, then with back-off
//! ```

use std::time::{Duration, Instant};

/// A worker that has not said `Hello` by then is ended.
pub const START_WITHIN: Duration = Duration::from_secs(5);
/// A worker that said that it leaves, and has not, is ended.
pub const LEAVE_WITHIN: Duration = Duration::from_secs(1);
/// The wait after the second end in a row; it doubles with each.
pub const BACKOFF_FIRST: Duration = Duration::from_millis(100);
pub const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A worker that ran so long starts the count anew.
pub const STEADY: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Asleep,
    Starting { since: Instant },
    Running { since: Instant },
    Leaving { since: Instant },
    Waiting { until: Instant },
}

/// What the caller does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Do {
    Nothing,
    Start,
    Kill,
}

#[derive(Debug)]
pub struct Life {
    pub state: State,
    /// Needed again while it leaves.
    wanted: bool,
    in_a_row: u32,
    pub starts: u64,
    /// Ends that were not asked for.
    pub crashes: u64,
    /// Ends for want of work.
    pub idle_ends: u64,
    /// From the start of the process to `Hello`, of the last one.
    pub start_time: Option<Duration>,
}

impl Default for Life {
    fn default() -> Self {
        Self {
            state: State::Asleep,
            wanted: false,
            in_a_row: 0,
            starts: 0,
            crashes: 0,
            idle_ends: 0,
            start_time: None,
        }
    }
}

impl Life {
    /// A connection waits, or root says so.
    pub fn need(&mut self, now: Instant) -> Do {
        match self.state {
            State::Asleep => self.start(now),
            State::Leaving { .. } => {
                self.wanted = true;
                Do::Nothing
            }
            _ => Do::Nothing,
        }
    }

    fn start(&mut self, now: Instant) -> Do {
        self.state = State::Starting { since: now };
        self.starts += 1;
        self.wanted = false;
        Do::Start
    }

    /// `Hello` came, and nothing is missing.
    pub fn ready(&mut self, now: Instant) {
        if let State::Starting { since } = self.state {
            self.start_time = Some(now.duration_since(since));
            self.state = State::Running { since: now };
        }
    }

    pub fn leaving(&mut self, now: Instant) {
        if matches!(self.state, State::Running { .. }) {
            self.state = State::Leaving { since: now };
        }
    }

    /// The process is gone, or could not be started. True if that was not asked for.
    pub fn ended(&mut self, now: Instant) -> bool {
        let ran = match self.state {
            State::Leaving { .. } => {
                self.idle_ends += 1;
                self.in_a_row = 0;
                self.state = if self.wanted {
                    State::Waiting { until: now }
                } else {
                    State::Asleep
                };
                return false;
            }
            State::Running { since } => now.duration_since(since),
            _ => Duration::ZERO,
        };
        self.crashes += 1;
        if ran >= STEADY {
            self.in_a_row = 0;
        }
        self.state = State::Waiting {
            until: now + pause(self.in_a_row),
        };
        self.in_a_row = self.in_a_row.saturating_add(1);
        true
    }

    /// When [`Life::tick`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Asleep | State::Running { .. } => None,
            State::Starting { since } => Some(since + START_WITHIN),
            State::Leaving { since } => Some(since + LEAVE_WITHIN),
            State::Waiting { until } => Some(until),
        }
    }

    pub fn tick(&mut self, now: Instant) -> Do {
        if self.deadline().is_none_or(|at| now < at) {
            return Do::Nothing;
        }
        match self.state {
            State::Waiting { .. } => self.start(now),
            _ => Do::Kill,
        }
    }

    pub fn name(&self) -> &'static str {
        match self.state {
            State::Asleep => "asleep",
            State::Starting { .. } => "starting",
            State::Running { .. } => "running",
            State::Leaving { .. } => "leaving",
            State::Waiting { .. } => "waiting",
        }
    }
}

/// Before the next start, after so many ends in a row.
fn pause(in_a_row: u32) -> Duration {
    match in_a_row.checked_sub(1) {
        None => Duration::ZERO,
        Some(n) => BACKOFF_FIRST
            .saturating_mul(1 << n.min(16))
            .min(BACKOFF_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_starts_once_and_leaves() {
        let now = Instant::now();
        let mut life = Life::default();
        assert_eq!(life.need(now), Do::Start);
        assert_eq!(life.need(now), Do::Nothing);
        life.ready(now + Duration::from_millis(7));
        assert_eq!(life.start_time, Some(Duration::from_millis(7)));
        assert_eq!((life.deadline(), life.need(now)), (None, Do::Nothing));
        life.leaving(now);
        assert!(!life.ended(now));
        assert_eq!(
            (life.state, life.crashes, life.idle_ends),
            (State::Asleep, 0, 1)
        );
    }

    #[test]
    fn needed_while_it_leaves_means_a_new_one() {
        let now = Instant::now();
        let mut life = Life::default();
        life.need(now);
        life.ready(now);
        life.leaving(now);
        assert_eq!(life.need(now), Do::Nothing);
        assert!(!life.ended(now));
        assert_eq!((life.tick(now), life.starts), (Do::Start, 2));
    }

    #[test]
    fn a_crash_is_followed_by_a_start_at_once_then_by_longer_waits() {
        let mut now = Instant::now();
        let mut life = Life::default();
        life.need(now);
        let mut waits = Vec::new();
        for _ in 0..12 {
            life.ready(now);
            assert!(life.ended(now));
            let at = life.deadline().unwrap();
            waits.push(at - now);
            if at > now {
                assert_eq!(life.tick(now), Do::Nothing);
            }
            now = at;
            assert_eq!(life.tick(now), Do::Start);
        }
        assert_eq!(waits[..3], [0, 100, 200].map(Duration::from_millis));
        assert_eq!(waits[11], BACKOFF_MAX);
        // One that ran for a while is restarted at once again.
        life.ready(now);
        now += STEADY;
        life.ended(now);
        assert_eq!(life.deadline(), Some(now));
    }

    #[test]
    fn one_that_hangs_is_ended() {
        let now = Instant::now();
        let mut life = Life::default();
        life.need(now);
        assert_eq!(life.tick(now + START_WITHIN), Do::Kill);
        life.ready(now);
        assert_eq!(life.tick(now + STEADY), Do::Nothing);
        life.leaving(now);
        assert_eq!(life.tick(now + LEAVE_WITHIN), Do::Kill);
    }
}
