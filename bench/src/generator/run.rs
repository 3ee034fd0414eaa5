//! One run of a load. One thread: blocking calls for one slot, or epoll and non-blocking sockets.

use std::{io, net::SocketAddrV4, os::fd::OwnedFd, time::Instant};

use hdrhistogram::Histogram;
use rustix::event::epoll;

use super::{
    Kind, Latency, Load, Order, Outcome, Random,
    slot::{Dial, Slot},
};

/// A run ends at this many errors.
const ERRORS: u64 = 100;
/// Slots at most.
pub const CONCURRENCY: u32 = 1024;
/// Bytes of one read at most.
const READ: usize = 256 << 10;

struct Run<'a> {
    load: &'a Load,
    latency: Histogram<u64>,
    random: Random,
    /// The bytes of one message, and what was read last.
    message: Vec<u8>,
    buffer: Vec<u8>,
    dialed: u32,
    started: u64,
    done: u64,
    connections: u64,
    errors: u64,
    first_error: Option<String>,
    begin: Instant,
    now: Instant,
}

pub fn perform(load: &Load) -> io::Result<Outcome> {
    let slots = 1..=if load.blocking { 1 } else { CONCURRENCY };
    let simple = load.exchange.depth == 1 && load.exchange.kind != Kind::Stream;
    if !slots.contains(&load.concurrency)
        || load.targets.count == 0
        || !load.exchange.is_valid()
        || (load.blocking && !simple)
    {
        return Err(io::Error::other(format!(
            "a load has 1 to {CONCURRENCY} slots, one if blocking, and a target: {load:?}"
        )));
    }
    let latency = Latency::histogram();
    let begin = Instant::now();
    let mut run = Run {
        load,
        latency,
        random: Random::new(super::now().as_nanos() as u64),
        message: vec![b'u'; load.exchange.message as usize],
        buffer: vec![0; READ],
        dialed: 0,
        started: 0,
        done: 0,
        connections: 0,
        errors: 0,
        first_error: None,
        begin,
        now: begin,
    };
    if load.blocking {
        run.alone()
    } else {
        run.many()?
    }
    Ok(run.outcome())
}

