//! One tenant: its cgroup, its child, its worker.

use std::{
    collections::BTreeSet,
    io,
    os::fd::OwnedFd,
    path::PathBuf,
    process::ExitStatus,
    time::{Duration, Instant},
};

use underpass_abi::reason::code;
use underpass_api::vend::channel::{Channel, Received};

use crate::{
    answers::Answers,
    cgroup::Group,
    enter::{ChildStage, WorkerStage},
    inner::{Report, ToChild},
    life::{Do, Life},
    log::{self, Problem, Result},
    outbox::Outbox,
    process::Proc,
    proof,
};

/// The same for all tenants.
#[derive(Clone, Debug)]
pub struct Setup {
    pub program: PathBuf,
    pub idle_ms: u32,
    pub nofile: u32,
    /// Bits of restrictions that may be missing.
    pub allowed: u32,
}

#[derive(Debug)]
pub struct Tenant {
    pub name: String,
    pub uid: u32,
    setup: Setup,
    group: Group,
    pub child: Option<Proc>,
    pub channel: Channel,
    out: Outbox,
    pub worker: Option<Proc>,
    /// How a process ended, until what was said before is heard.
    ends: (Option<ExitStatus>, Option<ExitStatus>),
    pub life: Life,
    /// What the worker that runs said to snapshots.
    pub answers: Answers,
    /// What went wrong, for the status.
    codes: BTreeSet<u16>,
    /// Restrictions that are missing and may be.
    missing: u32,
    refused: u32,
    given: u32,
    failed: u32,
    /// Being ended: by then all is killed.
    pub stopping: Option<Instant>,
}

impl Tenant {
    /// # Errors
    /// If its child cannot be started.
    pub fn start(name: &str, uid: u32, group: Group, setup: &Setup) -> Result<Self> {
        let failed =
            |e: io::Error| Problem::new(code::CHILD_ENDED, format!("child of {name}: {e}"));
        let (channel, theirs) = Channel::pair().map_err(failed)?;
        let stage = ChildStage {
            parent: std::process::id(),
            uid,
            idle_ms: setup.idle_ms,
            allowed: setup.allowed,
            tenant: name.to_owned(),
        };
        let child = Proc::start(stage.args(), &group, theirs).map_err(failed)?;
        Ok(Self {
            name: name.to_owned(),
            uid,
            setup: setup.clone(),
            group,
            child: Some(child),
            channel,
            out: Outbox::default(),
            worker: None,
            ends: (None, None),
            life: Life::default(),
            answers: Answers::default(),
            codes: BTreeSet::new(),
            missing: 0,
            refused: 0,
            given: 0,
            failed: 0,
            stopping: None,
        })
    }

    pub fn say(&mut self, message: &ToChild, fds: Vec<OwnedFd>) {
        // A child that is so far behind does not answer either.
        if !self.out.push(message.frame(), fds) {
            self.kill_child("it does not read");
        }
    }

    pub fn flush(&mut self) {
        if self.child.is_some() && self.out.flush(&self.channel).is_err() {
            self.kill_child("its socket is closed");
        }
    }

    pub fn behind(&self) -> bool {
        !self.out.is_empty()
    }

    fn kill_child(&mut self, why: &str) {
        if let Some(child) = &mut self.child
            && child.kill()
        {
            log::warn(
                code::CHILD_ENDED,
                &format!("child of {} is ended: {why}", self.name),
            );
        }
    }

    /// A problem of this tenant: logged, and a code in the status.
    fn trouble(&mut self, code: u16, text: &str) {
        self.codes.insert(code);
        log::warn(code, &format!("tenant {}: {text}", self.name));
    }

    pub fn need(&mut self, now: Instant) {
        if self.stopping.is_none() {
            let action = self.life.need(now);
            self.obey(now, action);
        }
    }

    pub fn tick(&mut self, now: Instant) {
        if self.stopping.is_some_and(|at| at <= now) {
            for process in [&mut self.worker, &mut self.child].into_iter().flatten() {
                process.kill();
            }
        }
        if self.stopping.is_none() {
            let action = self.life.tick(now);
            if action == Do::Kill && self.kill_worker() {
                self.trouble(
                    code::WORKER_SILENT,
                    &format!("the worker hangs ({})", self.life.name()),
                );
            }
            self.obey(now, action);
        }
    }

    pub fn deadline(&self) -> Option<Instant> {
        match self.stopping {
            Some(at) => Some(at),
            None => self.life.deadline(),
        }
    }

    fn obey(&mut self, now: Instant, action: Do) {
        match action {
            Do::Nothing => {}
            Do::Kill => {
                self.kill_worker();
            }
            Do::Start => {
                if let Err(e) = self.start_worker() {
                    self.life.ended(now);
                    self.trouble(code::WORKER_NOT_STARTED, &e.to_string());
                }
            }
        }
    }

    /// True the first time.
    fn kill_worker(&mut self) -> bool {
        self.worker.as_mut().is_some_and(Proc::kill)
    }

    fn start_worker(&mut self) -> io::Result<()> {
        let (ours, theirs) = Channel::pair()?;
        let stage = WorkerStage {
            parent: std::process::id(),
            uid: self.uid,
            nofile: self.setup.nofile,
            program: self.setup.program.clone(),
        };
        let worker = Proc::start(stage.args(), &self.group, theirs)?;
        let pid = worker.pid();
        self.worker = Some(worker);
        self.say(&ToChild::Adopt { pid }, vec![ours.into()]);
        Ok(())
    }

