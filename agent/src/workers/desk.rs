//! The thread that speaks to the vendor: finds it, brings it to what is wanted, looks after it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use underpass_abi::reason::code;
use underpass_api::vend::control::Request;
use underpass_mesh::Str;

use super::{
    Counts, Door, Shared, Standing, Tenant, Wanted, memory,
    reports::Readers,
    session::{Answer, Line, Session, VendorLine},
    told::{Step, Told},
};
use crate::{kernel::Netns, log, problem::Problem};

/// Doors stay open so long without a vendor: it is started again, or another one, and until then what
/// goes to a door is refused. Later connections stay in the kernel, as if there had never been one.
pub const AWAY_PATIENCE: Duration = Duration::from_secs(10);
/// How often all is asked for again, in case the vendor has lost it.
pub const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// Between two looks at the vendor's status, while something is wanted of it.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The same while nothing is.
const IDLE_LOOK_EVERY: Duration = Duration::from_secs(10);
/// Between two attempts to find a vendor: the first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

pub struct Desk {
    shared: Arc<Shared>,
    path: PathBuf,
    told: Told,
    /// Doors of an earlier agent, or of a vendor that is away, until this one has been told everything.
    kept: BTreeSet<Str>,
    /// The last version of each tenant's snapshots, the vendor's word included.
    versions: BTreeMap<Str, u64>,
    reports: BTreeMap<Str, Arc<OwnedFd>>,
    readers: Readers,
    counts: Counts,
    away_since: Instant,
    problem: Option<Problem>,
    /// Whose listeners this vendor was asked to make anew.
    renewed: BTreeSet<Str>,
}

impl Desk {
    pub fn new(shared: Arc<Shared>, path: PathBuf, kept: BTreeSet<Str>) -> Self {
        Self {
            shared,
            path,
            told: Told::default(),
            kept,
            versions: BTreeMap::new(),
            reports: BTreeMap::new(),
            readers: Readers::default(),
            counts: Counts::default(),
            away_since: Instant::now(),
            problem: None,
            renewed: BTreeSet::new(),
        }
    }

    /// Until the agent's other end is gone.
    pub fn run(mut self) {
        let (first, most) = PAUSES;
        let mut pause = first;
        while !self.over() {
            match Session::open(&self.path) {
                Ok(session) => {
                    pause = first;
                    self.counts.connected += 1;
                    tracing::info!(path = %self.path.display(), "the vendor answers");
                    if let Err(e) = self.serve(&session) {
                        self.lost(&e);
                    }
                }
                Err(problem) => self.away(problem),
            }
            self.rest(pause);
            pause = (pause * 2).min(most);
        }
    }

    fn over(&self) -> bool {
        Arc::strong_count(&self.shared) == 1
    }

    /// The vendor has ended, or does not answer.
    fn lost(&mut self, e: &io::Error) {
        self.counts.lost += 1;
        if let Some(wanted) = self.shared.wanted_now() {
            self.kept = self.open(&wanted);
        }
        self.told = Told::default();
        self.away_since = Instant::now();
        let text = format!("{}: {e}", self.path.display());
        let problem = Problem::warning(code::VENDOR_UNREACHABLE, text, "vendor");
        log::warn(problem.code, &problem.to_string());
        self.away(problem);
    }

    fn away(&mut self, problem: Problem) {
        let expired = self.away_since.elapsed() >= AWAY_PATIENCE && !self.kept.is_empty();
        if expired {
            self.kept.clear();
        }
        let news = self.problem.as_ref() != Some(&problem);
        self.problem = Some(problem);
        if news || expired {
            self.publish(None, &BTreeMap::new());
        }
    }

    fn rest(&self, pause: Duration) {
        let until = Instant::now() + pause;
        while !self.over() && wait(&self.shared, None, until) {
            let _ = self.shared.wanted();
        }
    }

