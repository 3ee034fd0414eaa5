//! The client: runs the load that it is told, one run at a time. One thread; epoll above one slot.

use std::{
    io::{self, BufRead as _, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpStream},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use rustix::event::epoll;

use super::{
    Kind, Latency, Load, MESSAGE, Order, Outcome, Random,
    protocol::{Answer, Command, Watched},
    server::answer,
};

/// A run ends at this many errors.
const ERRORS: u64 = 100;
/// Longest latency that is recorded as itself.
const LONGEST: u64 = 60_000_000_000;
/// Slots at most.
pub const CONCURRENCY: u32 = 1024;

/// Does what standard input says until it ends.
pub fn run() -> io::Result<()> {
    answer(&Answer::Ready)?;
    for line in io::stdin().lock().lines() {
        let reply = match serde_json::from_str(&line?) {
            Ok(Command::Run(load)) => perform(&load).map(Answer::Ran),
            Ok(Command::Try(target)) => Ok(attempt(target)),
            Ok(Command::Watch {
                target,
                wanted,
                seconds,
                rest_us,
            }) => {
                let (within, rest) = (
                    Duration::from_secs_f64(seconds),
                    Duration::from_micros(rest_us),
                );
                watch(target, wanted, within, rest).map(Answer::Watched)
            }
            other => Ok(Answer::Failed(format!("a client does not do {other:?}"))),
        };
        answer(&reply.unwrap_or_else(|e| Answer::Failed(e.to_string())))?;
    }
    Ok(())
}

struct Run<'a> {
    load: &'a Load,
    latency: Histogram<u64>,
    random: Random,
    dialed: u32,
    started: u64,
    done: u64,
    connections: u64,
    errors: u64,
    first_error: Option<String>,
    begin: Instant,
    now: Instant,
}

/// One place for a request under way.
struct Slot {
    stream: Option<TcpStream>,
    got: usize,
    start: Instant,
}

fn perform(load: &Load) -> io::Result<Outcome> {
    if load.concurrency == 0 || load.concurrency > CONCURRENCY || load.targets.count == 0 {
        return Err(io::Error::other(format!(
            "a load with 1 to {CONCURRENCY} slots and a target"
        )));
    }
    let latency = Histogram::new_with_bounds(1, LONGEST, 3).map_err(io::Error::other)?;
    let begin = Instant::now();
    let mut run = Run {
        load,
        latency,
        random: Random::new(super::now().as_nanos() as u64),
        dialed: 0,
        started: 0,
        done: 0,
        connections: 0,
        errors: 0,
        first_error: None,
        begin,
        now: begin,
    };
    if load.concurrency == 1 {
        run.alone()
    } else {
        run.many()?
    }
    Ok(run.outcome())
}

