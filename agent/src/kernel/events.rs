//! The ring of events, for a plain poll loop or for tokio.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    path::Path,
};

use aya::maps::{Map, MapData, RingBuf};
use tokio::io::unix::AsyncFd;
use underpass_abi::{plain, reason::code, sock::Event};

use super::KernelError;
use crate::sys;

/// The consumer of `EVENTS`. There is one per node: the lock sees to that.
pub struct EventRing {
    ring: RingBuf<MapData>,
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
        Ok(Self { ring, malformed: 0 })
    }

    /// The next event, if there is one.
    #[expect(
        clippy::should_implement_trait,
        reason = "an empty ring is not the end"
    )]
    pub fn next(&mut self) -> Option<Event> {
        loop {
            let item = self.ring.next()?;
            match plain::from_bytes(&item) {
                Some(event) => return Some(event),
                None => self.malformed += 1,
            }
        }
    }

    /// Entries that had another size than an event.
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    /// Hands the ring to tokio; must be called within a runtime.
    pub fn into_stream(self) -> io::Result<EventStream> {
        sys::net::readable(self).map(|fd| EventStream { fd })
    }
}

impl AsFd for EventRing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl AsRawFd for EventRing {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

/// The ring under tokio.
pub struct EventStream {
    fd: AsyncFd<EventRing>,
}

impl EventStream {
    /// Waits for the next event; safe to cancel.
    pub async fn next(&mut self) -> io::Result<Event> {
        loop {
            if let Some(event) = self.try_next() {
                return Ok(event);
            }
            let mut guard = self.fd.readable_mut().await?;
            // Look again before clearing: an event may have come since.
            match guard.get_inner_mut().next() {
                Some(event) => return Ok(event),
                None => guard.clear_ready(),
            }
        }
    }

    /// The next event, if there is one already.
    pub fn try_next(&mut self) -> Option<Event> {
        self.fd.get_mut().next()
    }

    pub fn malformed(&self) -> u64 {
        self.fd.get_ref().malformed()
    }
}
