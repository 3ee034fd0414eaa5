//! One thread's worth of a worker: what all its connections share, and nobody else.

use std::{
    cell::{Cell, RefCell},
    hash::{BuildHasher as _, RandomState},
    rc::Rc,
    time::Duration,
};

use tokio::time::Instant;
use underpass_l7::limit::Limits;

use crate::{
    counters::{Count, Counters},
    forward::Active,
    plan::Plan,
    h2::Upstreams,
    pool::Pool,
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

/// How long a shard waits, and for how many. The times of bodies, responses and tunnels are those in which
/// not one byte moves: a stream may last for hours.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub limits: Limits,
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
    pub counters: Counters,
    plan: RefCell<Rc<Plan>>,
    #[expect(
        clippy::vec_box,
        reason = "connections hold the box, which is to be used again"
    )]
    spare: RefCell<Vec<Box<Active>>>,
    start: Instant,
    random: Cell<u64>,
    open: Cell<usize>,
    draining: Cell<bool>,
}

impl Shard {
    pub fn new(settings: Settings, plan: Plan) -> Rc<Self> {
        let seed = RandomState::new().hash_one(0);
        Rc::new(Self {
            settings,
            pool: Pool::default(),
            upstreams: Upstreams::default(),
            draining: Cell::new(false),
            counters: Counters::default(),
            plan: RefCell::new(Rc::new(plan)),
            spare: RefCell::default(),
            start: Instant::now(),
            random: Cell::new(seed | 1),
            open: Cell::new(0),
        })
    }

    /// From the next request on.
    pub fn set_plan(&self, plan: Plan) {
        *self.plan.borrow_mut() = Rc::new(plan);
    }

    pub fn plan(&self) -> Rc<Plan> {
        self.plan.borrow().clone()
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
            self.pool.sweep(&self.counters, |_| true);
            self.upstreams.sweep(|_| true);
            // What was not needed all this time goes bit by bit.
            let mut spare = self.spare.borrow_mut();
            let half = spare.len() / 2;
            spare.truncate(half);
        }
    }

    /// From now on clients of HTTP/2 are told to go elsewhere with their next request.
    pub fn drain(&self) {
        self.draining.set(true);
    }

    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Clients' connections that are open.
    pub fn open(&self) -> usize {
        self.open.get()
    }

    /// Counts a client's connection until the result is dropped; `None` if there are too many.
    pub(crate) fn admit(self: &Rc<Self>) -> Option<Admitted> {
        if self.open.get() >= self.settings.connections {
            self.counters.add(Count::NoRoom);
            return None;
        }
        self.open.set(self.open.get() + 1);
        self.counters.add(Count::Accepted);
        Some(Admitted(self.clone()))
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

pub(crate) struct Admitted(Rc<Shard>);

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
    }
}