impl Run<'_> {
    /// One slot: blocking calls, nothing else.
    fn alone(&mut self) {
        let mut slot = Slot::default();
        while self.start_in(&mut slot) {
            let result = self.connected(&mut slot).and_then(|()| {
                slot.flush(&mut self.message, &self.load.exchange)?;
                while slot.receive(&mut self.buffer, &self.load.exchange)? == 0 {}
                Ok(())
            });
            match result {
                Ok(()) => self.answered(&mut slot, 1),
                Err(e) => self.failed(&mut slot, &e),
            }
        }
    }

    fn many(&mut self) -> io::Result<()> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut slots: Vec<Slot> = Vec::new();
        slots.resize_with(self.load.concurrency as usize, Slot::default);
        let mut flying = 0_usize;
        for (index, slot) in slots.iter_mut().enumerate() {
            flying += usize::from(self.go_on(slot, index, &epoll));
        }
        let none = epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        };
        let mut events = [none; 64];
        while flying > 0 {
            let count = match epoll::wait(&epoll, &mut events, None) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            };
            for event in &events[..count] {
                // Copies: the kernel's structure is packed.
                let (data, flags) = (event.data, event.flags);
                let index = data.u64() as usize;
                let slot = &mut slots[index];
                let writable_only = flags == epoll::EventFlags::OUT;
                if let Err(e) = self.read(slot, writable_only) {
                    self.failed(slot, &e);
                }
                flying -= usize::from(!self.go_on(slot, index, &epoll));
            }
        }
        Ok(())
    }

    /// What an event says that came in.
    fn read(&mut self, slot: &mut Slot, writable_only: bool) -> io::Result<()> {
        if writable_only {
            return Ok(());
        }
        if slot.ending {
            if slot.has_ended()? {
                *slot = Slot::default();
            }
            return Ok(());
        }
        let complete = slot.receive(&mut self.buffer, &self.load.exchange)?;
        if complete > slot.starts.len() as u64 {
            return Err(io::Error::other("more responses than requests"));
        }
        self.answered(slot, complete);
        Ok(())
    }

    /// Starts what the slot has room for and sends what can be sent; again if that fails at once.
    /// False if the run is over for it.
    fn go_on(&mut self, slot: &mut Slot, index: usize, epoll: &OwnedFd) -> bool {
        loop {
            match self.fill(slot, index, epoll) {
                Ok(under_way) => return under_way,
                Err(e) => self.failed(slot, &e),
            }
        }
    }

    fn fill(&mut self, slot: &mut Slot, index: usize, epoll: &OwnedFd) -> io::Result<bool> {
        let exchange = &self.load.exchange;
        while !slot.ending && slot.starts.len() < exchange.depth as usize && self.start_in(slot) {}
        if slot.starts.is_empty() && !slot.ending {
            if exchange.kind == Kind::Stream && slot.fd.is_some() {
                slot.end()?;
                slot.wait(epoll, index, false)?;
                return Ok(true);
            }
            *slot = Slot::default();
            return Ok(false);
        }
        if slot.ending {
            return Ok(true);
        }
        self.connected(slot)?;
        let sent = slot.flush(&mut self.message, exchange)?;
        if exchange.kind == Kind::Stream && sent {
            self.answered(slot, 1);
        }
        // A stream lets the others have a turn after each block.
        slot.wait(epoll, index, !sent || exchange.kind == Kind::Stream)?;
        Ok(true)
    }

    /// Takes one operation of the load; false at a bound.
    fn start_in(&mut self, slot: &mut Slot) -> bool {
        let over = self.started >= self.load.operations
            || self.errors >= ERRORS
            || (self.now - self.begin).as_secs_f64() >= self.load.seconds;
        if !over {
            self.started += 1;
            slot.begin(&self.load.exchange, self.now);
        }
        !over
    }

    fn connected(&mut self, slot: &mut Slot) -> io::Result<()> {
        if slot.fd.is_some() {
            return Ok(());
        }
        let dial = match &self.load.unix {
            Some(path) => Dial::Unix(path),
            None => Dial::Tcp(self.target()),
        };
        slot.connect(&dial, &self.load.exchange, self.load.blocking)?;
        self.connections += 1;
        Ok(())
    }

    fn target(&mut self) -> SocketAddrV4 {
        let targets = &self.load.targets;
        let index = match self.load.order {
            Order::Sequential => self.dialed,
            Order::Random if targets.count == 1 => 0,
            Order::Random => self.random.below(targets.count),
        };
        self.dialed = self.dialed.wrapping_add(1);
        targets.at(index)
    }

    fn answered(&mut self, slot: &mut Slot, count: u64) {
        if count == 0 {
            return;
        }
        self.now = Instant::now();
        for start in slot.starts.drain(..count as usize) {
            self.done += 1;
            let took = (self.now - start).as_nanos() as u64;
            self.latency.saturating_record(took);
        }
        if self.load.exchange.kind == Kind::Connect {
            *slot = Slot::default();
        }
    }

    /// The connection is gone, and what was under way on it.
    fn failed(&mut self, slot: &mut Slot, error: &io::Error) {
        self.now = Instant::now();
        *slot = Slot::default();
        self.errors += 1;
        self.first_error.get_or_insert_with(|| error.to_string());
    }

    fn outcome(self) -> Outcome {
        Outcome {
            operations: self.done,
            connections: self.connections,
            errors: self.errors,
            first_error: self.first_error,
            seconds: (self.now - self.begin).as_secs_f64(),
            latency: Latency::of(&self.latency),
            distribution: Latency::distribution(&self.latency),
        }
    }
}
