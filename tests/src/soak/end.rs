//! One end of a connection, driven by epoll, that follows its plan.

use std::{
    io, thread,
    time::{Duration, Instant},
};

use rustix::{
    event::epoll::EventFlags,
    io::Errno,
    net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown, sockopt},
};

use super::plan::{Driver, Leaves, Plan};
use crate::equivalence::{
    pattern::Pattern,
    poller::{Poller, Reader},
    script::End,
    task::Part,
};

/// Nothing in a plan waits so long; neither does TCP for a retransmission.
pub const STUCK: Duration = Duration::from_secs(20);

/// How an end finished; the bytes that it received and that were right.
#[derive(Debug, Default)]
pub struct Finish {
    pub received: u64,
    pub problem: Option<String>,
}

/// Follows the plan on a socket. `may_break`: the other end may leave, so errors are expected.
pub fn run(end: End, plan: &Plan, may_break: bool) -> Finish {
    if let Some(size) = plan.rcvbuf
        && let Err(e) = sockopt::set_socket_recv_buffer_size(&end, size)
    {
        return broken(0, e.into(), false);
    }
    match plan.driver {
        Driver::Tokio => super::tokio_end::run(end, plan, may_break),
        Driver::Epoll(reader) => match Loop::new(end, plan, reader) {
            Err(e) => broken(0, e, false),
            Ok(mut l) => {
                l.may_break = may_break;
                let result = l.turn_until_done();
                let received = l.end.got;
                match result {
                    Ok(()) => finish(l.end, plan, may_break),
                    Err(e) => broken(received, e, may_break),
                }
            }
        },
    }
}

pub fn broken(received: u64, e: io::Error, may_break: bool) -> Finish {
    const RESETS: [Option<i32>; 4] = [
        Some(libc::ENOTCONN),
        Some(libc::ECONNRESET),
        Some(libc::EPIPE),
        Some(libc::ECONNABORTED),
    ];
    let expected = may_break && RESETS.contains(&e.raw_os_error());
    Finish {
        received,
        problem: (!expected).then(|| e.to_string()),
    }
}

/// What a problem looks like.
pub fn stuck(plan: &Plan, sent: u64, got: u64, message: usize) -> io::Error {
    io::Error::other(format!(
        "STUCK: {got} of {} received, {sent} sent, message {message} of {}, {:?}",
        plan.expects,
        plan.messages.len(),
        plan.driver,
    ))
}

/// `got`: what was read at `offset`, which is wrong from `at` on.
pub fn wrong(theirs: Pattern, offset: u64, got: &[u8], at: u64) -> io::Error {
    let skipped = (at - offset) as usize;
    let what = match theirs.found(at, &got[skipped..]) {
        Some(there) if there > at => format!("{} bytes were lost", there - at),
        Some(there) => format!("the bytes of {there} come again"),
        None => format!(
            "{:02x?} are no bytes of it",
            &got[skipped..(skipped + 16).min(got.len())]
        ),
    };
    io::Error::other(format!(
        "WRONG byte at {at}, {skipped} into a read of {}: {what}",
        got.len()
    ))
}

struct Loop<'a> {
    end: End,
    plan: &'a Plan,
    reader: Reader,
    poller: Poller,
    pattern: Pattern,
    theirs: Pattern,
    /// Place in the messages, and in the current one.
    message: usize,
    offset: usize,
    /// What the last events said, as an edge-triggered program remembers it.
    readable: bool,
    writable: bool,
    /// The end of the stream is announced: a short read is no sign any more that nothing is left.
    closing: bool,
    ended: bool,
    shut: bool,
    stalled: bool,
    may_break: bool,
    reads: u64,
}

impl<'a> Loop<'a> {
    fn new(end: End, plan: &'a Plan, reader: Reader) -> io::Result<Self> {
        let poller = Poller::new(&end, reader.flags() | EventFlags::OUT)?;
        Ok(Self {
            pattern: end.mine(),
            theirs: end.theirs(),
            end,
            plan,
            reader,
            poller,
            message: 0,
            offset: 0,
            readable: false,
            writable: true,
            closing: false,
            ended: false,
            shut: false,
            stalled: false,
            may_break: false,
            reads: 0,
        })
    }

