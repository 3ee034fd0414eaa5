//! A shard in front of mock endpoints, over real sockets of the loopback interface, all in one thread.
#![allow(clippy::unwrap_used, reason = "of tests, which fail there")]

use std::{collections::HashMap, future::Future, net::SocketAddr, rc::Rc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::{Builder, LocalOptions},
};
use underpass_l7::route::Table;
use underpass_mesh::{
    k8s::route::{self, HttpRoute, Match, Parent, PathMatch, Rule},
    snapshot::Protocol,
};
use underpass_proxy::{
    book::{Arrived, Side},
    counters::Count,
    forward,
    plan::{Backend, Plan},
    shard::{Settings, Shard},
};

/// A request, and what it may get.
pub const GET: &str = "GET /a HTTP/1.1\r\nHost: shop\r\n\r\n";
pub const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Until a test that hangs has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs a test to its end; it hangs, it fails.
pub fn run(test: impl Future<Output = ()>) {
    let mut builder = Builder::new_current_thread();
    let runtime = builder.enable_all().build_local(LocalOptions::default());
    runtime.unwrap().block_on(async {
        tokio::time::timeout(PATIENCE, test).await.expect("hangs");
    });
}

/// Time stands still while anything can be done, and then jumps to the next timer. If none is left but
/// this one, the test hangs.
pub fn run_paused(test: impl Future<Output = ()>) {
    const YEARS: Duration = Duration::from_secs(1_000_000_000);
    let mut builder = Builder::new_current_thread();
    builder.enable_all().start_paused(true);
    builder
        .build_local(LocalOptions::default())
        .unwrap()
        .block_on(async {
            tokio::time::timeout(YEARS, test).await.expect("hangs");
        });
}

pub struct Rig {
    pub shard: Rc<Shard>,
    pub at: SocketAddr,
    /// The mock endpoints.
    pub endpoints: Vec<TcpListener>,
}

impl Rig {
    pub async fn start() -> Self {
        Self::with(Settings::default(), 1).await
    }

    pub async fn with(settings: Settings, endpoints: usize) -> Self {
        let mut listeners = Vec::new();
        for _ in 0..endpoints {
            listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
        }
        let addresses: Vec<_> = listeners.iter().map(|l| l.local_addr().unwrap()).collect();
        let shard = Shard::of_one(settings, plan(&addresses));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        tokio::task::spawn_local(forward::listen(shard.clone(), listener));
        Self {
            shard,
            at,
            endpoints: listeners,
        }
    }

    pub async fn client(&self) -> Peer {
        Peer(TcpStream::connect(self.at).await.unwrap())
    }

    pub async fn accept(&self) -> Peer {
        Peer(self.endpoints[0].accept().await.unwrap().0)
    }

    /// A request and its response over a new connection to the endpoint, which waits for the next then.
    pub async fn exchange(&self, client: &mut Peer) -> Peer {
        let mut peer = self.ask(client).await;
        peer.say(OK).await;
        client.expect(OK).await;
        peer
    }

    /// A request that reaches the endpoint over a new connection.
    pub async fn ask(&self, client: &mut Peer) -> Peer {
        client.say(GET).await;
        let mut peer = self.accept().await;
        peer.expect(GET).await;
        peer
    }

    pub fn plan(&self) -> Rc<Plan> {
        self.shard.plan(&arrived(self.at)).unwrap()
    }

    pub fn count(&self, what: Count) -> u64 {
        self.shard.counters.get(what)
    }
}

/// A connection of no workload in particular.
pub fn arrived(original: SocketAddr) -> Arrived {
    Arrived {
        workload: Rc::default(),
        side: Side::Outbound,
        original,
        who: Default::default(),
    }
}

/// Everything goes to these.
pub fn plan(addresses: &[SocketAddr]) -> Plan {
    let endpoints = (0..).zip(addresses).map(|(id, at)| (id, *at, 1));
    let service = ("default/shop".into(), 80);
    Plan {
        authority: "shop".into(),
        protocol: Protocol::Http1,
        source: 7,
        default: service.clone(),
        backends: Rc::new(HashMap::from([(
            service,
            Rc::new(Backend::new(9, endpoints)),
        )])),
        ..Plan::default()
    }
}

/// Each of these paths goes to the service of that name.
pub fn routes(paths: &[(&str, &str)], request_timeout: Option<Duration>) -> Table {
    let rules = paths.iter().map(|(path, service)| Rule {
        name: None,
        matches: vec![Match {
            path: PathMatch::Exact((*path).into()),
            method: None,
            headers: Vec::new(),
            query: Vec::new(),
        }],
        backends: vec![route::Backend {
            service: (*service).into(),
            port: 80,
            weight: 1,
        }],
        request_timeout,
    });
    let route = HttpRoute {
        full_name: "default/r".into(),
        created: None,
        parents: vec![Parent {
            service: "default/shop".into(),
            port: None,
        }],
        hostnames: Vec::new(),
        rules: rules.collect(),
    };
    Table::compile("default/shop", 80, [&route]).unwrap()
}

/// One end of a connection that says and expects.
pub struct Peer(pub TcpStream);

impl Peer {
    pub async fn say(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// Exactly these bytes come.
    pub async fn expect(&mut self, text: &str) {
        let mut bytes = vec![0; text.len()];
        let mut len = 0;
        while len < bytes.len() {
            let more = self.0.read(&mut bytes[len..]).await.unwrap();
            let so_far = String::from_utf8_lossy(&bytes[..len]);
            assert_ne!(more, 0, "ended after {so_far:?}, expected {text:?}");
            len += more;
            let so_far = String::from_utf8_lossy(&bytes[..len]);
            assert!(
                text.as_bytes().starts_with(&bytes[..len]),
                "{so_far:?} is not {text:?}"
            );
        }
    }

    /// Everything until the connection ends.
    pub async fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        self.0.read_to_end(&mut bytes).await.unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub async fn expect_end(&mut self) {
        assert_eq!(self.rest().await, "");
    }

    /// The rest of an answer of ours, whose body names the code.
    pub async fn rest_of_answer(&mut self, code: &str) -> String {
        let mut answer = Vec::new();
        let mut piece = [0; 1024];
        // Its body is one line, after an empty one.
        let is_whole = |a: &[u8]| {
            a.ends_with(b"\n") && a.windows(4).any(|w| w == b"\r\n\r\n") && !a.ends_with(b"\r\n")
        };
        while !is_whole(&answer) {
            let len = self.0.read(&mut piece).await.unwrap();
            assert_ne!(len, 0, "ended after {:?}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&piece[..len]);
        }
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.contains(&format!(" {code}: ")), "{answer}");
        format!("\r\n{answer}")
    }

    /// Something that ends so comes, then a reset.
    pub async fn expect_cut(&mut self, end: &str) {
        let mut bytes = Vec::new();
        self.0.read_to_end(&mut bytes).await.unwrap_err();
        assert!(bytes.ends_with(end.as_bytes()), "{bytes:?}");
    }

    /// What is here is all there is, as long as nobody else does anything.
    pub async fn expect_nothing(&mut self) {
        let mut byte = [0];
        let read = tokio::time::timeout(Duration::from_millis(50), self.0.read(&mut byte)).await;
        assert!(read.is_err(), "{read:?} {byte:?}");
    }

    pub async fn expect_reset(&mut self) {
        let mut bytes = Vec::new();
        let why = self.0.read_to_end(&mut bytes).await.unwrap_err();
        assert_eq!(why.kind(), std::io::ErrorKind::ConnectionReset);
    }
}
