//! The cases: what is asked, how many at once, and in how large a mesh.

use serde::Serialize;

use crate::{
    apps,
    generator::{Exchange, Kind},
    manifests::Size,
    web::{self, Protocol},
};

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Case {
    pub name: &'static str,
    pub work: Work,
    pub concurrency: u32,
    pub size: Size,
    /// With blocking calls: no epoll between the calls of a request.
    pub blocking: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Our own client and server.
    Load(Exchange),
    Redis(Redis),
    /// 1 KiB each way, by our own parties on hyper and tonic.
    Web(Protocol),
    /// `pgbench -S` against PostgreSQL; an operation is one transaction of one query.
    Pgbench,
}

/// redis-benchmark against redis-server; an operation is one command.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Redis {
    pub command: &'static str,
    /// Commands in one write.
    pub pipeline: u32,
}

/// Ratios to no mesh at most that are aimed at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Goal {
    pub cpu: Option<f64>,
    pub p50: Option<f64>,
    pub p99: Option<f64>,
}

const fn mesh(
    name: &'static str,
    exchange: Exchange,
    concurrency: u32,
    services: u32,
    endpoints: u32,
) -> Case {
    Case {
        name,
        work: Work::Load(exchange),
        concurrency,
        size: Size {
            services,
            endpoints,
        },
        blocking: concurrency == 1,
    }
}

const fn short(name: &'static str, work: Work, concurrency: u32) -> Case {
    Case {
        name,
        work,
        concurrency,
        size: Size {
            services: 1,
            endpoints: 1,
        },
        blocking: false,
    }
}

const fn request(name: &'static str, bytes: u32, concurrency: u32) -> Case {
    short(name, Work::Load(Exchange::request(bytes)), concurrency)
}

const fn stream(name: &'static str, write: u32, concurrency: u32) -> Case {
    short(name, Work::Load(Exchange::stream(write)), concurrency)
}

const fn redis(name: &'static str, command: &'static str, pipeline: u32, concurrency: u32) -> Case {
    short(name, Work::Redis(Redis { command, pipeline }), concurrency)
}

const fn web(name: &'static str, protocol: Protocol, concurrency: u32) -> Case {
    short(name, Work::Web(protocol), concurrency)
}

const CONNECT: Exchange = Exchange::connect(1 << 10);
const REQUEST: Exchange = Exchange::request(1 << 10);

/// What the mesh costs. Cases of one size stand together: they share a running mesh.
pub const MESH: &[Case] = &[
    mesh("connect-10-c1", CONNECT, 1, 1, 10),
    mesh("connect-10-c16", CONNECT, 16, 1, 10),
    mesh("request-10-c1", REQUEST, 1, 1, 10),
    mesh("request-10-c16", REQUEST, 16, 1, 10),
    mesh("connect-1000-c1", CONNECT, 1, 1, 1_000),
    mesh("connect-10000-c1", CONNECT, 1, 1, 10_000),
    mesh("connect-1000x10-c1", CONNECT, 1, 1_000, 10),
];

/// What the shortcut gives.
pub const SHORTCUT: &[Case] = &[
    request("request-64-c1", 64, 1),
    request("request-4k-c1", 4 << 10, 1),
    request("request-16k-c1", 16 << 10, 1),
    request("request-64k-c1", 64 << 10, 1),
    request("request-128k-c1", 128 << 10, 1),
    request("request-256k-c1", 256 << 10, 1),
    request("request-1m-c1", 1 << 20, 1),
    request("request-64-c16", 64, 16),
    request("request-4k-c16", 4 << 10, 16),
    request("request-16k-c16", 16 << 10, 16),
    request("request-64k-c16", 64 << 10, 16),
    request("request-128k-c16", 128 << 10, 16),
    request("request-256k-c16", 256 << 10, 16),
    request("request-1m-c16", 1 << 20, 16),
    stream("stream-64-c1", 64, 1),
    stream("stream-512-c1", 512, 1),
    stream("stream-1k-c1", 1 << 10, 1),
    stream("stream-4k-c1", 4 << 10, 1),
    stream("stream-16k-c1", 16 << 10, 1),
    stream("stream-64k-c1", 64 << 10, 1),
    stream("stream-128k-c1", 128 << 10, 1),
    stream("stream-64-c16", 64, 16),
    stream("stream-1k-c16", 1 << 10, 16),
    stream("stream-4k-c16", 4 << 10, 16),
    stream("stream-128k-c16", 128 << 10, 16),
    short(
        "pipeline-64x16-c1",
        Work::Load(Exchange::pipeline(64, 16)),
        1,
    ),
    short(
        "pipeline-64x16-c16",
        Work::Load(Exchange::pipeline(64, 16)),
        16,
    ),
    short("connect-c1", Work::Load(CONNECT), 1),
    short("connect-c16", Work::Load(CONNECT), 16),
    redis("redis-get-c1", "get", 1, 1),
    redis("redis-get-c16", "get", 1, 16),
    redis("redis-set-c16", "set", 1, 16),
    redis("redis-get-p16-c16", "get", 16, 16),
    redis("redis-set-p16-c16", "set", 16, 16),
    web("http1-1k-c1", Protocol::Http1, 1),
    web("http1-1k-c16", Protocol::Http1, 16),
    web("http2-1k-c1", Protocol::Http2, 1),
    web("http2-1k-c16", Protocol::Http2, 16),
    web("grpc-1k-c1", Protocol::Grpc, 1),
    web("grpc-1k-c16", Protocol::Grpc, 16),
    short("pgbench-select-c1", Work::Pgbench, 1),
    short("pgbench-select-c16", Work::Pgbench, 16),
];

