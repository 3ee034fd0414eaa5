//! The ring of events.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use aya::maps::{Map, MapData, RingBuf};
use rustix::{
    event::{Timespec, epoll},
    io,
};
use underpass_abi::{plain, reason::code, shortcut::Notice, sock::Event};

use super::KernelError;

/// One entry of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    Event(Event),
    Notice(Notice),
}

impl Told {
    pub fn notice(self) -> Option<Notice> {
        match self {
            Self::Event(_) => None,
            Self::Notice(notice) => Some(notice),
        }
    }
}

/// The consumer of `EVENTS`. There is one per node: the lock sees to that.
///
/// Its descriptor is readable when a program asked for the consumer, not whenever there is something
/// in the ring: rows of ended connections may wait, and taking a few at a time costs more than the
/// rows themselves.
pub struct EventRing {
    ring: RingBuf<MapData>,
    calls: OwnedFd,
    malformed: u64,
}

impl EventRing {
    pub(super) fn open(pin: &Path) -> Result<Self, KernelError> {
        let failed =
            |e| KernelError::new(code::PINS_INCOMPATIBLE, format!("{}: {e}", pin.display()));
        let map = MapData::from_pin(pin)
            .and_then(Map::from_map_data)
            .map_err(failed)?;
        let ring = RingBuf::try_from(map).map_err(failed)?;
        let calls =
            edge(&ring).map_err(|e| KernelError::io(code::FEATURE_OFF, "epoll")(e.into()))?;
        Ok(Self {
            ring,
            calls,
            malformed: 0,
        })
    }

    /// Forgets calls up to now. To be done before the ring is emptied, so that none is missed.
    pub fn answer(&self) {
        let mut events = [epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        }];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // An error leaves the descriptor readable: the ring is looked at again, which is cheap.
        let _ = epoll::wait(&self.calls, &mut events, Some(&now));
    }

    /// Makes the descriptor readable if something is left in the ring.
    pub fn call_again(&self) {
        let _ = epoll::modify(&self.calls, &self.ring, epoll::EventData::new_u64(0), EDGE);
    }

    /// The next event, if there is one.
    #[expect(
        clippy::should_implement_trait,
        reason = "an empty ring is not the end"
    )]
    #[inline]
    pub fn next(&mut self) -> Option<Told> {
        loop {
            let item = self.ring.next()?;
            if let Some(event) = plain::from_bytes(&item) {
                return Some(Told::Event(event));
            }
            match plain::from_bytes(&item) {
                Some(notice) => return Some(Told::Notice(notice)),
                None => self.malformed += 1,
            }
        }
    }

    /// Entries that had another size than an event.
    pub fn malformed(&self) -> u64 {
        self.malformed
    }
}

impl AsFd for EventRing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.calls.as_fd()
    }
}

const EDGE: epoll::EventFlags = epoll::EventFlags::IN.union(epoll::EventFlags::ET);

/// A descriptor that is readable after each wake-up of `ring`'s readers; at first if it is not empty.
fn edge(ring: impl AsFd) -> io::Result<OwnedFd> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, ring, epoll::EventData::new_u64(0), EDGE)?;
    Ok(epoll)
}
