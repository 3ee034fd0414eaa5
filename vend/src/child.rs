//! A tenant's child: in the tenant's cgroup, it makes sockets inside the workloads' namespaces and hands
//! them to the tenant's worker. One thread, one capability. It goes on while nobody else answers.

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Instant,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use underpass_abi::reason::code;
use underpass_api::vend::{
    Family, Frame, Malformed, ToVendor, ToWorker,
    channel::{Broken, Channel, Received},
};

use crate::{
    desk::{Desk, Do},
    enter::ChildStage,
    inner::{Report, ToChild},
    log::{Problem, Result},
    netns,
    outbox::Outbox,
    proof,
};

/// Messages read from one peer before the others have their turn.
const TURN: usize = 64;

struct Child {
    setup: ChildStage,
    home: OwnedFd,
    vendor: Channel,
    to_vendor: Outbox,
    worker: Option<Worker>,
    desk: Desk,
    rooms: BTreeMap<u64, Room>,
    /// The last of each tenant.
    snapshots: BTreeMap<String, Snapshot>,
    /// `Need` was said, and no worker has come.
    asked: bool,
    counts_told: Instant,
}

struct Worker {
    pid: u32,
    channel: Channel,
    out: Outbox,
}

/// What a tenant's requests go by, and where its worker reports.
struct Snapshot {
    version: u64,
    files: Vec<OwnedFd>,
}

/// What is held of a workload.
struct Room {
    netns: OwnedFd,
    listeners: BTreeMap<u16, OwnedFd>,
}

/// Until the vendor ends.
///
/// # Errors
/// If the vendor's socket is of no use.
pub fn run(setup: &ChildStage) -> Result<()> {
    let failed = |what: &'static str| Problem::at(code::STAGE_FAILED, what);
    let vendor = Channel::from_stdin().map_err(failed("standard input"))?;
    let mut child = Child {
        setup: setup.clone(),
        home: netns::own().map_err(failed("own namespace"))?,
        vendor,
        to_vendor: Outbox::default(),
        worker: None,
        desk: Desk::new(setup.tenant.clone(), setup.idle_ms, setup.allowed),
        rooms: BTreeMap::new(),
        snapshots: BTreeMap::new(),
        asked: false,
        counts_told: Instant::now(),
    };
    while child.turn().map_err(failed("the vendor's socket"))? {}
    Ok(())
}

impl Child {
    /// Waits, and handles what is there. False when the vendor has ended.
    fn turn(&mut self) -> io::Result<bool> {
        let woken = self.wait()?;
        let now = Instant::now();
        if woken.vendor && !self.hear_vendor(now)? {
            return Ok(false);
        }
        if woken.worker {
            self.hear_worker(now);
        }
        if woken.connection && self.desk.unattended() && !self.asked {
            self.asked = true;
            self.report(&Report::Need)?;
        }
        let late = self.desk.tick(Instant::now(), &mut self.counts_told);
        self.obey(late);
        if let Some(worker) = &mut self.worker
            && worker.out.flush(&worker.channel).is_err()
        {
            let all = self.desk.closed();
            self.obey(all);
        }
        self.to_vendor.flush(&self.vendor)?;
        Ok(true)
    }

    fn wait(&self) -> io::Result<Woken> {
        let interest = |behind: bool| match behind {
            true => PollFlags::IN | PollFlags::OUT,
            false => PollFlags::IN,
        };
        let mut fds = vec![PollFd::from_borrowed_fd(
            self.vendor.as_fd(),
            interest(!self.to_vendor.is_empty()),
        )];
        let worker = self.worker.as_ref();
        fds.extend(
            worker
                .map(|w| PollFd::from_borrowed_fd(w.channel.as_fd(), interest(!w.out.is_empty()))),
        );
        let heard = fds.len();
        // Connections are the worker's; while there is none, the first one starts it.
        if self.desk.unattended() && !self.asked {
            let all = self.rooms.values().flat_map(|r| r.listeners.values());
            fds.extend(all.map(|l| PollFd::new(l, PollFlags::IN)));
        }
        let timeout = self.desk.deadline().map(|at| {
            let left = at.saturating_duration_since(Instant::now());
            Timespec::try_from(left).unwrap_or_default()
        });
        match poll(&mut fds, timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => return Ok(Woken::default()),
            done => done?,
        };
        let woken = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
        Ok(Woken {
            vendor: woken(0),
            worker: heard == 2 && woken(1),
            connection: (heard..fds.len()).any(woken),
        })
    }