    fn turn_until_done(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; self.plan.read_size];
        while !self.is_done() && !self.leaves() {
            if self.writable {
                self.write()?;
            }
            if self.readable {
                self.read(&mut buffer)?;
            }
            if !self.can_go_on() {
                self.wait()?;
            }
        }
        Ok(())
    }

    /// Nothing more comes, and nothing more can be sent: what the next message waits for, maybe,
    /// will never come. Of an end that may leave nothing is expected behind the end of its stream:
    /// if it closed with unread bytes, no reset tells (`close_unread` of the exceptions).
    fn is_done(&self) -> bool {
        self.ended && (self.shut || self.may_break || !self.may_send())
    }

    /// True if something can be done without a new event.
    fn can_go_on(&self) -> bool {
        (self.readable && !self.ended) || (self.writable && self.may_send()) || self.is_done()
    }

    fn may_send(&self) -> bool {
        match self.plan.messages.get(self.message) {
            None => !self.shut,
            Some(message) => self.end.got >= message.after,
        }
    }

    fn leaves(&self) -> bool {
        let (how, at) = self.plan.leaves;
        how != Leaves::No && self.end.got.max(self.end.sent) >= at
    }

    fn wait(&mut self) -> io::Result<()> {
        if self.reader == Reader::Level {
            // Asks only for what it waits for, else the level would wake it for ever.
            let out = if self.writable {
                EventFlags::empty()
            } else {
                EventFlags::OUT
            };
            self.poller.modify(&self.end, self.reader.flags() | out)?;
        }
        let Some(events) = self.poller.wait_quietly(STUCK.as_millis() as i64) else {
            return Err(stuck(self.plan, self.end.sent, self.end.got, self.message));
        };
        let gone = EventFlags::ERR | EventFlags::HUP;
        self.closing |= events.intersects(EventFlags::RDHUP | gone);
        self.readable |= events.contains(EventFlags::IN) || self.closing;
        self.writable |= events.intersects(EventFlags::OUT | gone);
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        while self.may_send() && !self.leaves() {
            let Some(message) = self.plan.messages.get(self.message) else {
                shutdown(&self.end, Shutdown::Write)?;
                self.shut = true;
                return Ok(());
            };
            if let (0, Some(pause)) = (self.offset, message.pause) {
                thread::sleep(pause);
            }
            let bytes = self.pattern.bytes(self.end.sent, message.len - self.offset);
            match send(&self.end, &bytes, SendFlags::NOSIGNAL) {
                Ok(n) => {
                    self.end.sent += n as u64;
                    self.offset += n;
                }
                Err(Errno::AGAIN) => {
                    self.writable = false;
                    return Ok(());
                }
                Err(e) => return Err(e.into()),
            }
            if self.offset == message.len {
                self.message += 1;
                self.offset = 0;
            }
        }
        Ok(())
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        if let Some((at, pause)) = self.plan.stall
            && !self.stalled
            && self.end.got >= at
        {
            self.stalled = true;
            thread::sleep(pause);
        }
        let got = match recv(&self.end, &mut *buffer, RecvFlags::empty()) {
            Err(Errno::AGAIN) => {
                self.readable = false;
                return Ok(());
            }
            other => other?.0,
        };
        if let Some(at) = self.theirs.wrong(self.end.got, &buffer[..got]) {
            return Err(wrong(self.theirs, self.end.got, &buffer[..got], at));
        }
        self.end.got += got as u64;
        if got == 0 {
            self.ended = true;
            self.readable = false;
        } else {
            self.readable = match self.reader {
                Reader::Level => false,
                Reader::EdgeShortRead => got == buffer.len() || self.closing,
                Reader::EdgeUntilEagain => true,
            };
        }
        self.reads += 1;
        if let Some((times, pause)) = self.plan.slow
            && self.reads <= times
        {
            thread::sleep(pause);
        }
        Ok(())
    }
}

/// Judges what was received, and closes as the plan says.
pub fn finish(end: End, plan: &Plan, may_break: bool) -> Finish {
    let received = end.got;
    let left = plan.leaves.0 != Leaves::No;
    let problem = match plan.leaves.0 {
        Leaves::Resets => sockopt::set_socket_linger(&end, Some(Duration::ZERO))
            .err()
            .map(|e| e.to_string()),
        Leaves::Killed => killed(end).err().map(|e| e.to_string()),
        Leaves::No | Leaves::Closes => None,
    };
    let short = received < plan.expects;
    Finish {
        received,
        problem: problem.or_else(|| {
            (short && !left && !may_break)
                .then(|| format!("LOST: ended after {received} of {}", plan.expects))
        }),
    }
}

/// Leaves the socket to another process alone, and kills that.
fn killed(end: End) -> io::Result<()> {
    let holder = Part::start(&end, "holder", "hold", &[])?;
    drop(end);
    holder.kill()
}

/// Waits no longer than everything in a plan together may take.
pub fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(180)
}