    /// Until the vendor is lost, or the agent's other end is gone.
    fn serve(&mut self, session: &Session) -> io::Result<()> {
        *super::lock(&self.shared.known) = None;
        self.renewed.clear();
        let (vendor, tenants) = session.status()?;
        let cgroup = vendor.cgroup;
        for (name, line) in &tenants {
            self.heard_version(name, line);
        }
        self.problem = None;
        let mut sweep_at = Instant::now() + SWEEP_EVERY;
        while !self.over() {
            if Instant::now() >= sweep_at {
                sweep_at = Instant::now() + SWEEP_EVERY;
                self.told.doubt();
            }
            // A listener that the programs do not take for a worker's when it begins to listen stays unknown.
            let wanted = self
                .shared
                .wanted()
                .filter(|_| self.shared.is_known(&cgroup));
            self.renew(session)?;
            let newest = match &wanted {
                Some(wanted) => self.bring(session, wanted)?,
                None => true,
            };
            self.readers.read(&self.reports, &self.shared.reports);
            self.counts.bad_reports = self.readers.bad;
            let (vendor, tenants) = session.status()?;
            self.publish(Some(vendor), &tenants);
            if newest {
                let idle = wanted.is_none_or(|w| w.doors.is_empty());
                let look = if idle { IDLE_LOOK_EVERY } else { LOOK_EVERY };
                let until = Instant::now() + look;
                let until = self.told.retry_at().map_or(until, |at| at.min(until));
                wait(&self.shared, Some(session), until);
            }
        }
        Ok(())
    }

    /// Ends workloads whose listeners the programs do not know; what is wanted of them is then asked for
    /// again.
    fn renew(&mut self, session: &Session) -> io::Result<()> {
        for name in std::mem::take(&mut *super::lock(&self.shared.unheard)) {
            if self.told.has(&name) && self.renewed.insert(name.clone()) {
                let gone = Request::Gone {
                    name: name.to_string(),
                };
                session.ask(&gone, &[])?;
                self.told.forget(&name);
            }
        }
        Ok(())
    }

    /// Says what is to be said. False if something else is wanted by now.
    fn bring(&mut self, session: &Session, wanted: &Arc<Wanted>) -> io::Result<bool> {
        for step in self.told.steps(wanted, Instant::now()) {
            if !self.told.may(&step, wanted) {
                continue;
            }
            match self.say(session, &step, wanted)? {
                Ok(()) => self.told.did(&step, wanted),
                Err(problem) => {
                    self.counts.refused += 1;
                    log::warn(problem.code, &problem.to_string());
                    self.told.failed(&step, problem, Instant::now());
                }
            }
            if self
                .shared
                .wanted_now()
                .is_some_and(|now| !Arc::ptr_eq(&now, wanted))
            {
                return Ok(false);
            }
        }
        // Whatever an earlier agent left open and this vendor does not have is closed.
        self.kept.clear();
        self.told.prune(wanted);
        let tenants = self.told.tenants();
        self.reports.retain(|tenant, _| tenants.contains(tenant));
        Ok(true)
    }

    /// The outer error: the vendor is lost.
    fn say(
        &mut self,
        session: &Session,
        step: &Step,
        wanted: &Wanted,
    ) -> io::Result<Result<(), Problem>> {
        let (request, place) = match step {
            Step::Snapshot(tenant) => return self.send_snapshot(session, tenant, wanted),
            Step::Gone(name) => (
                Request::Gone {
                    name: name.to_string(),
                },
                name,
            ),
            Step::Add(name) => {
                let Some(door) = wanted.doors.get(name) else {
                    return Ok(Ok(()));
                };
                if let Err(problem) = leads_to(door, name) {
                    return Ok(Err(problem));
                }
                let request = Request::Add {
                    name: name.to_string(),
                    tenant: door.tenant.to_string(),
                    netns: door.netns.display().to_string(),
                };
                (request, name)
            }
            Step::Listen(name, port) => {
                let request = Request::Listen {
                    name: name.to_string(),
                    address: std::net::Ipv6Addr::UNSPECIFIED.into(),
                    port: *port,
                };
                (request, name)
            }
        };
        let mut answer = session.ask(&request, &[])?;
        if matches!(answer, Answer::Refused(code::NAMESAKE, _)) {
            session.ask(
                &Request::Gone {
                    name: place.to_string(),
                },
                &[],
            )?;
            answer = session.ask(&request, &[])?;
        }
        Ok(match answer {
            Answer::Done(_) => Ok(()),
            // The vendor knows it already: an earlier agent has told it.
            Answer::Refused(code::DUPLICATE_OBJECT, _) => Ok(()),
            Answer::Refused(code, why) => Err(Problem::error(code, why, &**place)),
        })
    }

