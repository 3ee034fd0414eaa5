//! The control loop: one thread owns the model, the tables, the kernel and the telemetry. Files and
//! facts change → compile → lay out → apply. Whatever fails, the last good plan stays in force.
//!
//! Everyone else asks the loop by sending it a closure ([`Handle::ask`]).

mod before;
mod connections;
mod counts;
mod files;
mod install;
mod jobs;
mod namespaces;
mod recheck;
mod shortcut;
mod workers;
mod workers_status;

use std::{
    collections::BTreeMap,
    os::fd::AsFd,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    time::{ClockId, clock_gettime},
};
use underpass_abi::{
    reason::code,
    sock::EventKind,
    tables::{NameKind, maps},
};
use underpass_mesh::{Facts, Model, Plan, Tables};

use self::install::{adopt, version_in};
pub use self::{
    connections::Sample,
    counts::Counts,
    jobs::{Handle, Unavailable, queue},
};
use crate::{
    discover::{Discovery, Host},
    kernel::{EventRing, Kernel, KernelError, caps, events::Told},
    last_good::LastGood,
    log,
    options::{DefaultPolicy, Options},
    problem::Problem,
    sys,
    telemetry::{self, Names, table::Table},
    watch::Watch,
    workers::Workers,
};

/// Events that one turn of the loop takes, at most.
const EVENTS_PER_TURN: usize = 8_192;
/// Pause between two looks at a busy ring.
const RING_PAUSE: Duration = Duration::from_millis(5);
/// Files that are written together are read together.
const DEBOUNCE: Duration = Duration::from_micros(500);
/// How often the loop looks for what nobody told it.
const TICK: Duration = Duration::from_millis(250);
/// Every so many ticks: what is expensive to look at.
const SLOW_TICK: u32 = 8;

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ControlError(pub Problem);

impl From<KernelError> for ControlError {
    fn from(e: KernelError) -> Self {
        Self(of_kernel(&e))
    }
}

/// A kernel error as a problem.
pub fn of_kernel(e: &KernelError) -> Problem {
    Problem::error(e.code, e.detail.clone(), "")
}

pub struct Control {
    pub(crate) node: telemetry::Node,
    pub(crate) kernel: Kernel,
    pub(crate) tables: Tables,
    pub(crate) model: Model,
    pub(crate) plan: Arc<Plan>,
    pub(crate) facts: Facts,
    pub(crate) watch: Watch,
    pub(crate) discovery: Discovery,
    pub(crate) workers: Workers,
    pub(crate) table: Table,
    pub(crate) default_policy: DefaultPolicy,
    pub(crate) started: Instant,
    /// The plan in force: its version, when it was applied and how long that took.
    pub(crate) applied: Option<AppliedPlan>,
    /// Why the newest plan is not in force, or a part of the node does not work.
    pub(crate) failures: BTreeMap<&'static str, Problem>,
    pub(crate) counts: Counts,
    last_good: LastGood,
    ring: EventRing,
    host: Host,
    namespaces: namespaces::Namespaces,
    before: before::Before,
    sample: Option<(Instant, Arc<Sample>)>,
    /// Of the newest plan in the maps.
    version: u64,
    keep_denied: bool,
    /// Compile again at the next tick: the last attempt failed.
    retry: bool,
    /// A large change or answer left much free memory behind.
    pub(crate) give_back: bool,
    ticks: u32,
    ring_rests_until: Instant,
}

#[derive(Clone, Copy, Debug)]
pub struct AppliedPlan {
    pub version: u64,
    pub at: Instant,
    pub took: Duration,
}

impl Control {
    /// Opens the node. Rules that an earlier agent left go on working until the first plan is ready.
    pub fn open(options: &Options) -> Result<Self, ControlError> {
        let mesh = options.mesh.as_deref().expect("clap requires --mesh");
        // Before files that the same user may not read either.
        caps::require()?;
        let watch = Watch::open(mesh).map_err(|e| {
            ControlError(Problem::error(
                code::UNREADABLE,
                e.to_string(),
                mesh.display().to_string(),
            ))
        })?;
        let last_good = LastGood::open(&options.state_dir, mesh).map_err(ControlError)?;
        let kernel = Kernel::open(&options.kernel())?;
        let dump = kernel.dump()?;
        let version = version_in(dump.get(maps::SETTINGS).into_iter().flatten()).unwrap_or(0);
        let tables = adopt(&dump)?;
        let doors = workers::doors_in(&dump, &tables);
        let workers = Workers::new(&options.vend, doors.clone()).map_err(|e| {
            ControlError(Problem::error(
                code::FEATURE_OFF,
                format!("eventfd: {e}"),
                "",
            ))
        })?;
        let ring = kernel.take_events()?;
        let host = Host::current()?;
        let root = kernel.cgroup().path();
        let level = kernel.cgroup().level_of(root).unwrap_or(0);
        let discovery = Discovery::new(root, level, host).map_err(|e| {
            ControlError(Problem::error(
                code::FEATURE_OFF,
                format!("inotify: {e}"),
                "",
            ))
        })?;
        Ok(Self {
            node: telemetry::Node {
                name: options.node_name(),
                ..telemetry::Node::default()
            },
            facts: Facts {
                node: options.node_name(),
                default_policy: match options.default_policy {
                    DefaultPolicy::Allow => underpass_mesh::DefaultPolicy::Allow,
                    DefaultPolicy::Deny => underpass_mesh::DefaultPolicy::Deny,
                    DefaultPolicy::Audit => underpass_mesh::DefaultPolicy::Audit,
                },
                host_netns: host.cookie,
                // So that no connection changes its layer because the agent was started again.
                doors,
                ..Facts::default()
            },
            kernel,
            tables,
            model: Model::default(),
            plan: Arc::default(),
            watch,
            discovery,
            workers,
            table: Table::default(),
            default_policy: options.default_policy,
            started: Instant::now(),
            applied: None,
            failures: BTreeMap::new(),
            counts: Counts::default(),
            last_good,
            ring,
            host,
            namespaces: namespaces::Namespaces::default(),
            before: before::Before::default(),
            sample: None,
            version,
            keep_denied: options.keep_denied_connections,
            retry: false,
            give_back: false,
            ticks: 0,
            ring_rests_until: Instant::now(),
        })
    }

