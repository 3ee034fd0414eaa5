//! What a worker has counted, as it tells its agent about once a second: JSON in a shared file
//! ([`halves`]). All values are sums since the worker began. The agent does not trust it: what breaks a
//! bound of this module is refused as a whole.

pub mod bounded;
pub mod halves;
pub mod histogram;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use histogram::Histogram;

/// Of this structure.
pub const FORMAT: u32 = 1;
/// Label sets in one report.
pub const SERIES_MAX: usize = 4_096;
/// Outcomes of one label set.
pub const RESPONSES_MAX: usize = 1_024;
/// Outcomes of all of them: each has two histograms, which are larger in memory than in the file.
pub const RESPONSES_TOTAL: usize = 16_384;
/// Bytes of a label: a namespace, a name and a port.
pub const LABEL_BYTES: usize = 330;
/// The worker's own counters.
pub const COUNTERS_MAX: usize = 512;
/// Bytes of a counter's name.
pub const COUNTER_BYTES: usize = 64;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub format: u32,
    /// Of this process, at random. Another one counts from 0 again.
    pub instance: u64,
    #[serde(deserialize_with = "bounded::list::<_, _, SERIES_MAX>")]
    pub series: Vec<Series>,
    /// The worker's own, by name.
    #[serde(deserialize_with = "bounded::counters")]
    pub counters: BTreeMap<String, u64>,
}

/// What has the same labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Series {
    pub labels: Labels,
    /// Of this label set within the process: another one counts from 0 again.
    pub serial: u64,
    /// That began.
    pub requests: u64,
    /// Of those that are over; at most [`RESPONSES_MAX`].
    #[serde(deserialize_with = "bounded::list::<_, _, RESPONSES_MAX>")]
    pub responses: Vec<Responses>,
}

/// Empty is unknown, or does not apply.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Labels {
    pub direction: Direction,
    /// Workload, `namespace/name`; `outside` or `host` are none.
    pub source: String,
    /// Workload, `namespace/name`.
    pub destination: String,
    /// That was dialed: `namespace/name:port`.
    pub service: String,
    /// HTTPRoute, `namespace/name`.
    pub route: String,
    /// Its rule: the name, else the place from 0.
    pub rule: String,
    /// Service that the rule chose: `namespace/name:port`.
    pub backend: String,
}

impl Labels {
    /// Of what found no room elsewhere.
    pub fn other(direction: Direction) -> Self {
        let other = || "other".to_owned();
        Self {
            direction,
            source: other(),
            destination: other(),
            service: other(),
            route: other(),
            rule: other(),
            backend: other(),
        }
    }

    pub fn texts(&self) -> [(&'static str, &str); 6] {
        [
            ("source", &self.source),
            ("destination", &self.destination),
            ("service", &self.service),
            ("route", &self.route),
            ("rule", &self.rule),
            ("backend", &self.backend),
        ]
    }
}

#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// At the source: what the application saw. A request that was sent again counts once.
    #[default]
    Outbound,
    /// At the destination: each attempt.
    Inbound,
}

impl Direction {
    pub fn name(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

/// Requests that ended alike.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Responses {
    #[serde(flatten)]
    pub outcome: Outcome,
    /// To the response's head, or to our own answer.
    pub latency: Histogram,
    /// To the end of both messages.
    pub duration: Histogram,
}

/// How a request ended.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Outcome {
    pub method: Method,
    /// 100 to 599; 0 without a response, or if it is another.
    pub status: u16,
    /// Of gRPC: 0 to 16.
    pub grpc: Option<u8>,
    /// Number of `docs/reference/codes.md` if the worker refused or cut it; else 0.
    pub code: u16,
    /// As the response is classified; [`is_failure`].
    pub failure: bool,
}

/// Linkerd's classification: of gRPC these codes, else 5xx. Without a response it is a failure.
pub fn is_failure(status: u16, grpc: Option<u8>) -> bool {
    // UNKNOWN, DEADLINE_EXCEEDED, PERMISSION_DENIED, INTERNAL, UNAVAILABLE, DATA_LOSS
    let of_grpc = grpc.is_some_and(|code| matches!(code, 2 | 4 | 7 | 13 | 14 | 15));
    of_grpc || status >= 500 || status == 0
}