impl Run<'_> {
    /// One slot: blocking calls, nothing else.
    fn alone(&mut self) {
        let mut slot = Slot {
            stream: None,
            got: 0,
            start: self.begin,
        };
        while self.take() {
            slot.start = self.now;
            let result = self.send(&mut slot).and_then(|()| {
                loop {
                    if receive(&mut slot)? {
                        return Ok(());
                    }
                }
            });
            self.finish(&mut slot, result);
        }
    }

    fn many(&mut self) -> io::Result<()> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut slots: Vec<Slot> = Vec::new();
        slots.resize_with(self.load.concurrency as usize, || Slot {
            stream: None,
            got: 0,
            start: self.begin,
        });
        let mut flying = 0_usize;
        for (index, slot) in slots.iter_mut().enumerate() {
            flying += usize::from(self.begin_in(slot, index, &epoll));
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
                let data = event.data;
                let index = data.u64() as usize;
                let slot = &mut slots[index];
                let result = match receive(slot) {
                    Ok(false) => continue,
                    Ok(true) => Ok(()),
                    Err(e) => Err(e),
                };
                self.finish(slot, result);
                flying -= 1;
                flying += usize::from(self.begin_in(slot, index, &epoll));
            }
        }
        Ok(())
    }

    /// Starts a request in a free slot, and another if that fails at once. False if the run is over.
    fn begin_in(&mut self, slot: &mut Slot, index: usize, epoll: &rustix::fd::OwnedFd) -> bool {
        while self.take() {
            slot.start = self.now;
            let fresh = slot.stream.is_none();
            let mut result = self.send(slot);
            if let (Ok(()), true, Some(stream)) = (&result, fresh, &slot.stream) {
                let data = epoll::EventData::new_u64(index as u64);
                result = epoll::add(epoll, stream, data, epoll::EventFlags::IN).map_err(Into::into);
            }
            match result {
                Ok(()) => return true,
                Err(_) => self.finish(slot, result),
            }
        }
        false
    }

    /// Takes one operation of the load; false at a bound.
    fn take(&mut self) -> bool {
        let over = self.started >= self.load.operations
            || self.errors >= ERRORS
            || (self.now - self.begin).as_secs_f64() >= self.load.seconds;
        self.started += u64::from(!over);
        !over
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

    fn send(&mut self, slot: &mut Slot) -> io::Result<()> {
        slot.got = 0;
        if slot.stream.is_none() {
            let target = self.target();
            let stream = TcpStream::connect(target)?;
            if self.load.kind == Kind::Request {
                stream.set_nodelay(true)?;
            }
            self.connections += 1;
            slot.stream = Some(stream);
        }
        slot.stream
            .as_mut()
            .expect("connected above")
            .write_all(&[b'u'; MESSAGE])
    }

    fn finish(&mut self, slot: &mut Slot, result: io::Result<()>) {
        if self.load.kind == Kind::Connect || result.is_err() {
            slot.stream = None;
        }
        self.now = Instant::now();
        match result {
            Ok(()) => {
                self.done += 1;
                let took = (self.now - slot.start).as_nanos() as u64;
                self.latency.saturating_record(took);
            }
            Err(e) => {
                self.errors += 1;
                self.first_error.get_or_insert_with(|| e.to_string());
            }
        }
    }

    fn outcome(self) -> Outcome {
        let at = |quantile: f64| self.latency.value_at_quantile(quantile);
        Outcome {
            operations: self.done,
            connections: self.connections,
            errors: self.errors,
            first_error: self.first_error,
            seconds: (self.now - self.begin).as_secs_f64(),
            latency: Latency {
                p50: at(0.5),
                p90: at(0.9),
                p99: at(0.99),
                p999: at(0.999),
                max: self.latency.max(),
            },
        }
    }
}

/// Reads once; true when the response is complete.
fn receive(slot: &mut Slot) -> io::Result<bool> {
    let mut buffer = [0; MESSAGE];
    let stream = slot.stream.as_mut().expect("a slot under way has a stream");
    let n = stream.read(&mut buffer[slot.got..])?;
    if n == 0 {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "closed before the response",
        ));
    }
    slot.got += n;
    Ok(slot.got == MESSAGE)
}

fn attempt(target: SocketAddrV4) -> Answer {
    match exchange(target) {
        Ok(_) => Answer::Tried {
            errno: None,
            error: None,
        },
        Err(e) => Answer::Tried {
            errno: e.raw_os_error(),
            error: Some(e.to_string()),
        },
    }
}

/// One connect and request; the response, and when the connect call began and returned.
fn exchange(target: SocketAddrV4) -> io::Result<([u8; MESSAGE], Duration, Duration)> {
    let before = super::now();
    let mut stream = TcpStream::connect(target)?;
    let after = super::now();
    let mut message = [b'u'; MESSAGE];
    stream.write_all(&message)?;
    stream.read_exact(&mut message)?;
    Ok((message, before, after))
}

fn watch(
    target: SocketAddrV4,
    wanted: Ipv4Addr,
    within: Duration,
    rest: Duration,
) -> io::Result<Watched> {
    let end = super::now() + within;
    let (mut connects, mut errors) = (0, 0);
    loop {
        connects += 1;
        match exchange(target) {
            Ok((response, before, after)) if response[..4] == wanted.octets() => {
                return Ok(Watched {
                    before_ns: before.as_nanos() as u64,
                    after_ns: after.as_nanos() as u64,
                    connects,
                    errors,
                });
            }
            Ok(_) => {}
            Err(_) => {
                errors += 1;
                std::thread::sleep(rest);
            }
        }
        if super::now() > end {
            let why = format!("{wanted} did not answer within {within:?} ({connects} connects)");
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
    }
}
