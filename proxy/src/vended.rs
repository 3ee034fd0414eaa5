//! A worker that a vendor has started: its main task, which speaks with the vendor and tells the shards
//! (docs/explanation/vendor.md).

use std::{
    cell::RefCell,
    collections::{HashMap, VecDeque},
    io,
    os::fd::OwnedFd,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use thiserror::Error;
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::{Instant, sleep_until},
};
use underpass_api::vend::{
    Family, ToVendor,
    channel::Broken,
    worker::{Event, Vendor},
};
use underpass_mesh::reason::code;

use crate::{
    crew::{Crew, Done, Order},
    doors::{Door, Doors},
    metrics::reporter::Reporter,
    shard::Settings,
    stock::Want,
};

mod line;
mod reports;
mod snapshots;

use line::Line;
use reports::Reports;
use snapshots::Read;

/// Between two looks at what is still open when the vendor has said `Stop`.
const STOPPING: Duration = Duration::from_millis(10);
/// Between two looks at whether there is work.
const IDLE_TICK: Duration = Duration::from_secs(1);

/// Why a worker ended that was not asked to.
#[derive(Debug, Error)]
pub enum Problem {
    #[error(
        "UP{code:04} VEND_PROTOCOL: {0}. Try: underpass-vend starts workers; by hand give --listen ADDR:PORT",
        code = code::VEND_PROTOCOL
    )]
    Vendor(String),
    #[error("UP{code:04} WORKER_NOT_STARTED: {0}", code = code::WORKER_NOT_STARTED)]
    Start(io::Error),
}

impl From<Broken> for Problem {
    fn from(broken: Broken) -> Self {
        Self::Vendor(broken.to_string())
    }
}

/// What the main task's own helpers tell it.
enum Note {
    Read(Read),
    Applied { tenant: String, version: u64 },
    Closed { workload: u64 },
}

/// What is known of a workload.
struct Known {
    name: Arc<str>,
    doors: Doors,
    /// Shards that asked for sockets; the vendor answers in this order.
    asked: VecDeque<usize>,
}

struct Main {
    crew: Rc<RefCell<Crew>>,
    workloads: HashMap<u64, Known>,
    /// By tenant, of the snapshot that was read last.
    versions: HashMap<String, u64>,
    reports: Reports,
    /// Whose worker this is: all tenants', if it is none of theirs.
    tenant: String,
    /// What the vendor is to be told.
    words: VecDeque<ToVendor>,
    notes: UnboundedSender<Note>,
    idle: Option<Duration>,
    busy_at: Instant,
    given: usize,
    /// All is to end, and by then.
    stop: Option<Instant>,
}

/// What a turn of the main task comes to.
#[derive(PartialEq, Eq)]
enum Next {
    Go,
    Leave,
    End,
}

/// Serves until the vendor ends it, or there is no work. On a [`tokio::runtime::LocalRuntime`], within
/// which [`Vendor::hello`] has been said.
///
/// # Errors
/// If the vendor says what this version does not know, or a shard cannot be started.
pub async fn run(vendor: Vendor, shards: usize, settings: Settings) -> Result<(), Problem> {
    let line = Line::new(vendor).map_err(Problem::Start)?;
    let (ask, mut asked) = unbounded_channel();
    let mut reporter = Reporter::default();
    let crew = Crew::start(shards, settings, &mut reporter, Some(&ask)).map_err(Problem::Start)?;
    let reports = Reports::start(reporter).map_err(Problem::Start)?;
    let (notes, mut noted) = unbounded_channel();
    let mut main = Main {
        crew: Rc::new(RefCell::new(crew)),
        workloads: HashMap::new(),
        versions: HashMap::new(),
        words: VecDeque::new(),
        notes,
        reports,
        tenant: String::new(),
        idle: None,
        busy_at: Instant::now(),
        given: 0,
        stop: None,
    };
    loop {
        let next = main.turn(&line, &mut asked, &mut noted).await?;
        match next {
            Next::Go => {}
            Next::Leave => return main.leave(&line).await,
            Next::End => {
                main.reports.last().await;
                return Ok(());
            }
        }
    }
}

impl Main {
    /// Waits for one thing, and does what it asks for.
    async fn turn(
        &mut self,
        line: &Line,
        asked: &mut UnboundedReceiver<(usize, Want)>,
        noted: &mut UnboundedReceiver<Note>,
    ) -> Result<Next, Problem> {
        let tick = self.tick();
        tokio::select! {
            ready = line.ready.readable() => {
                ready.map_err(Problem::Start)?;
                while let Some(event) = line.next()? {
                    if self.hear(event).await? == Next::End {
                        return Ok(Next::End);
                    }
                }
            }
            ready = line.ready.writable(), if !self.words.is_empty() => {
                ready.map_err(Problem::Start)?;
                self.say(line);
            }
            Some((shard, want)) = asked.recv() => self.want(shard, want),
            Some(note) = noted.recv() => self.noted(note),
            () = sleep_until(tick) => return Ok(self.look()),
        }
        Ok(Next::Go)
    }

    /// True if the vendor has taken all.
    fn say(&mut self, line: &Line) -> bool {
        while let Some(word) = self.words.front() {
            if !line.say(word) {
                return false;
            }
            self.words.pop_front();
        }
        true
    }