/// What `--quick` runs: each kind once.
pub const QUICK: &[&str] = &["connect-10-c1", "request-10-c16"];
pub const QUICK_SHORTCUT: &[&str] = &[
    "request-64-c1",
    "request-1m-c16",
    "stream-64-c1",
    "stream-128k-c16",
    "pipeline-64x16-c1",
    "connect-c16",
    "grpc-1k-c16",
];

impl Case {
    /// Of one of the lists.
    pub fn find(list: &[Self], name: &str) -> Option<Self> {
        list.iter().copied().find(|c| c.name == name)
    }

    /// True if both can use one running mesh.
    pub fn shares_mesh(&self, other: &Self) -> bool {
        self.size == other.size && self.app() == other.app()
    }

    /// The program that runs in the place of our own parties.
    pub const fn app(&self) -> Option<apps::Kind> {
        match self.work {
            Work::Load(_) => None,
            Work::Redis(_) => Some(apps::Kind::Redis),
            Work::Web(_) => Some(apps::Kind::Web),
            Work::Pgbench => Some(apps::Kind::Postgres),
        }
    }

    /// False where the mesh may find TCP cheaper and stay out (pipelines, streams and short connections),
    /// and for PostgreSQL, whose listener blocks.
    pub fn must_pass_tcp(&self) -> bool {
        match self.work {
            Work::Load(e) => e.kind == Kind::Request && e.depth == 1,
            Work::Redis(redis) => redis.pipeline == 1,
            Work::Web(_) => true,
            Work::Pgbench => false,
        }
    }

    /// Of the shortcut.
    pub fn goal(&self) -> Goal {
        let cpu = |most| Goal {
            cpu: Some(most),
            ..Goal::default()
        };
        match self.work {
            Work::Load(e) if e.kind == Kind::Stream && e.write >= SMALL => cpu(0.75),
            Work::Load(e) if e.kind == Kind::Stream => cpu(1.02),
            Work::Load(e) if e.kind == Kind::Request && e.depth == 1 => {
                if e.message > 64 << 10 {
                    return cpu(0.55);
                }
                Goal {
                    cpu: Some(0.65),
                    p50: Some(0.70),
                    p99: Some(1.0),
                }
            }
            _ => Goal::default(),
        }
    }

    pub fn describe(&self) -> String {
        let Size {
            services,
            endpoints,
        } = self.size;
        let what = match self.work {
            Work::Redis(Redis { command, pipeline }) => {
                format!("redis-benchmark -t {command} -P {pipeline}")
            }
            Work::Web(protocol) => format!(
                "{} request and response of {} B, {} connections",
                protocol.name(),
                web::MESSAGE,
                protocol.connections(self.concurrency)
            ),
            Work::Pgbench => "pgbench -S".to_owned(),
            Work::Load(e) => match e.kind {
                Kind::Connect => format!("connect, {} B request and response, close", e.message),
                Kind::Request if e.depth > 1 => format!(
                    "{} B request and response, {} under way on each kept connection",
                    e.message, e.depth
                ),
                Kind::Request => {
                    format!("{} B request and response on kept connections", e.message)
                }
                Kind::Stream => format!("{} B in writes of {} B, one way", e.message, e.write),
            },
        };
        format!(
            "{what}; {} at once; services {services}, endpoints {endpoints} each",
            self.concurrency
        )
    }
}

/// Streams of smaller writes cost the shortcut more than TCP.
const SMALL: u32 = 4 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_say_what_the_case_is() {
        for list in [MESH, SHORTCUT] {
            for (i, case) in list.iter().enumerate() {
                assert!(list[..i].iter().all(|other| other.name != case.name));
                assert!(case.name.ends_with(&format!("-c{}", case.concurrency)));
                if let Work::Load(exchange) = case.work {
                    assert!(exchange.is_valid(), "{}", case.name);
                }
            }
        }
        assert!(QUICK.iter().all(|name| Case::find(MESH, name).is_some()));
        let known = |name: &&str| Case::find(SHORTCUT, name).is_some();
        assert!(QUICK_SHORTCUT.iter().all(known));
    }

    #[test]
    fn the_name_tells_the_size() {
        for case in SHORTCUT {
            let Work::Load(e) = case.work else { continue };
            let bytes = match e.kind {
                Kind::Stream => e.write,
                _ => e.message,
            };
            let size = case.name.split(['-', 'x']).nth(1).unwrap_or_default();
            let told = match size.strip_suffix(['k', 'm']) {
                Some(n) if size.ends_with('k') => n.parse::<u32>().unwrap() << 10,
                Some(n) => n.parse::<u32>().unwrap() << 20,
                None if e.kind == Kind::Connect => continue,
                None => size.parse().unwrap(),
            };
            assert_eq!(told, bytes, "{}", case.name);
        }
    }

    #[test]
    fn small_writes_may_stay_on_tcp_and_then_cost_what_tcp_costs() {
        let of = |name| Case::find(SHORTCUT, name).unwrap();
        assert!(!of("stream-1k-c1").must_pass_tcp());
        assert_eq!(of("stream-1k-c1").goal().cpu, Some(1.02));
        assert!(!of("stream-4k-c1").must_pass_tcp());
        assert_eq!(of("stream-4k-c1").goal().cpu, Some(0.75));
        assert!(!of("redis-get-p16-c16").must_pass_tcp() && !of("connect-c1").must_pass_tcp());
        assert_eq!(of("request-64k-c1").goal().p50, Some(0.70));
        assert_eq!(of("request-128k-c1").goal().cpu, Some(0.55));
    }
}