    /// False at the end of the vendor.
    fn hear_vendor(&mut self, now: Instant) -> io::Result<bool> {
        for _ in 0..TURN {
            let (frame, fds) = match self.vendor.recv().map_err(io::Error::other)? {
                Received::Empty => break,
                Received::Closed => return Ok(false),
                Received::Frame(frame, fds) => (frame, fds),
            };
            let message = ToChild::read(frame).map_err(io::Error::other)?;
            let all = self.told(now, message, fds)?;
            self.obey(all);
        }
        Ok(true)
    }

    fn told(&mut self, now: Instant, message: ToChild, fds: Vec<OwnedFd>) -> io::Result<Vec<Do>> {
        let mut fds = fds.into_iter();
        let mut descriptor = || {
            fds.next()
                .ok_or_else(|| io::Error::other(Malformed::Descriptors))
        };
        Ok(match message {
            ToChild::Add { id, name } => {
                let netns = descriptor()?;
                match netns::inside(&self.home, &netns, || Ok(())) {
                    Ok(()) => {
                        let listeners = BTreeMap::new();
                        self.rooms.insert(id, Room { netns, listeners });
                        self.desk.add(id, name)
                    }
                    Err(e) => vec![failed(id, 0, code::NETNS_UNREACHABLE, &e)],
                }
            }
            ToChild::Drain { id } => self.desk.drain(id),
            ToChild::Remove { id } => self.desk.remove(now, id),
            ToChild::Listen { id, port, address } => self.listen(id, port, address),
            ToChild::Snapshot { tenant, version } => {
                let files = vec![descriptor()?, descriptor()?];
                let snapshot = Snapshot { version, files };
                self.snapshots.insert(tenant.clone(), snapshot);
                self.desk.snapshot(now, tenant, version)
            }
            ToChild::Forget { tenant } => {
                self.snapshots.remove(&tenant);
                self.desk.forget(&tenant);
                Vec::new()
            }
            ToChild::Adopt { pid } => {
                let channel = Channel::from_fd(descriptor()?)?;
                let out = Outbox::default();
                self.worker = Some(Worker { pid, channel, out });
                self.desk.adopt(pid);
                Vec::new()
            }
            ToChild::Ended => {
                self.worker = None;
                self.asked = false;
                self.desk.ended()
            }
            ToChild::Stop { within_ms } => vec![Do::Tell(ToWorker::Stop { within_ms })],
        })
    }

    fn listen(&mut self, id: u64, port: u16, address: IpAddr) -> Vec<Do> {
        if let Err(refused) = self.desk.may_listen(id, port) {
            return vec![refused];
        }
        let Some(room) = self.rooms.get_mut(&id) else {
            return vec![failed(id, port, code::LISTENER_REFUSED, &"no namespace")];
        };
        let make = || netns::listener(address, port);
        match netns::inside(&self.home, &room.netns, make) {
            Ok(socket) => {
                room.listeners.insert(port, socket);
                self.desk.listens(id, port)
            }
            Err(e) => vec![failed(
                id,
                port,
                code::LISTENER_REFUSED,
                &format!("[{address}]:{port}: {e}"),
            )],
        }
    }

    fn hear_worker(&mut self, now: Instant) {
        for _ in 0..TURN {
            let Some(worker) = &self.worker else { return };
            let said = match worker.channel.recv() {
                Ok(Received::Empty) => return,
                Ok(Received::Closed) | Err(Broken::Io(_)) => Ok(None),
                Ok(Received::Frame(frame, fds)) => ToVendor::read(&frame, fds.len()).map(Some),
                Err(Broken::Malformed(e)) => Err(e),
            };
            let all = match said {
                Ok(Some(said)) => {
                    let proven = self.proven(worker.pid, &said);
                    self.desk.hear(now, &said, proven)
                }
                Ok(None) => self.desk.closed(),
                Err(e) => self.desk.unruly(e.to_string()),
            };
            self.obey(all);
        }
    }

    /// What the kernel says, when it matters.
    fn proven(&self, pid: u32, said: &ToVendor) -> u32 {
        match said {
            ToVendor::Hello { .. } => {
                proof::of_process(pid, self.setup.uid).unwrap_or(proof::WRONG_USER)
            }
            _ => 0,
        }
    }

