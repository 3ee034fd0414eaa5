//! Open loop: requests begin by an absolute schedule, whether earlier ones are answered or not, and
//! latency counts from the scheduled time. One that finds no idle connection waits for one, and that wait
//! is in its latency.

use std::{
    io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use rustix::event::epoll;

use super::{
    Kind, Latency, Load, Outcome,
    run::CONCURRENCY,
    slot::{Dial, Slot},
    timer,
};

/// A run that cannot keep up goes on for so long after its schedule has ended.
pub const BEHIND: Duration = Duration::from_millis(500);
/// Requests in a second at most.
pub const RATE: f64 = 1e6;
/// Connections are dialed before the schedule begins.
const LEAD: Duration = Duration::from_millis(5);
const READ: usize = 256 << 10;
const TIMER: u64 = u64::MAX;

/// When each request is to begin.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    pub begin: Instant,
    pub rate: f64,
    pub seconds: f64,
}

impl Schedule {
    /// The time of request `number`; `None` after the last.
    pub fn at(&self, number: u64) -> Option<Instant> {
        let after = number as f64 / self.rate;
        (after < self.seconds).then(|| self.begin + Duration::from_secs_f64(after))
    }

    /// Requests that are not begun by now never are.
    pub fn deadline(&self) -> Instant {
        self.begin + Duration::from_secs_f64(self.seconds) + BEHIND
    }
}

struct Open<'a> {
    load: &'a Load,
    schedule: Schedule,
    next: u64,
    slots: Vec<Slot>,
    idle: Vec<usize>,
    epoll: OwnedFd,
    timer: OwnedFd,
    latency: Histogram<u64>,
    message: Vec<u8>,
    buffer: Vec<u8>,
    done: u64,
    now: Instant,
}

/// `rate`: requests in a second. The load's own bound on operations is not looked at.
pub fn perform(load: &Load, rate: f64) -> io::Result<Outcome> {
    let known = load.exchange.kind == Kind::Request && load.exchange.depth == 1;
    if !known || load.blocking || !(1..=CONCURRENCY).contains(&load.concurrency) {
        return Err(io::Error::other(format!(
            "open loop is requests on 1 to {CONCURRENCY} connections: {load:?}"
        )));
    }
    if !(rate > 0.0 && rate <= RATE) || load.targets.count == 0 || !load.exchange.is_valid() {
        return Err(io::Error::other(format!("at {rate} in a second: {load:?}")));
    }
    let now = Instant::now();
    let mut open = Open {
        load,
        schedule: Schedule {
            begin: now + LEAD,
            rate,
            seconds: load.seconds,
        },
        next: 0,
        slots: Vec::new(),
        idle: (0..load.concurrency as usize).collect(),
        epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
        timer: timer::create()?,
        latency: Latency::histogram(),
        message: vec![b'u'; load.exchange.message as usize],
        buffer: vec![0; READ],
        done: 0,
        now,
    };
    open.dial()?;
    let failed = open.run().err();
    Ok(open.outcome(failed))
}

impl Open<'_> {
    fn dial(&mut self) -> io::Result<()> {
        let data = epoll::EventData::new_u64(TIMER);
        epoll::add(&self.epoll, &self.timer, data, epoll::EventFlags::IN)?;
        for index in 0..self.load.concurrency {
            let mut slot = Slot::default();
            let dial = match &self.load.unix {
                Some(path) => Dial::Unix(path),
                None => Dial::Tcp(self.load.targets.at(index)),
            };
            slot.connect(&dial, &self.load.exchange, false)?;
            slot.wait(&self.epoll, index as usize, false)?;
            self.slots.push(slot);
        }
        Ok(())
    }

    fn run(&mut self) -> io::Result<()> {
        let none = epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        };
        let mut events = [none; 64];
        loop {
            self.now = Instant::now();
            let more = self.begin_due()?;
            if !more && self.idle.len() == self.slots.len() {
                return Ok(());
            }
            let count = match epoll::wait(&self.epoll, &mut events, None) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            };
            for event in &events[..count] {
                // Copies: the kernel's structure is packed.
                let (data, flags) = (event.data, event.flags);
                match data.u64() {
                    TIMER => timer::clear(&self.timer),
                    index => self.turn(index as usize, flags)?,
                }
            }
        }
    }

    /// Begins what is due while connections are idle; false if nothing is left to begin.
    fn begin_due(&mut self) -> io::Result<bool> {
        loop {
            let Some(due) = self.schedule.at(self.next) else {
                return Ok(false);
            };
            if self.now > self.schedule.deadline() {
                return Ok(false);
            }
            if due > self.now {
                timer::set(&self.timer, due - self.now)?;
                return Ok(true);
            }
            // Without an idle connection the next answer brings us here again.
            let Some(index) = self.idle.pop() else {
                return Ok(true);
            };
            self.next += 1;
            self.slots[index].begin(&self.load.exchange, due);
            self.send(index)?;
        }
    }

    fn send(&mut self, index: usize) -> io::Result<()> {
        let slot = &mut self.slots[index];
        let sent = slot.flush(&mut self.message, &self.load.exchange)?;
        slot.wait(&self.epoll, index, !sent)
    }

    fn turn(&mut self, index: usize, flags: epoll::EventFlags) -> io::Result<()> {
        if flags.contains(epoll::EventFlags::OUT) {
            self.send(index)?;
        }
        if flags == epoll::EventFlags::OUT {
            return Ok(());
        }
        let slot = &mut self.slots[index];
        let complete = slot.receive(&mut self.buffer, &self.load.exchange)?;
        if complete > slot.starts.len() as u64 {
            return Err(io::Error::other("more responses than requests"));
        }
        self.now = Instant::now();
        for due in slot.starts.drain(..complete as usize) {
            self.done += 1;
            let took = self.now.saturating_duration_since(due);
            self.latency.saturating_record(took.as_nanos() as u64);
            self.idle.push(index);
        }
        Ok(())
    }

    fn outcome(self, failed: Option<io::Error>) -> Outcome {
        let took = self.now.saturating_duration_since(self.schedule.begin);
        Outcome {
            operations: self.done,
            connections: self.slots.len() as u64,
            errors: failed.is_some().into(),
            first_error: failed.map(|e| e.to_string()),
            // A schedule that was kept has taken its time, also after its last request.
            seconds: took.as_secs_f64().max(self.load.seconds),
            latency: Latency::of(&self.latency),
            distribution: Latency::distribution(&self.latency),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_does_not_drift_and_ends() {
        let begin = Instant::now();
        let schedule = Schedule {
            begin,
            rate: 3.0,
            seconds: 1.0,
        };
        let at: Vec<_> = (0..4).map(|n| schedule.at(n)).collect();
        assert_eq!(at[0], Some(begin));
        assert_eq!(at[2], Some(begin + Duration::from_secs_f64(2.0 / 3.0)));
        assert_eq!(at[3], None);
    }
}