    /// When [`Self::look`] has something to do.
    fn tick(&self) -> Instant {
        let now = Instant::now();
        match (self.stop, self.idle) {
            (Some(at), _) => at.min(now + STOPPING),
            (None, Some(idle)) => now + (idle / 4).min(IDLE_TICK),
            (None, None) => now + IDLE_TICK * 3600,
        }
    }

    /// Whether it is time to end.
    fn look(&mut self) -> Next {
        let (now, crew) = (Instant::now(), self.crew.borrow());
        let open = crew.open();
        if let Some(at) = self.stop {
            return if open == 0 || at <= now {
                Next::End
            } else {
                Next::Go
            };
        }
        if open > 0 || crew.given() != self.given {
            (self.busy_at, self.given) = (now, crew.given());
        }
        match self.idle {
            Some(idle) if now.duration_since(self.busy_at) >= idle => Next::Leave,
            _ => Next::Go,
        }
    }

    async fn hear(&mut self, event: Event) -> Result<Next, Problem> {
        match event {
            Event::Welcome { idle_ms, tenant } => {
                self.tenant = tenant;
                self.idle = (idle_ms > 0).then(|| Duration::from_millis(idle_ms.into()));
                self.busy_at = Instant::now();
            }
            Event::Workload { id, name } => {
                let known = Known {
                    name: name.into(),
                    doors: Doors::default(),
                    asked: VecDeque::new(),
                };
                self.workloads.insert(id, known);
            }
            Event::Snapshot {
                tenant,
                version,
                file,
                report,
            } => self.snapshot(tenant, version, file, report),
            Event::Stock {
                workload,
                family,
                sockets,
            } => self.stock(workload, family, sockets),
            Event::Listener {
                workload,
                port,
                socket,
            } => self.listener(workload, port, socket)?,
            Event::Refused { workload, .. } => {
                if let Some(shard) = self.asked_first(workload) {
                    self.crew.borrow().members[shard].tell(Order::Refused { workload });
                }
            }
            Event::Drain { workload } => {
                if let Some(known) = self.workloads.get_mut(&workload) {
                    known.doors.close().await;
                    self.crew.borrow().tell_all(|| Order::Drain { workload });
                }
            }
            Event::Gone { workload } => self.gone(workload).await,
            Event::Stop { within_ms } => {
                self.stop = Some(Instant::now() + Duration::from_millis(within_ms.into()));
                for (id, known) in &mut self.workloads {
                    known.doors.close().await;
                    let workload = *id;
                    self.crew.borrow().tell_all(|| Order::Drain { workload });
                }
            }
            Event::Closed => return Ok(Next::End),
        }
        Ok(Next::Go)
    }

    fn listener(&mut self, workload: u64, port: u16, socket: OwnedFd) -> Result<(), Problem> {
        // Told of in the same breath, or it has ended.
        let Some(known) = self.workloads.get_mut(&workload) else {
            return Ok(());
        };
        let door = Door {
            crew: self.crew.clone(),
            workload,
            name: known.name.clone(),
            port,
        };
        known.doors.open(door, socket).map_err(Problem::Start)
    }

    fn want(&mut self, shard: usize, want: Want) {
        let Want {
            workload,
            family,
            count,
        } = want;
        if let Some(known) = self.workloads.get_mut(&workload) {
            known.asked.push_back(shard);
            self.words.push_back(ToVendor::Want {
                workload,
                family,
                count,
            });
        }
    }

    fn asked_first(&mut self, workload: u64) -> Option<usize> {
        self.workloads.get_mut(&workload)?.asked.pop_front()
    }

    fn stock(&mut self, workload: u64, family: Family, sockets: Vec<OwnedFd>) {
        // Of a workload that has ended: they are closed.
        if let Some(shard) = self.asked_first(workload) {
            self.crew.borrow().members[shard].tell(Order::Stock {
                workload,
                family,
                sockets,
            });
        }
    }

    async fn gone(&mut self, workload: u64) {
        if let Some(mut known) = self.workloads.remove(&workload) {
            known.doors.close().await;
        }
        let (notes, crew) = (self.notes.clone(), self.crew.clone());
        tokio::task::spawn_local(async move {
            all_done(|done| {
                crew.borrow().tell_all(|| Order::Close {
                    workload,
                    done: done.clone(),
                });
            })
            .await;
            let _ = notes.send(Note::Closed { workload });
        });
    }

    fn noted(&mut self, note: Note) {
        match note {
            Note::Closed { workload } => self.words.push_back(ToVendor::GoneDone { workload }),
            Note::Applied { tenant, version } => {
                self.words.push_back(ToVendor::Applied { tenant, version });
            }
            Note::Read(read) => self.was_read(read),
        }
    }

    /// There is no work: what comes from now on is for the next worker.
    async fn leave(&mut self, line: &Line) -> Result<(), Problem> {
        for known in self.workloads.values_mut() {
            known.doors.close().await;
        }
        self.reports.last().await;
        self.words.push_back(ToVendor::Leaving);
        while !self.say(line) {
            line.ready.writable().await.map_err(Problem::Start)?;
        }
        loop {
            line.ready.readable().await.map_err(Problem::Start)?;
            while let Some(event) = line.next()? {
                if matches!(event, Event::Closed) {
                    return Ok(());
                }
            }
        }
    }
}

/// Until each shard has dropped what it got of `tell`'s argument.
async fn all_done(tell: impl FnOnce(Done)) {
    let (done, mut waiting) = unbounded_channel();
    tell(done);
    while waiting.recv().await.is_some() {}
}