    fn send_snapshot(
        &mut self,
        session: &Session,
        tenant: &Str,
        wanted: &Wanted,
    ) -> io::Result<Result<(), Problem>> {
        let Some(snapshot) = wanted.snapshots.get(tenant) else {
            return Ok(Ok(()));
        };
        let version = self.versions.get(tenant).copied().unwrap_or(0) + 1;
        let mut snapshot = (**snapshot).clone();
        snapshot.version = version;
        let failed = |e: io::Error| {
            let text = format!("snapshot of {tenant}: {e}");
            Problem::error(code::LIMIT_EXCEEDED, text, &**tenant)
        };
        let (sent, report) = match (memory::snapshot(&snapshot), self.report(tenant)) {
            (Ok(sent), Ok(report)) => (sent, report),
            (Err(e), _) | (_, Err(e)) => return Ok(Err(failed(e))),
        };
        let request = Request::Snapshot {
            tenant: tenant.to_string(),
            version,
        };
        self.versions.insert(tenant.clone(), version);
        Ok(
            match session.ask(&request, &[sent.as_fd(), report.as_fd()])? {
                Answer::Done(_) => {
                    self.counts.snapshots_sent += 1;
                    Ok(())
                }
                Answer::Refused(code, why) => Err(Problem::error(code, why, &**tenant)),
            },
        )
    }

    fn report(&mut self, tenant: &Str) -> io::Result<Arc<OwnedFd>> {
        if let Some(report) = self.reports.get(tenant) {
            return Ok(report.clone());
        }
        let report = Arc::new(memory::report()?);
        self.reports.insert(tenant.clone(), report.clone());
        Ok(report)
    }

    /// An earlier agent's snapshots: a worker refuses one that is not newer.
    fn heard_version(&mut self, tenant: &str, line: &Line) {
        let said = line
            .get("snapshot")
            .and_then(|v| v.parse().ok())
            .unwrap_or(0);
        let known = self.versions.entry(tenant.into()).or_default();
        *known = said.max(*known);
    }

    fn open(&self, wanted: &Wanted) -> BTreeSet<Str> {
        let mut open = self.told.open(wanted);
        open.extend(self.kept.iter().cloned());
        open
    }

    fn publish(&self, vendor: Option<VendorLine>, lines: &BTreeMap<String, Line>) {
        let wanted = self.shared.wanted_now();
        let doors = match &wanted {
            Some(wanted) => self.open(wanted),
            None => self.kept.clone(),
        };
        let tenant = |(name, report): (&Str, &Arc<OwnedFd>)| {
            let tenant = Tenant {
                sent: self.versions.get(name).copied().unwrap_or(0),
                line: lines.get(&**name).cloned().unwrap_or_default(),
                report: report.clone(),
            };
            (name.clone(), tenant)
        };
        self.shared.publish(Standing {
            vendor,
            away: self.problem.clone(),
            doors,
            tenants: self.reports.iter().map(tenant).collect(),
            problems: self.told.problems().cloned().collect(),
            counts: self.counts,
        });
    }
}

/// A path by a process leads elsewhere once its number is given to another one.
fn leads_to(door: &Door, name: &Str) -> Result<(), Problem> {
    let failed = |why: String| Problem::warning(code::NETNS_UNREACHABLE, why, &**name);
    match Netns::open(&door.netns) {
        Ok(netns) if netns.cookie == door.cookie => Ok(()),
        Ok(_) => Err(failed(format!("{} leads elsewhere", door.netns.display()))),
        Err(e) => Err(failed(e.detail)),
    }
}

/// Waits for the loop, or for the vendor's end. True if it was not for the time alone.
fn wait(shared: &Shared, session: Option<&Session>, until: Instant) -> bool {
    let left = until.saturating_duration_since(Instant::now());
    let timeout = Timespec::try_from(left).unwrap_or_default();
    let readable = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
    let mut fds = vec![readable(shared.ask.as_fd())];
    fds.extend(session.map(|s| readable(s.as_fd())));
    matches!(poll(&mut fds, Some(&timeout)), Ok(n) if n > 0)
}