/// A request's method, as OpenTelemetry bounds it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Connect,
    Options,
    Trace,
    Patch,
    #[default]
    #[serde(rename = "_OTHER")]
    Other,
}

impl Method {
    pub const ALL: [Method; 10] = [
        Self::Get,
        Self::Head,
        Self::Post,
        Self::Put,
        Self::Delete,
        Self::Connect,
        Self::Options,
        Self::Trace,
        Self::Patch,
        Self::Other,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
            Self::Options => "OPTIONS",
            Self::Trace => "TRACE",
            Self::Patch => "PATCH",
            Self::Other => "_OTHER",
        }
    }

    pub fn of(name: &[u8]) -> Self {
        match name {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"POST" => Self::Post,
            b"PUT" => Self::Put,
            b"DELETE" => Self::Delete,
            b"CONNECT" => Self::Connect,
            b"OPTIONS" => Self::Options,
            b"TRACE" => Self::Trace,
            b"PATCH" => Self::Patch,
            _ => Self::Other,
        }
    }
}

/// Why a report is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalid {
    /// No JSON of this structure, or a list that is too long.
    Form,
    Format(u32),
    /// A label or a counter's name is too long or has a character that none has.
    Text,
    /// A status or a gRPC code that there is not.
    Value,
    /// More outcomes than one report may have.
    TooMany,
}

impl std::fmt::Display for Invalid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Form => f.write_str("it has not the form of a report"),
            Self::Format(n) => write!(f, "its format is {n}, not {FORMAT}"),
            Self::Text => f.write_str("a name in it is none"),
            Self::Value => f.write_str("a value in it is out of range"),
            Self::TooMany => f.write_str("it has more outcomes than one may have"),
        }
    }
}

impl std::error::Error for Invalid {}

impl Report {
    /// Reads what a worker wrote, which may be anything.
    pub fn parse(bytes: &[u8]) -> Result<Self, Invalid> {
        let report: Self = serde_json::from_slice(bytes).map_err(|_| Invalid::Form)?;
        if report.format != FORMAT {
            return Err(Invalid::Format(report.format));
        }
        let outcomes = report.series.iter().map(|s| s.responses.len());
        if outcomes.sum::<usize>() > RESPONSES_TOTAL {
            return Err(Invalid::TooMany);
        }
        if !report.counters.keys().all(|name| is_counter(name)) {
            return Err(Invalid::Text);
        }
        for series in &report.series {
            if !series.labels.texts().iter().all(|(_, text)| is_label(text)) {
                return Err(Invalid::Text);
            }
            if !series.responses.iter().all(|r| is_outcome(&r.outcome)) {
                return Err(Invalid::Value);
            }
        }
        Ok(report)
    }

    /// As it is written, in at most `room` bytes: what there was least of is left out, and added to
    /// `left_out`. `None` if not even the rest fits.
    pub fn to_bytes(mut self, room: usize, left_out: &mut u64) -> Option<Vec<u8>> {
        loop {
            self.counters
                .insert("report_series_left_out".into(), *left_out);
            let bytes = serde_json::to_vec(&self).ok()?;
            if bytes.len() <= room {
                return Some(bytes);
            }
            if self.series.is_empty() {
                return None;
            }
            self.series.sort_by_key(|s| std::cmp::Reverse(s.requests));
            // By the mean of them, and somewhat less.
            let keep = self.series.len() * room / bytes.len();
            let keep = (keep - keep / 8).min(self.series.len() - 1);
            *left_out += (self.series.len() - keep) as u64;
            self.series.truncate(keep);
        }
    }
}

/// What a name of the mesh may consist of.
fn is_label(text: &str) -> bool {
    let is_good = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\' | b'{' | b'}');
    text.len() <= LABEL_BYTES && text.bytes().all(is_good)
}

fn is_counter(name: &str) -> bool {
    let is_good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    (1..=COUNTER_BYTES).contains(&name.len()) && name.bytes().all(is_good)
}

fn is_outcome(outcome: &Outcome) -> bool {
    let status = outcome.status == 0 || (100..600).contains(&outcome.status);
    status && outcome.grpc.is_none_or(|code| code <= 16)
}

#[cfg(test)]
mod tests;
