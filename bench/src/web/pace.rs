//! When a caller's next request begins: at once, or by a schedule that all callers share.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::io::unix::AsyncFd;

use crate::generator::{open::Schedule, timer};

/// All callers stand ready before the schedule begins.
const LEAD: Duration = Duration::from_millis(5);

pub enum Pace {
    /// The next begins when the last is answered, until then.
    Closed(Instant),
    Open {
        schedule: Schedule,
        /// Of the next request that no caller has taken.
        next: Arc<AtomicU64>,
        timer: AsyncFd<OwnedFd>,
    },
}

/// One for each caller. `rate`: requests in a second by a schedule; closed loop without.
pub fn paces(
    callers: u32,
    rate: Option<f64>,
    seconds: f64,
    begin: Instant,
) -> io::Result<Vec<Pace>> {
    let callers = 0..callers;
    let Some(rate) = rate else {
        let end = begin + Duration::from_secs_f64(seconds);
        return Ok(callers.map(|_| Pace::Closed(end)).collect());
    };
    let next = Arc::new(AtomicU64::new(0));
    let schedule = Schedule {
        begin: begin + LEAD,
        rate,
        seconds,
    };
    #[expect(
        deprecated,
        reason = "its successor is unsafe, for types whose descriptor may change; an OwnedFd's does not"
    )]
    let pace = |_| {
        Ok(Pace::Open {
            schedule,
            next: next.clone(),
            timer: AsyncFd::new(timer::create()?)?,
        })
    };
    callers.map(pace).collect()
}

impl Pace {
    /// The time from which the latency of the next request counts, once that has come; `None` at the end.
    /// `last`: when the last was answered.
    pub async fn next(&mut self, last: Instant) -> io::Result<Option<Instant>> {
        let (schedule, next, timer) = match self {
            Self::Closed(end) => return Ok((last < *end).then_some(last)),
            Self::Open {
                schedule,
                next,
                timer,
            } => (schedule, next, timer),
        };
        let Some(due) = schedule.at(next.fetch_add(1, Relaxed)) else {
            return Ok(None);
        };
        let now = Instant::now();
        if now > schedule.deadline() {
            return Ok(None);
        }
        if due > now {
            timer::set(timer.get_ref(), due - now)?;
            let mut gone_off = timer.readable().await?;
            timer::clear(timer.get_ref());
            gone_off.clear_ready();
        }
        Ok(Some(due))
    }
}
