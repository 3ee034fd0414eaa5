//! The vendor itself: who is a tenant's workload, which processes there are, who asks.

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::{AsFd as _, BorrowedFd},
    time::{Duration, Instant},
};

use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Resource, Rlimit},
};
use underpass_abi::reason::code;
use underpass_api::vend::channel::Listener;

use crate::{
    caps,
    cgroup::{Base, Bounds, PREFIX},
    clients::{self, Client},
    inner::Report,
    log::{self, Problem, Result},
    netns,
    options::Options,
    proof,
    state::{Known, State},
    tenant::{Setup, Tenant},
};

mod requests;
mod snapshots;

use snapshots::Snapshots;

/// How often the paths of workloads are looked at: what has left its path has ended, also while nobody
/// says so. With the time to close it this stays below a second.
pub const WATCH_EVERY: Duration = Duration::from_millis(400);
/// Tenants of a node.
pub const TENANTS_MAX: usize = 1024;
/// Workloads of a node.
pub const WORKLOADS_MAX: usize = 4096;
/// A tenant without workloads is ended so fast.
const END_WITHIN: Duration = Duration::from_millis(300);
/// A child that ended twice within a minute is started again after so long.
const REVIVE_AFTER: Duration = Duration::from_secs(1);
const SAVE_AFTER: Duration = Duration::from_millis(100);
/// The tenant that all are with `--shared`.
pub const SHARED: &str = "shared";

#[derive(Debug)]
struct Workload {
    id: u64,
    known: Known,
    /// Whose child and worker it has: its tenant's, or [`SHARED`].
    seat: String,
    /// Its end is under way.
    removing: bool,
}

struct Vendor {
    options: Options,
    setup: Setup,
    base: Base,
    bounds: Bounds,
    state: State,
    save_at: Option<Instant>,
    control: Listener,
    signals: SignalFd,
    clients: Vec<Client>,
    tenants: Vec<Tenant>,
    /// By name.
    workloads: BTreeMap<String, Workload>,
    snapshots: Snapshots,
    /// Tenants whose child ended: when it ended last, and when it is started again.
    revive: BTreeMap<String, (Instant, Option<Instant>)>,
    next_id: u64,
    next_uid: u32,
    watch_at: Instant,
    /// Controllers that are missing and may be.
    missing: Vec<&'static str>,
}

/// Until SIGTERM or SIGINT.
///
/// # Errors
/// If the node is not fit for it, with a code.
pub fn run(options: &Options) -> Result<()> {
    let mut vendor = Vendor::open(options)?;
    vendor.load();
    log::say("underpass-vend runs");
    if options.shared {
        log::warn(code::SHARED_WORKER, "--shared");
    }
    let failed = |e: io::Error| Problem::new(code::VENDOR_UNREACHABLE, format!("poll: {e}"));
    while !vendor.turn().map_err(failed)? {}
    vendor.stop().map_err(failed)
}

