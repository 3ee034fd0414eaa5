//! The shards of a worker, each with a thread of its own but the first, and what they are told.

use std::{
    io,
    os::fd::OwnedFd,
    rc::Rc,
    sync::{Arc, mpsc::Sender},
    thread,
    time::Duration,
};

use tokio::{
    net::TcpStream,
    runtime::{Builder, LocalOptions, LocalRuntime},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::sleep,
};
use underpass_api::vend::Family;

use crate::{
    book::{Arrived, Side, Who},
    connector::Connector,
    counters::{Count, Counters},
    draft::Draft,
    forward::spawn,
    metrics::{Metrics, cells::Item, reporter::Reporter},
    original,
    shard::{Settings, Shard},
    stock::{Stocks, Want},
};

/// Shards of a process.
pub const SHARDS_MAX: usize = 64;
/// Between two looks at the connections of a workload that has ended.
const CLOSING: Duration = Duration::from_millis(2);

/// Held until something is done; the last one that is dropped says so.
pub type Done = UnboundedSender<()>;

/// What a shard is told. Connections are bounded by [`Settings::connections`], the rest by what the
/// vendor sends before it has an answer.
#[derive(Debug)]
pub enum Order {
    Connection(Box<Incoming>),
    Draft(Arc<Draft>, Done),
    Stock {
        workload: u64,
        family: Family,
        sockets: Vec<OwnedFd>,
    },
    /// No socket is to be had.
    Refused {
        workload: u64,
    },
    Drain {
        workload: u64,
    },
    Close {
        workload: u64,
        done: Done,
    },
    /// Accept failed so often.
    AcceptFailed,
}

/// A connection that was accepted.
#[derive(Debug)]
pub struct Incoming {
    pub stream: Stream,
    pub workload: u64,
    pub name: Arc<str>,
    pub side: Side,
    /// The listener's port.
    pub port: u16,
}

#[derive(Debug)]
pub enum Stream {
    /// Known to the calling thread's runtime.
    Here(TcpStream),
    /// On its way to another's.
    Bare(std::net::TcpStream),
}

/// One shard, as the main task sees it.
#[derive(Debug)]
pub struct Member {
    orders: UnboundedSender<Order>,
    /// Connections that it was given so far.
    given: usize,
    /// With how many of them are over.
    counters: Arc<Counters>,
}

impl Member {
    pub fn open(&self) -> usize {
        self.given - self.counters.get(Count::Ended) as usize
    }

    pub fn tell(&self, order: Order) {
        // A shard ends with the process only.
        let _ = self.orders.send(order);
    }
}

/// All shards.
#[derive(Debug)]
pub struct Crew {
    pub members: Vec<Member>,
    connections: usize,
}

impl Crew {
    /// Starts them. The first is a task of the calling thread's [`LocalRuntime`]. What they count goes to
    /// `reporter`; `ask`: who asks the vendor for sockets, if they do not make their own.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn start(
        shards: usize,
        settings: Settings,
        reporter: &mut Reporter,
        ask: Option<&UnboundedSender<(usize, Want)>>,
    ) -> io::Result<Self> {
        let mut members = Vec::new();
        let shards = shards.clamp(1, SHARDS_MAX);
        let settings = Settings {
            shards: shards as u32,
            ..settings
        };
        for number in 0..shards {
            let (orders, receiver) = unbounded_channel();
            let counters = Arc::<Counters>::default();
            let hired = Hired {
                settings,
                ask: ask.map(|ask| (ask.clone(), number)),
                to: reporter.shard(counters.clone()),
                counters: counters.clone(),
            };
            members.push(Member {
                orders,
                given: 0,
                counters,
            });
            if number == 0 {
                tokio::task::spawn_local(hired.work(receiver));
                continue;
            }
            let name = format!("shard-{number}");
            thread::Builder::new().name(name).spawn(move || {
                if let Ok(runtime) = runtime() {
                    runtime.block_on(hired.work(receiver));
                }
            })?;
        }
        Ok(Self {
            members,
            connections: settings.connections,
        })
    }

    /// To the shard with the fewest connections; it is closed if that has as many as it may.
    pub fn give(&mut self, mut incoming: Incoming) {
        let members = self.members.iter_mut().enumerate();
        let Some((number, least)) = members.min_by_key(|(_, m)| m.open()) else {
            return;
        };
        if number > 0
            && let Stream::Here(stream) = incoming.stream
        {
            let Ok(bare) = stream.into_std() else { return };
            incoming.stream = Stream::Bare(bare);
        }
        if least.open() <= self.connections {
            least.given += 1;
            least.tell(Order::Connection(Box::new(incoming)));
        }
    }

    pub fn tell_all(&self, order: impl Fn() -> Order) {
        self.members.iter().for_each(|member| member.tell(order()));
    }

    /// Connections that are open.
    pub fn open(&self) -> usize {
        self.members.iter().map(Member::open).sum()
    }

    /// All that there were.
    pub fn given(&self) -> usize {
        self.members.iter().map(|member| member.given).sum()
    }
}

