//! One thread's worth of a worker: what all its connections share, and nobody else.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};
use underpass_l7::{Refusal, limit::Limits};
use underpass_mesh::Str;

use crate::{
    book::{Arrived, Book, Numbers},
    connector::Connector,
    counters::{Count, Counters},
    detect::{Begin, Learnt, PROBES},
    draft::Draft,
    forward::Active,
    h2::Upstreams,
    metrics::Metrics,
    plan::Plan,
    pool::{Key, Pool},
    workload::Workload,
};

/// Defaults of [`Settings`], where each is explained.
pub const CONNECTIONS: usize = 9_000;
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
pub const BODY_TIMEOUT: Duration = Duration::from_secs(300);
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(300);
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(3600);
pub const TUNNEL_TIMEOUT: Duration = Duration::from_secs(3600);
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
pub const LINGER: Duration = Duration::from_secs(2);
/// How long a connection waits for a snapshot that knows where it was going. The kernel may have learnt of
/// it a moment before the worker.
pub const PLAN_WITHIN: Duration = Duration::from_secs(1);

/// How long a shard waits, and for how many. The times of bodies, responses and tunnels are those in which
/// not one byte moves: a stream may last for hours.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub limits: Limits,
    /// How many of this worker share what is limited.
    pub shards: u32,
    /// Open connections of clients. A process may have 20,000 files, and each takes two.
    pub connections: usize,
    /// From the first byte of a request's head to its last.
    pub head: Duration,
    /// Of a client between two requests, or before the first.
    pub idle: Duration,
    /// For more of a request's body.
    pub body: Duration,
    /// For a client or an endpoint to take what is sent.
    pub write: Duration,
    /// For more of a response's body. Its head is waited for as long as the route says.
    pub response: Duration,
    pub tunnel: Duration,
    pub connect: Duration,
    /// After the last response, for a client that still sends.
    pub linger: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            shards: 1,
            connections: CONNECTIONS,
            head: HEAD_TIMEOUT,
            idle: IDLE_TIMEOUT,
            body: BODY_TIMEOUT,
            write: WRITE_TIMEOUT,
            response: RESPONSE_TIMEOUT,
            tunnel: TUNNEL_TIMEOUT,
            connect: CONNECT_TIMEOUT,
            linger: LINGER,
        }
    }
}

/// Sets of buffers that wait for a connection with a request. Each has 32 KiB and what its writes left.
const SPARE_MAX: usize = 64;
/// Between two looks at the connections that wait.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

pub struct Shard {
    pub settings: Settings,
    pub pool: Pool,
    pub upstreams: Upstreams,
    pub counters: Arc<Counters>,
    metrics: Rc<Metrics>,
    pub connector: Connector,
    /// Who speaks first.
    pub learnt: Learnt,
    /// Connections for whose silent client a server is asked.
    probes: Cell<usize>,
    /// By tenant: one, but where a worker is shared.
    books: RefCell<HashMap<Str, Rc<Book>>>,
    numbers: RefCell<Numbers>,
    /// There is another book.
    turned: Notify,
    /// By the vendor's number, once a listener of theirs is known.
    workloads: RefCell<HashMap<u64, Rc<Workload>>>,
    #[expect(
        clippy::vec_box,
        reason = "connections hold the box, which is to be used again"
    )]
    spare: RefCell<Vec<Box<Active>>>,
    start: Instant,
    random: Cell<u64>,
    open: Cell<usize>,
}

impl Shard {
    pub fn new(settings: Settings, connector: Connector) -> Rc<Self> {
        Self::reporting(settings, connector, Arc::default(), Rc::default())
    }

    /// One whose numbers another thread reads ([`crate::metrics::reporter`]).
    pub fn reporting(
        settings: Settings,
        connector: Connector,
        counters: Arc<Counters>,
        metrics: Rc<Metrics>,
    ) -> Rc<Self> {
        let seed = RandomState::new().hash_one(0);
        Rc::new(Self {
            settings,
            pool: Pool::default(),
            upstreams: Upstreams::default(),
            counters,
            metrics,
            connector,
            learnt: Learnt::default(),
            probes: Cell::new(0),
            books: RefCell::default(),
            numbers: RefCell::default(),
            turned: Notify::new(),
            workloads: RefCell::default(),
            spare: RefCell::default(),
            start: Instant::now(),
            random: Cell::new(seed | 1),
            open: Cell::new(0),
        })
    }

    /// One that makes its own sockets and has the same plan for whoever arrives.
    pub fn of_one(settings: Settings, plan: Plan) -> Rc<Self> {
        let shard = Self::new(settings, Connector::Own);
        shard.set_plan(plan);
        shard
    }

    /// For whoever arrives, from the next request on.
    pub fn set_plan(&self, plan: Plan) {
        let one = Rc::new(Book::of_one(plan));
        self.books.borrow_mut().insert(Str::default(), one);
        self.turned.notify_waiters();
    }

    /// From the next request on. Waiting connections that it has no use for are closed.
    pub fn set_draft(&self, draft: &Draft) {
        let (books, numbers) = (
            &mut *self.books.borrow_mut(),
            &mut *self.numbers.borrow_mut(),
        );
        let book = books.entry(draft.snapshot.tenant.clone()).or_default();
        *book = Rc::new(Book::new(
            draft,
            book,
            numbers,
            self.metrics.clone(),
            self.settings.shards,
        ));
        numbers.keep(books.values().map(Rc::as_ref));
        self.close_unwanted(books);
        self.turned.notify_waiters();
    }

