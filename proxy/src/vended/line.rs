//! The vendor's socket in tokio's hands.

use std::{io, os::fd::AsFd as _};

use tokio::{io::Interest, net::UnixDatagram};
use underpass_api::vend::{
    ToVendor,
    channel::Broken,
    worker::{Event, Vendor},
};

/// tokio waits at another descriptor of it: a datagram socket is the kind that it
/// knows whose packets are whole.
pub(super) struct Line {
    vendor: Vendor,
    pub ready: UnixDatagram,
}

impl Line {
    pub fn new(vendor: Vendor) -> io::Result<Self> {
        let again = vendor.as_fd().try_clone_to_owned()?;
        let ready = UnixDatagram::from_std(again.into())?;
        Ok(Self { vendor, ready })
    }

    /// What has come; `None`: wait for more.
    pub fn next(&self) -> Result<Option<Event>, Broken> {
        let next = || match self.vendor.next() {
            Ok(None) => Err(io::ErrorKind::WouldBlock.into()),
            other => Ok(other),
        };
        self.ready
            .try_io(Interest::READABLE, next)
            .unwrap_or(Ok(None))
    }

    /// False if it is to be said again: wait until it can be.
    pub fn say(&self, word: &ToVendor) -> bool {
        let said = self
            .ready
            .try_io(Interest::WRITABLE, || self.vendor.say(word));
        // Of a vendor that has ended the end is heard.
        !said.is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock)
    }
}