/// What a shard is made of, on its own thread.
struct Hired {
    settings: Settings,
    ask: Option<(UnboundedSender<(usize, Want)>, usize)>,
    counters: Arc<Counters>,
    to: Sender<Item>,
}

impl Hired {
    async fn work(self, mut orders: UnboundedReceiver<Order>) {
        let connector = match self.ask {
            None => Connector::Own,
            Some((ask, number)) => Connector::Vended(Rc::new(Stocks::new(ask, number))),
        };
        let metrics = Metrics::new(self.counters.clone(), self.to);
        let shard = Shard::reporting(self.settings, connector, self.counters, metrics);
        let sweeping = shard.clone();
        tokio::task::spawn_local(async move { sweeping.sweep().await });
        while let Some(order) = orders.recv().await {
            obey(&shard, order);
        }
    }
}

/// What each shard runs on.
///
/// # Errors
/// If the kernel gives no epoll or event descriptor.
pub fn runtime() -> io::Result<LocalRuntime> {
    Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
}

fn obey(shard: &Rc<Shard>, order: Order) {
    match order {
        Order::Connection(incoming) => arrive(shard, *incoming),
        Order::Draft(draft, _done) => shard.set_draft(&draft),
        Order::Stock {
            workload,
            family,
            sockets,
        } => {
            if let Connector::Vended(stocks) = &shard.connector {
                stocks.give(workload, family, sockets);
            }
        }
        Order::Refused { workload } => {
            if let Connector::Vended(stocks) = &shard.connector {
                stocks.refused(workload);
            }
        }
        Order::Drain { workload } => shard.drain(workload),
        Order::Close { workload, done } => {
            let Some(workload) = shard.close(workload) else {
                return;
            };
            tokio::task::spawn_local(async move {
                while workload.open() > 0 {
                    sleep(CLOSING).await;
                }
                drop(done);
            });
        }
        Order::AcceptFailed => shard.counters.add(Count::AcceptFailed),
    }
}

fn arrive(shard: &Rc<Shard>, incoming: Incoming) {
    let Incoming {
        stream,
        workload,
        name,
        side,
        port,
    } = incoming;
    let stream = match stream {
        Stream::Here(stream) => Ok(stream),
        Stream::Bare(stream) => TcpStream::from_std(stream),
    };
    let arrived = stream.ok().and_then(|stream| {
        let Some(original) = original::destination(&stream, side, port) else {
            shard.counters.add(Count::NoOriginal);
            return None;
        };
        let workload = shard.workload(workload, &name);
        // Beside a workload nobody knows who dials: only the node's programs are told that.
        let who = match (&shard.connector, side) {
            (Connector::Vended(_), Side::Inbound) => original::who(&stream),
            _ => Who::Unknown,
        };
        let arrived = Arrived {
            workload,
            side,
            original,
            who,
        };
        Some((stream, arrived))
    });
    let admitted = arrived.is_some_and(|(stream, arrived)| spawn(shard, stream, arrived));
    if !admitted {
        shard.count_over();
    }
}