    /// Runs until the queue of jobs is closed. Detaches nothing.
    pub fn run(mut self, jobs: jobs::Jobs) {
        self.start_workers();
        self.read_addresses();
        self.read_all();
        // Starting needs more than running: parsers, the object, the first plan.
        sys::memory::give_back();
        self.give_back = false;
        let mut next_tick = Instant::now() + TICK;
        loop {
            let ready = self.wait(&jobs, next_tick);
            if !jobs.run(&mut self) {
                return;
            }
            if ready.files {
                std::thread::sleep(DEBOUNCE);
                let changes = self.watch.changes();
                self.read(changes);
            }
            if ready.places && self.discovery.changes() {
                self.update();
            }
            if ready.workers {
                self.hear_workers();
            }
            if ready.events {
                self.take_events();
            }
            if Instant::now() >= next_tick {
                next_tick = Instant::now() + TICK;
                self.tick();
            }
        }
    }

    fn wait(&self, jobs: &jobs::Jobs, until: Instant) -> Ready {
        let now = Instant::now();
        let resting = now < self.ring_rests_until;
        let until = if resting {
            until.min(self.ring_rests_until)
        } else {
            until
        };
        let patience = Timespec::try_from(until.saturating_duration_since(now)).unwrap_or_default();
        let ring = self.ring.as_fd();
        let (wake, files, places) = (jobs.fd(), self.watch.fd(), self.discovery.fd());
        let readable = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        let workers = readable(self.workers.fd());
        let mut fds = vec![readable(wake), readable(files), readable(places), workers];
        if !resting {
            fds.push(readable(ring));
        }
        // Interrupted or not: whoever has something is asked, and an empty answer is cheap.
        let _ = poll(&mut fds, Some(&patience));
        let is = |i: usize| fds.get(i).is_some_and(|f| !f.revents().is_empty());
        Ready {
            files: is(1),
            places: is(2),
            workers: is(3),
            events: is(4),
        }
    }

    fn tick(&mut self) {
        self.ticks = self.ticks.wrapping_add(1);
        self.take_events();
        self.kernel.watch_splice();
        let slow = self.ticks.is_multiple_of(SLOW_TICK);
        if slow {
            let changes = self.watch.sweep();
            self.read(changes);
            self.namespaces.prune(&self.kernel);
            // So that those that end leave a row with what was seen last.
            self.older_connections();
            self.want_doors();
            self.expire_reports();
            if std::mem::take(&mut self.give_back) {
                sys::memory::give_back();
            }
        }
        let addresses_changed = slow && self.read_addresses();
        if self.discovery.sweep(slow) || addresses_changed || (self.retry && slow) {
            self.update();
        }
    }

    fn take_events(&mut self) {
        self.now();
        self.ring.answer();
        let names = RegisteredNames(self.tables.names());
        let (mut unguarded, mut notices) = (Vec::new(), Vec::new());
        let mut taken = 0;
        while taken < EVENTS_PER_TURN
            && let Some(told) = self.ring.next()
        {
            taken += 1;
            let Told::Event(event) = told else {
                notices.extend(told.notice());
                continue;
            };
            if event.kind == EventKind::Unguarded as u32 {
                unguarded.push(event);
            }
            if event.kind == EventKind::Refused as u32 && log::allow(event.sock.reason).is_some() {
                connections::log_refusal(&event, &names, &self.node);
            }
            self.table.take(&event, &names, &self.node);
        }
        if taken == EVENTS_PER_TURN {
            self.ring.call_again();
        }
        // Somebody waits for what a notice asks for, and for the next one's.
        if notices.is_empty() {
            self.ring_rests_until = Instant::now() + RING_PAUSE;
        }
        for event in unguarded {
            self.guard_listener(event.pid, event.sock.netns, event.sock.destination.into());
        }
        self.take_notices(&notices);
    }

    /// `CLOCK_BOOTTIME`; also takes the difference to the wall clock.
    pub(crate) fn now(&mut self) -> u64 {
        let ns = |t: Timespec| t.tv_sec * 1_000_000_000 + t.tv_nsec;
        let boot = ns(clock_gettime(ClockId::Boottime));
        self.node.boot_to_unix_ns = ns(clock_gettime(ClockId::Realtime)) - boot;
        boot as u64
    }
}

struct Ready {
    files: bool,
    places: bool,
    workers: bool,
    events: bool,
}

/// The register of the tables, for telemetry.
pub(crate) struct RegisteredNames<'a>(pub &'a underpass_mesh::Names);

impl Names for RegisteredNames<'_> {
    fn name(&self, kind: NameKind, index: u32) -> Option<&str> {
        self.0.get(kind, index)
    }
}
