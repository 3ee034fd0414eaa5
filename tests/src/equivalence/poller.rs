//! epoll as readers use it.

use std::{io, os::fd::OwnedFd};

use rustix::event::{
    Timespec,
    epoll::{self, CreateFlags, Event, EventData, EventFlags},
};

use super::{
    script::{End, QUIET_MS},
    transcript::events,
};

pub struct Poller {
    fd: OwnedFd,
    name: String,
}

/// How a reader decides that a socket is drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    Level,
    /// Edge-triggered; a read that did not fill the buffer means drained (tokio, nginx).
    EdgeShortRead,
    /// Edge-triggered; reads until EAGAIN.
    EdgeUntilEagain,
}

impl Reader {
    pub fn flags(self) -> EventFlags {
        match self {
            Self::Level => EventFlags::IN | EventFlags::RDHUP,
            _ => EventFlags::IN | EventFlags::RDHUP | EventFlags::ET,
        }
    }
}

impl Poller {
    pub fn new(end: &End, flags: EventFlags) -> io::Result<Self> {
        let fd = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&fd, end, EventData::new_u64(0), flags)?;
        Ok(Self {
            fd,
            name: format!("{} epoll", end.name),
        })
    }

    pub fn modify(&self, end: &End, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::modify(&self.fd, end, EventData::new_u64(0), flags)?)
    }

    /// Waits and notes the event.
    pub fn wait(&self, end: &End, ms: i64) -> Option<EventFlags> {
        let found = self.wait_quietly(ms);
        let text = found.map_or("none".to_owned(), events);
        end.log.line(&self.name, format!("wait = {text}"));
        found
    }

    /// Notes that no event comes.
    pub fn quiet(&self, end: &End) {
        self.wait(end, QUIET_MS);
    }

    pub fn wait_quietly(&self, ms: i64) -> Option<EventFlags> {
        let mut found = [Event {
            flags: EventFlags::empty(),
            data: EventData::new_u64(0),
        }];
        let limit = Timespec {
            tv_sec: ms / 1000,
            tv_nsec: (ms % 1000) * 1_000_000,
        };
        match epoll::wait(&self.fd, &mut found[..], Some(&limit)) {
            Ok(1) => Some(found[0].flags),
            _ => None,
        }
    }

    /// Reads as this kind of reader does until nothing is announced any more.
    pub fn read(&self, end: &mut End, reader: Reader, size: usize) {
        for _ in 0..1000 {
            if self.wait(end, QUIET_MS).is_none() {
                return;
            }
            loop {
                let got = end.recv(size);
                let stop = match reader {
                    Reader::Level => true,
                    Reader::EdgeShortRead => got.is_ok_and(|n| n < size),
                    Reader::EdgeUntilEagain => false,
                };
                if stop || got.is_err() || got == Ok(0) {
                    break;
                }
            }
            if end.ended {
                return;
            }
        }
    }
}