impl Vendor {
    fn open(options: &Options) -> Result<Self> {
        let lacks = caps::missing().map_err(Problem::at(code::VENDOR_CAPABILITY, "capget"))?;
        if !lacks.is_empty() {
            return Err(Problem::new(code::VENDOR_CAPABILITY, lacks.join(" ")));
        }
        let state = State::open(&options.state)?;
        let may = |name: &str| options.allow_missing.iter().any(|a| a == name);
        let base = Base::prepare(options.cgroup.as_deref())?;
        base.sweep();
        let missing: Vec<&str> = base.missing().iter().map(|c| c.name()).collect();
        if let Some(name) = missing.iter().find(|name| !may(name)) {
            let text = format!("this kernel has no controller `{name}`");
            return Err(Problem::new(code::BOUND_NOT_SET, text));
        }
        fn at<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> Problem {
            Problem::at(code::VENDOR_CAPABILITY, what)
        }
        if let Some(dir) = options.control.parent() {
            fs::create_dir_all(dir).map_err(at("directory of --control"))?;
        }
        let control = Listener::bind(&options.control).map_err(at("--control"))?;
        caps::keep(caps::needed(options.without.as_deref())).map_err(at("capset"))?;
        rustix::thread::set_no_new_privs(true).map_err(at("no_new_privs"))?;
        let all = rustix::process::getrlimit(Resource::Nofile).maximum;
        let limit = Rlimit {
            current: all,
            maximum: all,
        };
        rustix::process::setrlimit(Resource::Nofile, limit).map_err(at("RLIMIT_NOFILE"))?;
        let signals = [Signal::SIGTERM, Signal::SIGINT]
            .into_iter()
            .collect::<SigSet>();
        signals.thread_block().map_err(at("signals"))?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&signals, flags).map_err(at("signalfd"))?;
        let bits = [
            (proof::NO_LANDLOCK, "landlock"),
            (proof::NO_SECCOMP, "seccomp"),
        ];
        let allowed = bits.iter().filter(|(_, name)| may(name));
        Ok(Self {
            setup: Setup {
                program: options.worker.clone(),
                idle_ms: options.idle.saturating_mul(1000),
                nofile: options.nofile,
                allowed: allowed.fold(0, |all, (bit, _)| all | bit),
            },
            bounds: Bounds {
                memory_mib: options.memory_max,
                pids: options.pids_max,
                cpu_percent: options.cpu_max,
            },
            options: options.clone(),
            base,
            state,
            save_at: None,
            control,
            signals,
            clients: Vec::new(),
            tenants: Vec::new(),
            workloads: BTreeMap::new(),
            snapshots: Snapshots::default(),
            revive: BTreeMap::new(),
            next_id: 1,
            next_uid: 0,
            watch_at: Instant::now(),
            missing,
        })
    }

    /// Waits, and handles what is there. True when it is to end.
    fn turn(&mut self) -> io::Result<bool> {
        self.wait()?;
        let now = Instant::now();
        if matches!(self.signals.read_signal(), Ok(Some(_))) {
            return Ok(true);
        }
        if let Err(e) = clients::accept(&self.control, &mut self.clients) {
            // A lack of descriptors or memory passes, and no tenant must suffer from it; not a loop of it.
            log::warn(
                code::VEND_LIMIT,
                &format!("a client of the control socket: {e}"),
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        self.hear_children(now);
        self.hear_clients(now);
        self.watch(now);
        self.revive(now);
        for tenant in &mut self.tenants {
            tenant.tick(now);
            tenant.flush();
        }
        self.tenants.retain_mut(|tenant| !tenant.gone());
        self.clients.retain_mut(Client::flush);
        self.save(now);
        Ok(false)
    }

    fn wait(&self) -> io::Result<()> {
        let watch = |fd, behind: bool| {
            let out = if behind {
                PollFlags::OUT
            } else {
                PollFlags::empty()
            };
            PollFd::from_borrowed_fd(fd, PollFlags::IN | out)
        };
        let mut fds = vec![
            watch(self.control.as_fd(), false),
            watch(self.signals.as_fd(), false),
        ];
        fds.extend(
            self.clients
                .iter()
                .map(|c| watch(c.channel.as_fd(), c.behind())),
        );
        for tenant in &self.tenants {
            if tenant.child.is_some() {
                fds.push(watch(tenant.channel.as_fd(), tenant.behind()));
            }
            let processes = [&tenant.child, &tenant.worker].into_iter().flatten();
            fds.extend(processes.map(|p| watch(p.pidfd.as_fd() as BorrowedFd<'_>, false)));
        }
        let left = self
            .deadline()
            .map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => Ok(()),
            done => done.map(|_| ()).map_err(Into::into),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let watch = (!self.workloads.is_empty()).then_some(self.watch_at);
        // A cgroup may be busy for a moment after its last process.
        let ending = self.tenants.iter().any(|t| t.stopping.is_some());
        let soon = ending.then(|| Instant::now() + Duration::from_millis(10));
        let revive = self.revive.values().filter_map(|(_, at)| *at);
        let tenants = self.tenants.iter().filter_map(Tenant::deadline);
        tenants
            .chain(watch)
            .chain(soon)
            .chain(self.save_at)
            .chain(revive)
            .min()
            // What is killed takes a moment to end: no loop until then.
            .map(|at| at.max(Instant::now() + Duration::from_millis(1)))
    }

    fn hear_children(&mut self, now: Instant) {
        let mut reports = Vec::new();
        let mut ended = Vec::new();
        for tenant in &mut self.tenants {
            tenant.look();
            reports.extend(tenant.hear(now));
            if tenant.reap(now) {
                ended.push(tenant.name.clone());
                tenant.stop(now, Duration::ZERO);
            }
        }
        for report in reports {
            match report {
                Report::Done { id } => self.done(now, id),
                Report::Failed {
                    id,
                    port,
                    code,
                    why,
                } => self.failed(now, id, port, &Problem::new(code, why)),
                _ => {}
            }
        }
        for name in ended {
            self.child_ended(now, name);
        }
    }

    fn waiting_for(&mut self, id: u64) -> Option<&mut Client> {
        self.clients.iter_mut().find(|c| c.waits_for == Some(id))
    }

    fn tenant(&mut self, name: &str) -> Option<&mut Tenant> {
        self.tenants
            .iter_mut()
            .find(|t| t.name == name && t.stopping.is_none())
    }

    /// The tenant, with its child started if it is new.
    fn tenant_or_new(&mut self, name: &str) -> Result<&mut Tenant> {
        if let Some(at) = self
            .tenants
            .iter()
            .position(|t| t.name == name && t.stopping.is_none())
        {
            return Ok(&mut self.tenants[at]);
        }
        if self.tenants.len() >= TENANTS_MAX {
            return Err(Problem::new(code::VEND_LIMIT, "tenants"));
        }
        let uid = self.new_uid();
        let group = self
            .base
            .tenant(&format!("{PREFIX}{name}.{uid}"), self.bounds)?;
        let mut tenant = Tenant::start(name, uid, group, &self.setup)?;
        self.snapshots.tell(&mut tenant);
        self.tenants.push(tenant);
        Ok(self.tenants.last_mut().expect("just pushed"))
    }

    /// The next one that nobody has; all others are used before one is used again.
    fn new_uid(&mut self) -> u32 {
        loop {
            let uid = self.options.uid_base + self.next_uid % self.options.uid_count;
            self.next_uid = self.next_uid.wrapping_add(1);
            // Fewer tenants than ids, but for the smallest --uid-count.
            let all = self.tenants.len() >= self.options.uid_count as usize;
            if all || self.tenants.iter().all(|t| t.uid != uid) {
                return uid;
            }
        }
    }

    /// What has left its path has ended, whoever says so or not.
    fn watch(&mut self, now: Instant) {
        if now < self.watch_at {
            return;
        }
        self.watch_at = now + WATCH_EVERY;
        let left =
            |w: &&Workload| !w.removing && netns::at(&w.known.netns).ok() != Some(w.known.which);
        let gone: Vec<String> = self
            .workloads
            .values()
            .filter(left)
            .map(|w| w.known.name.clone())
            .collect();
        for name in gone {
            log::say(&format!("workload {name}: its namespace has left its path"));
            self.remove(now, &name);
        }
    }

    fn save(&mut self, now: Instant) {
        if self.save_at.is_none_or(|at| now < at) {
            return;
        }
        self.save_at = None;
        let all = self
            .workloads
            .values()
            .filter(|w| !w.removing)
            .map(|w| &w.known);
        if let Err(e) = self.state.save(all) {
            log::warn(code::STATE_DIR, &e.to_string());
        }
    }

    fn changed(&mut self, now: Instant) {
        self.save_at.get_or_insert(now + SAVE_AFTER);
    }

    /// Ends all tenants; the state stays for the next vendor.
    fn stop(&mut self) -> io::Result<()> {
        let now = Instant::now();
        self.save_at = Some(now);
        self.save(now);
        let drain = Duration::from_millis(self.options.drain.into());
        for tenant in self.tenants.iter_mut().filter(|t| t.stopping.is_none()) {
            tenant.stop(now, drain);
        }
        while !self.tenants.is_empty() {
            self.wait()?;
            let now = Instant::now();
            for tenant in &mut self.tenants {
                tenant.look();
                tenant.hear(now);
                tenant.reap(now);
                tenant.tick(now);
                tenant.flush();
            }
            self.tenants.retain_mut(|tenant| !tenant.gone());
        }
        self.base.remove();
        let _ = fs::remove_file(&self.options.control);
        log::say("stopped");
        Ok(())
    }
}
