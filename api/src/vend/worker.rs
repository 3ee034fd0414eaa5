//! A worker's end of the vendor's protocol. Fits a poll loop or tokio's `AsyncFd`.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use super::{
    channel::{Broken, Channel, Received},
    message::{Family, ToVendor, ToWorker},
};

/// The connection to the vendor.
#[derive(Debug)]
pub struct Vendor(Channel);

/// What the vendor said, with the sockets that came along.
#[derive(Debug)]
pub enum Event {
    Welcome {
        idle_ms: u32,
        tenant: String,
    },
    Workload {
        id: u64,
        name: String,
    },
    /// What requests go by, of a tenant: one, unless the worker is shared. To be answered by
    /// [`Vendor::applied`] or [`Vendor::rejected`].
    Snapshot {
        tenant: String,
        version: u64,
        /// Sealed, for others too: read it by position.
        file: OwnedFd,
        /// Takes the worker's report.
        report: OwnedFd,
    },
    /// Unconnected, non-blocking, in the workload's namespace.
    Stock {
        workload: u64,
        family: Family,
        sockets: Vec<OwnedFd>,
    },
    /// Listening and non-blocking. The vendor keeps another descriptor of it.
    Listener {
        workload: u64,
        port: u16,
        socket: OwnedFd,
    },
    /// Finish what is under way for the workload, while it can still be reached, and begin nothing.
    Drain {
        workload: u64,
    },
    /// Close everything of the workload, then call [`Vendor::gone_done`], within a second: a vendor that
    /// waits longer ends the worker, because one socket keeps a namespace alive.
    Gone {
        workload: u64,
    },
    Refused {
        workload: u64,
        code: u16,
    },
    Stop {
        within_ms: u32,
    },
    /// The vendor has ended: so must the worker.
    Closed,
}

impl AsFd for Vendor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Vendor {
    /// From standard input, where the vendor puts its end, and says `Hello`. `missing` is what
    /// [`super::sandbox::restrict`] returned.
    ///
    /// # Errors
    /// If the process was not started by a vendor.
    pub fn hello(missing: u32) -> io::Result<Self> {
        let vendor = Self(Channel::from_stdin()?);
        vendor.say(&ToVendor::Hello { missing })?;
        Ok(vendor)
    }

    /// Asks for `count` unconnected sockets, 1 to 64; the answer is `Stock` or `Refused`.
    ///
    /// # Errors
    /// `WouldBlock` if the vendor is behind.
    pub fn want(&self, workload: u64, family: Family, count: u16) -> io::Result<()> {
        self.say(&ToVendor::Want {
            workload,
            family,
            count,
        })
    }

    /// # Errors
    /// `WouldBlock` if the vendor is behind: try again.
    pub fn gone_done(&self, workload: u64) -> io::Result<()> {
        self.say(&ToVendor::GoneDone { workload })
    }

    /// Says that the process ends for want of work. Accept nothing after it: what waits in a listener's
    /// queue is for the next worker. Exit when [`Event::Closed`] comes: before, it would look like a crash.
    ///
    /// # Errors
    /// `WouldBlock` if the vendor is behind: try again.
    pub fn leaving(&self) -> io::Result<()> {
        self.say(&ToVendor::Leaving)
    }

    /// # Errors
    /// `WouldBlock` if the vendor is behind: try again.
    pub fn applied(&self, tenant: &str, version: u64) -> io::Result<()> {
        let tenant = tenant.to_owned();
        self.say(&ToVendor::Applied { tenant, version })
    }

    /// # Errors
    /// `WouldBlock` if the vendor is behind: try again.
    pub fn rejected(&self, tenant: &str, version: u64, code: u16) -> io::Result<()> {
        let tenant = tenant.to_owned();
        self.say(&ToVendor::Rejected {
            tenant,
            version,
            code,
        })
    }

    /// # Errors
    /// `WouldBlock` if the vendor is behind: try again.
    pub fn say(&self, message: &ToVendor) -> io::Result<()> {
        self.0.send(&message.frame(), &[])
    }

    /// The next message, `None` if there is none yet.
    ///
    /// # Errors
    /// For what no vendor of this version sends.
    pub fn next(&self) -> Result<Option<Event>, Broken> {
        let (frame, mut fds) = match self.0.recv()? {
            Received::Empty => return Ok(None),
            Received::Closed => return Ok(Some(Event::Closed)),
            Received::Frame(frame, fds) => (frame, fds),
        };
        let event = match ToWorker::read(&frame, fds.len())? {
            ToWorker::Welcome { idle_ms, tenant } => Event::Welcome { idle_ms, tenant },
            ToWorker::Workload { id, name } => Event::Workload { id, name },
            ToWorker::Stock { workload, family } => Event::Stock {
                workload,
                family,
                sockets: fds,
            },
            ToWorker::Listener { workload, port } => match fds.pop() {
                Some(socket) => Event::Listener {
                    workload,
                    port,
                    socket,
                },
                None => return Err(super::Malformed::Descriptors.into()),
            },
            ToWorker::Snapshot { tenant, version } => {
                let (Some(report), Some(file)) = (fds.pop(), fds.pop()) else {
                    return Err(super::Malformed::Descriptors.into());
                };
                Event::Snapshot {
                    tenant,
                    version,
                    file,
                    report,
                }
            }
            ToWorker::Drain { workload } => Event::Drain { workload },
            ToWorker::Gone { workload } => Event::Gone { workload },
            ToWorker::Refused { workload, code } => Event::Refused { workload, code },
            ToWorker::Stop { within_ms } => Event::Stop { within_ms },
        };
        Ok(Some(event))
    }
}