    /// What the child said that concerns more than this tenant.
    pub fn hear(&mut self, now: Instant) -> Vec<Report> {
        let mut all = Vec::new();
        loop {
            match self.channel.recv() {
                Ok(Received::Frame(frame, _)) => match Report::read(frame) {
                    Ok(report @ (Report::Done { .. } | Report::Failed { .. })) => all.push(report),
                    Ok(report) => self.told(now, report),
                    Err(e) => {
                        self.kill_child(&e.to_string());
                        return all;
                    }
                },
                Ok(Received::Empty | Received::Closed) => return all,
                Err(e) => {
                    self.kill_child(&e.to_string());
                    return all;
                }
            }
        }
    }

    fn told(&mut self, now: Instant, report: Report) {
        let mine = self.worker.as_ref().map(Proc::pid);
        match report {
            Report::Need => self.need(now),
            // Of a worker that is gone; it is not the present one's fault.
            Report::Hello { pid, .. }
            | Report::Leaving { pid }
            | Report::Closed { pid }
            | Report::Unruly { pid, .. }
            | Report::Snapshot { pid, .. }
            | Report::Silent { pid }
                if Some(pid) != mine => {}
            Report::Hello {
                missing, allowed, ..
            } => {
                self.missing = allowed;
                if missing != 0 {
                    let what = proof::names(missing);
                    self.trouble(
                        code::SANDBOX_INCOMPLETE,
                        &format!("the worker lacks {what}"),
                    );
                    self.kill_worker();
                    return;
                }
                if allowed != 0 {
                    let what = proof::names(allowed);
                    self.trouble(code::SANDBOX_INCOMPLETE, &format!("allowed to lack {what}"));
                }
                self.life.ready(now);
                let took = self.life.start_time.unwrap_or_default().as_micros();
                log::say(&format!(
                    "tenant {}: worker started in {took} us",
                    self.name
                ));
            }
            Report::Leaving { .. } => self.life.leaving(now),
            Report::Closed { .. } => {
                self.kill_worker();
            }
            Report::Unruly { why, .. } => {
                self.trouble(code::VEND_PROTOCOL, &format!("the worker is ended: {why}"));
                self.kill_worker();
            }
            Report::Silent { .. } => {
                self.trouble(
                    code::WORKER_SILENT,
                    "the worker is ended: it holds what is gone, or does not answer",
                );
                self.kill_worker();
            }
            Report::Snapshot {
                tenant,
                version,
                code,
                ..
            } => self.answers.add(&self.name, tenant, version, code),
            Report::Counts {
                id,
                refused,
                given,
                failed,
            } => {
                if refused > self.refused {
                    let text =
                        format!("the worker asked for workload {id}; {refused} such questions");
                    self.trouble(code::NOT_YOUR_WORKLOAD, &text);
                }
                if failed > self.failed {
                    self.trouble(code::NO_SOCKET, &format!("{failed} sockets"));
                }
                (self.refused, self.given, self.failed) = (refused, given, failed);
            }
            Report::Done { .. } | Report::Failed { .. } => {}
        }
    }

    /// It could not be told everything.
    pub fn lacks_descriptors(&mut self) {
        self.trouble(code::VEND_LIMIT, "descriptors");
    }

    /// Looks for processes that ended. Before [`Tenant::hear`], so that what was said before an end is
    /// heard before it is judged.
    pub fn look(&mut self) {
        self.ends.0 = self
            .ends
            .0
            .or_else(|| self.worker.as_mut().and_then(Proc::ended));
        self.ends.1 = self
            .ends
            .1
            .or_else(|| self.child.as_mut().and_then(Proc::ended));
    }

    /// Judges the ends that were found. True if the child ended, unasked.
    pub fn reap(&mut self, now: Instant) -> bool {
        if let Some(status) = self.ends.0.take() {
            self.worker = None;
            self.answers.clear();
            if self.stopping.is_none() && self.life.ended(now) {
                self.trouble(code::WORKER_CRASHED, &format!("the worker ended: {status}"));
            }
            self.say(&ToChild::Ended, vec![]);
        }
        if let Some(status) = self.ends.1.take() {
            self.child = None;
            if self.stopping.is_none() {
                self.trouble(
                    code::CHILD_ENDED,
                    &format!("the vendor's child ended: {status}"),
                );
                return true;
            }
        }
        false
    }

    /// The worker may finish, then all ends.
    pub fn stop(&mut self, now: Instant, within: Duration) {
        let within_ms = u32::try_from(within.as_millis()).unwrap_or(u32::MAX);
        self.say(&ToChild::Stop { within_ms }, vec![]);
        self.flush();
        self.stopping = Some(now + within);
    }

    /// True when nothing is left of a tenant that is being ended.
    pub fn gone(&mut self) -> bool {
        if self.stopping.is_none() || self.worker.is_some() {
            return false;
        }
        if let Some(child) = &mut self.child {
            // Its work is done with the worker's end.
            child.kill();
            return false;
        }
        self.group.remove()
    }

    /// `key=value` words for the status.
    pub fn line(&self, workloads: usize, listeners: usize) -> String {
        let pid = |process: &Option<Proc>| process.as_ref().map_or(0, Proc::pid);
        let codes: Vec<String> = self.codes.iter().map(|c| format!("UP{c:04}")).collect();
        let life = &self.life;
        format!(
            "tenant={} uid={} state={} worker={} child={} starts={} crashes={} idle_ends={} start_us={} \
             workloads={workloads} listeners={listeners} given={} refused={} failed={} missing={} codes={}",
            self.name,
            self.uid,
            life.name(),
            pid(&self.worker),
            pid(&self.child),
            life.starts,
            life.crashes,
            life.idle_ends,
            life.start_time.unwrap_or_default().as_micros(),
            self.given,
            self.refused,
            self.failed,
            proof::names(self.missing).replace(", ", ","),
            codes.join(","),
        )
    }
}
