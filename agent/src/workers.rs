//! HTTP workers, as far as the agent has to do with them: it tells the vendor in which namespaces they
//! listen and what they know of the plan, and hears what became of it.
//!
//! The vendor is asked by a thread of its own, so that the control loop never waits for it. Both sides
//! leave the newest of what they have to say; nothing queues up.

mod desk;
mod memory;
mod reports;
mod session;
mod told;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::{
    event::{EventfdFlags, eventfd},
    io::{read, write},
};
use underpass_mesh::{Str, snapshot::Snapshot};

pub use self::{
    desk::{AWAY_PATIENCE, SWEEP_EVERY},
    memory::{REPORT_BYTES, SNAPSHOT_MAX},
    reports::{Reports, now_ns},
    session::{Line, VendorLine},
    told::Door,
};
use crate::problem::Problem;

/// What the vendor is to have.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    /// By workload.
    pub doors: BTreeMap<Str, Door>,
    /// By tenant; their `version` is given when they are sent.
    pub snapshots: BTreeMap<Str, Arc<Snapshot>>,
}

/// What the vendor has, as far as is known.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// The vendor that answers.
    pub vendor: Option<VendorLine>,
    /// Why none does.
    pub away: Option<Problem>,
    /// Workloads in whose namespace the worker listens on all ports that were wanted.
    pub doors: BTreeSet<Str>,
    pub tenants: BTreeMap<Str, Tenant>,
    /// What was refused and is tried again.
    pub problems: Vec<Problem>,
    pub counts: Counts,
}

/// One tenant.
#[derive(Clone, Debug)]
pub struct Tenant {
    /// Of the snapshot that was sent last; 0: none.
    pub sent: u64,
    /// What the vendor says of it.
    pub line: Line,
    /// Where its worker writes what it has counted.
    pub report: Arc<OwnedFd>,
}

/// Since the agent started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Times that a vendor was found.
    pub connected: u64,
    /// Times that it was lost.
    pub lost: u64,
    pub snapshots_sent: u64,
    /// Refusals of the vendor.
    pub refused: u64,
    /// Reports of workers that could not be read.
    pub bad_reports: u64,
}

/// What the loop and the thread leave for each other.
struct Shared {
    wanted: Mutex<Option<Arc<Wanted>>>,
    standing: Mutex<Arc<Standing>>,
    reports: Reports,
    /// The vendor's cgroup, once the kernel's programs know it: only then do they take its listeners for a
    /// worker's. The thread forgets it with each vendor.
    known: Mutex<Option<PathBuf>>,
    /// Workloads whose listeners the programs do not know, though the vendor has them.
    unheard: Mutex<BTreeSet<Str>>,
    /// Readable for the thread: something is wanted, or it is to end.
    ask: OwnedFd,
    /// Readable for the loop: something has changed.
    answer: OwnedFd,
}

/// The loop's end.
pub struct Workers {
    shared: Arc<Shared>,
    path: PathBuf,
    /// The last that was wanted.
    last: Arc<Wanted>,
}

impl Workers {
    /// For the vendor at `path`. `adopted`: doors that an earlier agent left open; they count as open
    /// until the vendor says otherwise.
    ///
    /// # Errors
    /// If there can be no further descriptor.
    pub fn new(path: &Path, adopted: BTreeSet<Str>) -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let standing = Standing {
            doors: adopted,
            ..Standing::default()
        };
        let shared = Arc::new(Shared {
            wanted: Mutex::default(),
            standing: Mutex::new(Arc::new(standing)),
            reports: Reports::default(),
            known: Mutex::default(),
            unheard: Mutex::default(),
            ask: eventfd(0, flags)?,
            answer: eventfd(0, flags)?,
        });
        Ok(Self {
            shared,
            path: path.to_owned(),
            last: Arc::default(),
        })
    }

    /// Starts the thread that speaks to the vendor.
    ///
    /// # Errors
    /// If there can be no further thread.
    pub fn start(&self) -> io::Result<()> {
        let kept = lock(&self.shared.standing).doors.clone();
        let desk = desk::Desk::new(self.shared.clone(), self.path.clone(), kept);
        let thread = std::thread::Builder::new().name("vendor".into());
        thread.spawn(move || desk.run()).map(|_| ())
    }

    /// Leaves what is wanted from now on.
    pub fn want(&mut self, wanted: Wanted) {
        let mut slot = lock(&self.shared.wanted);
        if slot.is_some() && wanted == *self.last {
            return;
        }
        self.last = Arc::new(wanted);
        *slot = Some(self.last.clone());
        drop(slot);
        ring(&self.shared.ask);
    }

    /// The kernel's programs know this cgroup as the vendor's; until then it is asked for nothing.
    pub fn knows(&self, cgroup: PathBuf) {
        *lock(&self.shared.known) = Some(cgroup);
        ring(&self.shared.ask);
    }

    pub fn is_known(&self, cgroup: &Path) -> bool {
        self.shared.is_known(cgroup)
    }

    /// The programs have not seen these workloads' listeners begin to listen: a vendor that was started
    /// again made them by itself, before it was known. They are made anew, once for each vendor.
    pub fn listen_anew(&self, workloads: BTreeSet<Str>) {
        if !workloads.is_empty() {
            *lock(&self.shared.unheard) = workloads;
            ring(&self.shared.ask);
        }
    }

    /// What was wanted last.
    pub fn wanted(&self) -> &Wanted {
        &self.last
    }

    /// Readable when [`Workers::standing`] has changed.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.shared.answer.as_fd()
    }

    /// What is new, for who has waited for [`Workers::fd`].
    pub fn news(&self) -> Arc<Standing> {
        quiet(&self.shared.answer);
        self.standing()
    }

    pub fn standing(&self) -> Arc<Standing> {
        lock(&self.shared.standing).clone()
    }

    /// What workers have counted.
    pub fn reports(&self) -> &Reports {
        &self.shared.reports
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        // The thread sees that nobody else holds what is shared.
        ring(&self.shared.ask);
    }
}

impl Shared {
    fn wanted(&self) -> Option<Arc<Wanted>> {
        quiet(&self.ask);
        lock(&self.wanted).clone()
    }

    fn wanted_now(&self) -> Option<Arc<Wanted>> {
        lock(&self.wanted).clone()
    }

    fn is_known(&self, cgroup: &Path) -> bool {
        lock(&self.known).as_deref() == Some(cgroup)
    }

    fn publish(&self, standing: Standing) {
        *lock(&self.standing) = Arc::new(standing);
        ring(&self.answer);
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ring(fd: &OwnedFd) {
    // Fails only if the counter is at its maximum, and then the other side is awake.
    let _ = write(fd, &1_u64.to_ne_bytes());
}

fn quiet(fd: &OwnedFd) {
    let mut counter = [0; 8];
    let _ = read(fd, &mut counter);
}
