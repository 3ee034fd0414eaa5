//! What a connection speaks, by the first bytes of its client; and who of a service port speaks first.

use std::{cell::RefCell, collections::HashMap, time::Duration};

use tokio::time::Instant;
use underpass_l7::limit::METHOD_BYTES;
use underpass_mesh::{Str, snapshot::Protocol};

use crate::plan::Plan;

/// Bytes after which it is decided, whatever they are.
pub const DETECT_BYTES: usize = 1024;
/// From a client's first byte until it is decided.
pub const UNDECIDED_WITHIN: Duration = Duration::from_secs(1);
/// How long a client may be silent before its server is asked, where nobody knows who speaks first.
pub const SILENT_FOR: Duration = Duration::from_millis(100);
/// Connections of a shard for whose silent client a server is asked.
pub const PROBES: usize = 64;
/// How long it is remembered who speaks first.
pub const LEARNT_FOR: Duration = Duration::from_secs(600);
/// Service ports of which that is remembered; then all are forgotten.
pub const LEARNT: usize = 4_096;

/// Ports whose protocols begin with the server, or are no HTTP (Linkerd's default opaque ports): SMTP,
/// MySQL and Galera, PostgreSQL, Redis, Elasticsearch, Memcached.
pub const OPAQUE_PORTS: [u16; 8] = [25, 587, 3306, 4444, 5432, 6379, 9300, 11211];

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guess {
    Http1,
    Http2,
    Opaque,
    /// The next byte may decide.
    More,
}

/// What the bytes are the beginning of. More of them never change what was decided.
pub fn guess(bytes: &[u8]) -> Guess {
    // Empty lines before a request (RFC 9112, 2.2).
    let start = bytes.iter().take_while(|b| matches!(b, b'\r' | b'\n'));
    let bytes = &bytes[start.count()..];
    if bytes.starts_with(PREFACE) {
        return Guess::Http2;
    }
    match request_line(bytes) {
        // Both are possible.
        _ if PREFACE.starts_with(bytes) => Guess::More,
        Guess::More if bytes.len() >= DETECT_BYTES => Guess::Opaque,
        decided => decided,
    }
}

/// METHOD SP target SP `HTTP/`, or the beginning of it.
fn request_line(bytes: &[u8]) -> Guess {
    let Some(space) = bytes.iter().position(|b| !is_token(*b)) else {
        return match bytes.len() {
            0..=METHOD_BYTES => Guess::More,
            _ => Guess::Opaque,
        };
    };
    let (method, rest) = (&bytes[..space], &bytes[space + 1..]);
    if bytes[space] != b' ' || method.is_empty() || method.len() > METHOD_BYTES {
        return Guess::Opaque;
    }
    // No other protocol of note begins like this; and targets may be long.
    if is_common(method) && rest.starts_with(b"/") {
        return Guess::Http1;
    }
    let Some(end) = rest.iter().position(|b| *b <= b' ' || *b == 0x7f) else {
        return Guess::More;
    };
    if rest[end] != b' ' || end == 0 {
        return Guess::Opaque;
    }
    let version = &rest[end + 1..];
    match version.len().min(5) {
        n if version[..n] != b"HTTP/"[..n] => Guess::Opaque,
        5 => Guess::Http1,
        _ => Guess::More,
    }
}

fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

fn is_common(method: &[u8]) -> bool {
    let common: [&[u8]; 8] = [
        b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"TRACE", b"PATCH",
    ];
    common.contains(&method)
}

/// How a connection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// With HTTP, whatever comes.
    Http,
    /// With the client, whose bytes decide.
    Client,
    /// With whoever speaks first.
    Either {
        /// How long the client alone is listened to.
        silent_for: Duration,
    },
    /// It is bytes.
    Opaque,
}

/// Who spoke first, by service port.
#[derive(Debug, Default)]
pub struct Learnt {
    ports: RefCell<HashMap<(Str, u16), (Speaker, Instant)>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaker {
    Client,
    Server,
}

impl Learnt {
    pub fn learn(&self, plan: &Plan, speaker: Speaker) {
        let ports = &mut *self.ports.borrow_mut();
        let until = Instant::now() + LEARNT_FOR;
        if let Some(known) = ports.get_mut(&plan.default) {
            *known = (speaker, until);
            return;
        }
        if ports.len() >= LEARNT {
            ports.clear();
        }
        ports.insert(plan.default.clone(), (speaker, until));
    }

    fn speaker(&self, plan: &Plan) -> Option<Speaker> {
        let ports = self.ports.borrow();
        let (speaker, until) = ports.get(&plan.default)?;
        (*until > Instant::now()).then_some(*speaker)
    }

    /// Of a connection with this plan. Where rules must hold for each request nothing passes as bytes,
    /// unless that is declared: then it is refused.
    pub fn begin(&self, plan: &Plan) -> Begin {
        match plan.protocol {
            Protocol::Http1 | Protocol::Http2 => Begin::Http,
            Protocol::Opaque => Begin::Opaque,
            Protocol::Detect if OPAQUE_PORTS.contains(&plan.default.1) => Begin::Opaque,
            Protocol::Detect if plan.inbound.as_ref().is_some_and(|p| !p.is_open()) => Begin::Http,
            Protocol::Detect => match self.speaker(plan) {
                Some(Speaker::Client) => Begin::Client,
                Some(Speaker::Server) => Begin::Either {
                    silent_for: Duration::ZERO,
                },
                None => Begin::Either {
                    silent_for: SILENT_FOR,
                },
            },
        }
    }
}

#[cfg(test)]
mod tests;
