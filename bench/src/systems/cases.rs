//! What is asked of each system: a protocol, a size, how many at once, and how often.

use serde::Serialize;

use crate::web::Protocol;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    Http1,
    Http2,
    Grpc,
    Tcp,
}

impl Family {
    pub const ALL: &[Self] = &[Self::Http1, Self::Http2, Self::Grpc, Self::Tcp];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }

    /// `None` for TCP, which has parties of its own.
    pub const fn protocol(self) -> Option<Protocol> {
        match self {
            Self::Http1 => Some(Protocol::Http1),
            Self::Http2 => Some(Protocol::Http2),
            Self::Grpc => Some(Protocol::Grpc),
            Self::Tcp => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Case {
    pub family: Family,
    /// Of the body of a request, and of its response.
    pub bytes: u32,
    pub connections: u32,
    /// Requests under way, or in open loop at most.
    pub concurrency: u32,
    /// Requests in a second in open loop; `None`: closed loop.
    pub rate: Option<u32>,
}

/// Requests in a second that can be asked for.
pub const RATES: std::ops::RangeInclusive<u32> = 10..=200_000;

const fn http1(bytes: u32, concurrency: u32) -> Case {
    Case {
        family: Family::Http1,
        bytes,
        connections: concurrency,
        concurrency,
        rate: None,
    }
}

const fn tcp(bytes: u32, concurrency: u32) -> Case {
    Case {
        family: Family::Tcp,
        ..http1(bytes, concurrency)
    }
}

/// `streams` on each connection.
const fn streams(family: Family, bytes: u32, connections: u32, streams: u32) -> Case {
    Case {
        family,
        bytes,
        connections,
        concurrency: connections * streams,
        rate: None,
    }
}

const K: u32 = 1 << 10;

/// The families stand together.
pub const CASES: &[Case] = &[
    http1(K, 1),
    http1(K, 16),
    http1(K, 16).at(500),
    http1(K, 16).at(5_000),
    http1(64 * K, 16),
    streams(Family::Http2, K, 1, 1),
    streams(Family::Http2, K, 4, 8),
    streams(Family::Http2, K, 4, 8).at(5_000),
    streams(Family::Http2, K, 1, 100),
    streams(Family::Http2, 64 * K, 4, 8),
    streams(Family::Grpc, K, 1, 1),
    streams(Family::Grpc, K, 4, 8),
    streams(Family::Grpc, K, 4, 8).at(5_000),
    streams(Family::Grpc, K, 1, 100),
    streams(Family::Grpc, 64 * K, 4, 8),
    tcp(64, 16),
    tcp(K, 1),
    tcp(K, 16),
    tcp(K, 16).at(500),
    tcp(K, 16).at(5_000),
    tcp(64 * K, 16),
];

/// What `--quick` runs: each family once, and open loop.
pub const QUICK: &[&str] = &[
    "http1-1k-c16",
    "http1-1k-c16@500",
    "http2-1k-c32",
    "grpc-1k-c32",
    "tcp-1k-c16",
];

impl Case {
    pub const fn at(self, rate: u32) -> Self {
        Self {
            rate: Some(rate),
            ..self
        }
    }

    pub fn name(&self) -> String {
        let size = match self.bytes {
            bytes if bytes % K == 0 => format!("{}k", bytes / K),
            bytes => bytes.to_string(),
        };
        let rate = self.rate.map_or(String::new(), |rate| format!("@{rate}"));
        format!("{}-{size}-c{}{rate}", self.family.name(), self.concurrency)
    }

    /// False where many streams share a connection: the mesh may find TCP cheaper there, and stay out.
    pub const fn takes_shortcut(&self) -> bool {
        self.concurrency == self.connections
    }

    pub fn describe(&self) -> String {
        let Self {
            bytes, connections, ..
        } = *self;
        let what = match self.family.protocol() {
            Some(protocol) => format!("{} request of {bytes} B, given back", protocol.name()),
            None => format!("message of {bytes} B over TCP, given back"),
        };
        let kept = match connections {
            1 => "1 kept connection".to_owned(),
            n => format!("{n} kept connections"),
        };
        let streams = match self.concurrency / connections {
            1 => String::new(),
            n => format!(" of {n} streams"),
        };
        let load = match self.rate {
            Some(rate) => format!("open loop, {rate} in a second"),
            None => format!("closed loop, {} at once", self.concurrency),
        };
        format!("{what}; {kept}{streams}; {load}")
    }
}

/// The cases of these names, in the list's order: a case, or a family, which means all of it. Without names
/// all. `rates`: each closed loop among them with requests under way at once, in open loop as well. `quick`:
/// only [`QUICK`] of a family, and of all.
pub fn wanted(names: &[String], rates: &[u32], quick: bool) -> Result<Vec<Case>, String> {
    let named = |case: &Case, name: &str| case.family.name() == name || case.name() == name;
    for name in names {
        if !CASES.iter().any(|case| named(case, name)) {
            return Err(format!("no case {name:?}; --list names them"));
        }
    }
    if let Some(rate) = rates.iter().find(|rate| !RATES.contains(rate)) {
        let (low, high) = (RATES.start(), RATES.end());
        return Err(format!("--rate {rate}: from {low} to {high}"));
    }
    let mut all: Vec<Case> = Vec::new();
    for case in CASES {
        let short = quick && !QUICK.contains(&case.name().as_str());
        let meant = |name: &String| named(case, name) && !(short && *name != case.name());
        if !names.iter().any(meant) && !(names.is_empty() && !short) {
            continue;
        }
        let more = rates.iter().map(|rate| case.at(*rate));
        let more = more.filter(|_| case.rate.is_none() && case.concurrency > 1);
        for case in std::iter::once(*case).chain(more) {
            if !all.contains(&case) {
                all.push(case);
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_no_subcommand() {
        let names: Vec<String> = CASES.iter().map(Case::name).collect();
        for (i, name) in names.iter().enumerate() {
            assert!(!names[..i].contains(name), "{name}");
        }
        assert!(QUICK.iter().all(|name| names.iter().any(|n| n == name)));
        assert!(CASES.is_sorted_by_key(|case| case.family));
    }

    #[test]
    fn streams_share_connections_evenly() {
        for case in CASES {
            assert_eq!(case.concurrency % case.connections, 0, "{}", case.name());
            let one = matches!(case.family, Family::Http1 | Family::Tcp);
            assert!(!one || case.concurrency == case.connections);
        }
    }

    #[test]
    fn a_family_is_all_its_cases_and_a_rate_adds_open_loops() {
        let of = |names: &[&str], rates: &[u32]| {
            let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
            wanted(&names, rates, false).map(|all| all.iter().map(Case::name).collect::<Vec<_>>())
        };
        assert_eq!(of(&[], &[]).unwrap().len(), CASES.len());
        assert_eq!(of(&["tcp", "tcp-1k-c1"], &[]).unwrap().len(), 6);
        assert_eq!(
            of(&["http2-1k-c32"], &[700]).unwrap(),
            ["http2-1k-c32", "http2-1k-c32@700"]
        );
        assert_eq!(of(&["http1-1k-c1"], &[700]).unwrap(), ["http1-1k-c1"]);
        assert!(of(&["http3"], &[]).is_err() && of(&[], &[1]).is_err());
    }

    #[test]
    fn a_smoke_test_takes_little_of_a_family() {
        let of = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
            let all = wanted(&names, &[], true).unwrap();
            all.iter().map(Case::name).collect::<Vec<_>>()
        };
        assert_eq!(of(&[]), QUICK);
        assert_eq!(of(&["http1", "http2", "grpc", "tcp"]), QUICK);
        assert_eq!(of(&["tcp", "http1-1k-c1"]), ["http1-1k-c1", "tcp-1k-c16"]);
    }
}