    /// Closes waiting connections for which there is no use, also since they waited too long.
    fn close_unwanted(&self, books: &HashMap<Str, Rc<Book>>) {
        let workloads = self.workloads.borrow();
        let wanted = |key: &Key| {
            let workload = workloads.get(&key.workload);
            books.values().any(|b| b.wants(key, workload))
        };
        self.pool.sweep(&self.counters, wanted);
        self.upstreams.sweep(wanted);
    }

    /// What this shard has of a tenant.
    pub fn book(&self, tenant: &str) -> Option<Rc<Book>> {
        self.books.borrow().get(tenant).cloned()
    }

    /// How to forward what has arrived, as of now.
    ///
    /// # Errors
    /// Why it cannot be.
    pub fn plan(&self, arrived: &Arrived) -> Result<Rc<Plan>, Refusal> {
        let books = self.books.borrow();
        let numbers = &mut *self.numbers.borrow_mut();
        let mut why = Refusal::NoSnapshot;
        for book in books.values().filter(|b| b.knows(&arrived.workload)) {
            match book.plan(arrived, numbers) {
                Some(plan) => return Ok(plan),
                None => why = Refusal::UnknownDestination,
            }
        }
        Err(why)
    }

    /// How a connection begins; without a plan its requests are told why.
    pub(crate) fn begin(&self, arrived: &Arrived) -> Begin {
        let plan = self.plan(arrived);
        plan.map_or(Begin::Http, |plan| self.learnt.begin(&plan))
    }

    /// Counts a server that is asked for a silent client, until the result is dropped; `None` if there
    /// are too many.
    pub(crate) fn probe(self: &Rc<Self>) -> Option<Probe> {
        if self.probes.get() >= PROBES {
            self.counters.add(Count::ProbesFull);
            return None;
        }
        self.probes.set(self.probes.get() + 1);
        Some(Probe(self.clone()))
    }

    /// Until there is a plan for what has arrived, or it is too late for one.
    pub(crate) async fn wait_for_plan(&self, arrived: &Arrived) {
        let known = async {
            loop {
                let turned = self.turned.notified();
                if self.plan(arrived).is_ok() {
                    break;
                }
                turned.await;
            }
        };
        // Then its requests are told why.
        let _ = tokio::time::timeout(PLAN_WITHIN, known).await;
    }

    /// A workload at whose listeners connections will arrive.
    pub fn workload(&self, id: u64, name: &str) -> Rc<Workload> {
        let workloads = &mut *self.workloads.borrow_mut();
        let new = || Rc::new(Workload::new(id, name.into()));
        workloads.entry(id).or_insert_with(new).clone()
    }

    /// The workload is about to end: what waits is closed, the rest when its request is over.
    pub fn drain(&self, workload: u64) {
        if let Some(workload) = self.workloads.borrow().get(&workload) {
            workload.drain();
        }
    }

    /// Closes everything of a workload that has ended; done when it has no connection that is open.
    pub fn close(&self, workload: u64) -> Option<Rc<Workload>> {
        let ended = self.workloads.borrow_mut().remove(&workload);
        self.connector.forget(workload);
        let others = |key: &Key| key.workload != workload;
        self.pool.sweep(&self.counters, others);
        self.upstreams.sweep(others);
        ended.inspect(|w| w.close())
    }

    pub fn start(&self) -> Instant {
        self.start
    }

    /// Evenly distributed, for balancing; no secret (xorshift64*).
    pub fn random(&self) -> u64 {
        let mut x = self.random.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.random.set(x);
        x.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Closes waiting connections whose time is over and frees spare buffers, as long as it is polled.
    pub async fn sweep(&self) {
        let mut ticks = tokio::time::interval(SWEEP_EVERY);
        loop {
            ticks.tick().await;
            self.close_unwanted(&self.books.borrow());
            self.metrics.sweep();
            // What was not needed all this time goes bit by bit.
            let mut spare = self.spare.borrow_mut();
            let half = spare.len() / 2;
            spare.truncate(half);
        }
    }

    /// A connection that was given to this shard is over.
    pub(crate) fn count_over(&self) {
        self.counters.add(Count::Ended);
    }

    /// Clients' connections that are open.
    pub fn open(&self) -> usize {
        self.open.get()
    }

    /// Counts a client's connection until the result is dropped; `None` if there are too many, or its
    /// workload ends.
    pub fn admit(self: &Rc<Self>, arrived: Arrived) -> Option<Admitted> {
        if self.open.get() >= self.settings.connections {
            self.counters.add(Count::NoRoom);
            return None;
        }
        if arrived.workload.is_draining() {
            return None;
        }
        self.open.set(self.open.get() + 1);
        self.counters.add(Count::Accepted);
        self.connector.expect(arrived.workload.id);
        Some(Admitted {
            shard: self.clone(),
            at: arrived.workload.enter(),
            arrived,
        })
    }

    pub(crate) fn activate(&self) -> Box<Active> {
        self.spare.borrow_mut().pop().unwrap_or_default()
    }

    /// Keeps its buffers for the next.
    pub(crate) fn rest(&self, mut active: Box<Active>) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < SPARE_MAX {
            active.reset();
            spare.push(active);
        }
    }
}

pub(crate) struct Probe(Rc<Shard>);

impl Drop for Probe {
    fn drop(&mut self) {
        self.0.probes.set(self.0.probes.get() - 1);
    }
}

/// A connection that is counted as open.
pub struct Admitted {
    pub(crate) shard: Rc<Shard>,
    pub(crate) arrived: Arrived,
    /// Its place among the workload's.
    pub(crate) at: usize,
}

impl Admitted {
    /// Whether it waits for a request of which nothing has come.
    pub(crate) fn park(&self, parked: bool) {
        self.arrived.workload.park(self.at, parked);
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.arrived.workload.leave(self.at);
        self.shard.open.set(self.shard.open.get() - 1);
        self.shard.count_over();
    }
}