    fn obey(&mut self, all: Vec<Do>) {
        for action in all {
            let done = match action {
                Do::Tell(message) => self.tell(&message, vec![]),
                Do::Vend {
                    workload,
                    family,
                    count,
                } => self.vend(workload, family, count),
                Do::Give { workload, port } => self.give(workload, port),
                Do::Hand { tenant } => self.hand(tenant),
                Do::Close { workload } => {
                    self.close(workload);
                    Ok(())
                }
                Do::Report(report) => self.report(&report),
                Do::HangUp => {
                    // The vendor must know why before it sees that the worker ends.
                    let sent = self.to_vendor.flush(&self.vendor);
                    self.worker = None;
                    sent
                }
            };
            if done.is_err() {
                let all = self.desk.unruly("it does not read".to_owned());
                return self.obey(all);
            }
        }
    }

    fn tell(&mut self, message: &ToWorker, fds: Vec<OwnedFd>) -> io::Result<()> {
        let Some(worker) = &mut self.worker else {
            return Ok(());
        };
        if worker.out.push(message.frame(), fds) {
            return Ok(());
        }
        Err(io::Error::other("a full queue"))
    }

    fn report(&mut self, report: &Report) -> io::Result<()> {
        // The vendor always reads; one that does not is as good as gone.
        if self.to_vendor.push(report.frame(), vec![]) {
            return Ok(());
        }
        Err(io::Error::other("the vendor does not read"))
    }

    /// Sockets that a worker does not fetch are not kept: it asks again.
    fn vend(&mut self, workload: u64, family: Family, count: u16) -> io::Result<()> {
        let now = Instant::now();
        let (Some(room), Some(worker)) = (self.rooms.get(&workload), &self.worker) else {
            return Ok(());
        };
        let make = || {
            (0..count)
                .map(|_| netns::unconnected(family))
                .collect::<io::Result<Vec<_>>>()
        };
        let made = match worker.out.is_empty() {
            true => netns::inside(&self.home, &room.netns, make),
            false => Err(io::ErrorKind::WouldBlock.into()),
        };
        let sent = made.and_then(|sockets| {
            let fds: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
            worker
                .channel
                .send(&ToWorker::Stock { workload, family }.frame(), &fds)
        });
        let count = u32::from(count);
        match sent {
            Ok(()) => self.desk.vended(now, count, 0),
            Err(_) => {
                self.desk.vended(now, 0, count);
                let code = code::NO_SOCKET;
                return self.tell(&ToWorker::Refused { workload, code }, vec![]);
            }
        }
        Ok(())
    }

    fn give(&mut self, workload: u64, port: u16) -> io::Result<()> {
        let room = self.rooms.get(&workload);
        let Some(listener) = room.and_then(|r| r.listeners.get(&port)) else {
            return Ok(());
        };
        let Ok(another) = listener.try_clone() else {
            // No descriptor is left: said in the status, and not the worker's fault.
            self.desk.vended(Instant::now(), 0, 1);
            return Ok(());
        };
        self.tell(&ToWorker::Listener { workload, port }, vec![another])
    }

    fn hand(&mut self, tenant: String) -> io::Result<()> {
        let Some(Snapshot { version, files }) = self.snapshots.get(&tenant) else {
            return Ok(());
        };
        let version = *version;
        let again = files.iter().map(OwnedFd::try_clone).collect();
        let Ok(files) = again else {
            // As above; a worker that never answers is ended, and the next one gets it.
            self.desk.vended(Instant::now(), 0, 1);
            return Ok(());
        };
        self.tell(&ToWorker::Snapshot { tenant, version }, files)
    }

    fn close(&mut self, workload: u64) {
        self.rooms.remove(&workload);
        if let Some(worker) = &mut self.worker {
            let stale = |f: &Frame| f.id == workload && ToWorker::is_about_workload(f);
            worker.out.forget(stale);
        }
    }
}

#[derive(Default)]
struct Woken {
    vendor: bool,
    worker: bool,
    connection: bool,
}

fn failed(id: u64, port: u16, code: u16, why: &dyn std::fmt::Display) -> Do {
    let why = why.to_string();
    Do::Report(Report::Failed {
        id,
        port,
        code,
        why,
    })
}
