//! A request's head: judged, decided on, and written for the next hop.

use std::{io::Write as _, mem::MaybeUninit};

use underpass_l7::{
    Refusal,
    framing::Framing,
    head::{Request, Version},
    host::Host,
    limit::{Accepted, Limits, check},
};

use super::{
    FIELDS_MAX,
    field::{Hop, Known, Lines, list, refusal, write},
};

/// Methods whose responses are framed in their own way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Head,
    Connect,
    Other,
}

impl Method {
    /// As `l7` asks for it.
    pub(crate) fn name(self) -> &'static [u8] {
        match self {
            Self::Head => b"HEAD",
            Self::Connect => b"CONNECT",
            Self::Other => b"",
        }
    }
}

/// What must be known of a request until it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestFacts {
    pub framing: Framing,
    pub method: Method,
    /// The client speaks HTTP/1.0: it knows neither chunks nor interim responses.
    pub is_1_0: bool,
    /// The client would send another request on this connection.
    pub keep_alive: bool,
    /// The response may be 101.
    pub upgrade: bool,
    /// Sent twice it does what it does when sent once (RFC 9110, 9.2.2), and it has no body.
    pub repeatable: bool,
}

/// Judges a head, which [`super::scan::HeadReader`] found, and appends to `out` what is forwarded: as
/// HTTP/1.1, without what belongs to this connection alone, path and host as `decide` saw them. What
/// `decide` gets has no other fields than what is forwarded. With an error, be it `decide`'s, `out` is as
/// before.
///
/// `authority` is the Host field of a request of HTTP/1.0 that names no host.
pub fn forward<T, E>(
    head: &[u8],
    limits: &Limits,
    authority: &str,
    out: &mut Vec<u8>,
    decide: impl FnOnce(&Request<'_, Lines<'_, '_>>, &Accepted<'_>) -> Result<T, E>,
) -> Result<(RequestFacts, Result<T, E>), Refusal> {
    let mut storage = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut parsed = httparse::Request::new(&mut []);
    let done = parsed.parse_with_uninit_headers(head, &mut storage);
    match done {
        Ok(status) if status == httparse::Status::Complete(head.len()) => {}
        Ok(_) => return Err(Refusal::BadLine),
        Err(httparse::Error::Version) if asks_for_other_version(head) => {
            return Err(Refusal::HttpVersion);
        }
        Err(e) => return Err(refusal(e, Refusal::BadLine)),
    }
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version)
    else {
        return Err(Refusal::BadLine);
    };
    let version = match minor {
        0 => Version::Http10,
        _ => Version::Http11,
    };
    let all = Lines::new(parsed.headers, 0);
    let request = Request::http1(version, method.as_bytes(), target.as_bytes(), &all);
    let accepted = check(&request, limits)?;
    let mut hop = Hop::read(parsed.headers)?;
    let is_1_0 = version == Version::Http10;
    let upgrade = hop.upgrade.filter(|protocols| {
        !is_1_0 && accepted.framing == Framing::Empty && may_upgrade(protocols)
    });
    if is_1_0 {
        // RFC 9110, 10.1.1: as if it were not there.
        for (i, line) in parsed.headers.iter().enumerate() {
            if Known::of(line.name.as_bytes()) == Known::Expect {
                hop.dropped |= 1 << i;
            }
        }
    }
    let lines = Lines::new(parsed.headers, hop.dropped);
    let request = Request::http1(version, method.as_bytes(), target.as_bytes(), &lines);
    let decided = decide(&request, &accepted);
    let facts = RequestFacts {
        framing: accepted.framing,
        method: match method {
            "HEAD" => Method::Head,
            "CONNECT" => Method::Connect,
            _ => Method::Other,
        },
        is_1_0,
        // What follows a CONNECT that is not granted may be of the tunnel, and no request.
        keep_alive: (hop.keep_alive || !is_1_0) && !hop.close && method != "CONNECT",
        upgrade: upgrade.is_some(),
        repeatable: accepted.framing == Framing::Empty
            && upgrade.is_none()
            && matches!(
                method,
                "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE"
            ),
    };
    if decided.is_ok() {
        let again = Again::new(&hop, upgrade.is_some());
        let lines = Lines::new(parsed.headers, hop.dropped & !again.kept);
        let request = Request::http1(version, method.as_bytes(), target.as_bytes(), &lines);
        write_head(out, &request, &accepted, authority, &again);
    }
    Ok((facts, decided))
}

/// What of the hop's own fields the next hop is told again, in the places where they stood.
struct Again {
    kept: u128,
    /// The Connection field's value; empty: none.
    connection: &'static [u8],
    /// It had no place.
    append: bool,
}

impl Again {
    fn new(hop: &Hop<'_>, upgrade: bool) -> Self {
        let connection: &[u8] = match (hop.trailers, upgrade) {
            (true, true) => b"TE, Upgrade",
            (true, false) => b"TE",
            (false, true) => b"Upgrade",
            (false, false) => b"",
        };
        let bits = [
            (hop.trailers, hop.te_at),
            (upgrade, hop.upgrade_at),
            (!connection.is_empty(), hop.connection_at),
        ];
        Self {
            kept: bits
                .iter()
                .filter(|(keep, _)| *keep)
                .fold(0, |all, (_, bit)| all | bit),
            connection,
            append: !connection.is_empty() && hop.connection_at == 0,
        }
    }
}

fn write_head(
    out: &mut Vec<u8>,
    request: &Request<'_, Lines<'_, '_>>,
    accepted: &Accepted<'_>,
    authority: &str,
    again: &Again,
) {
    out.extend_from_slice(request.method);
    out.push(b' ');
    accepted.target.write(out);
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let mut host_written = false;
    for (known, name, value) in request.fields.kept() {
        match known {
            Known::Host => {
                write_host(out, name, accepted.host, authority);
                host_written = true;
            }
            // Of any case it means the same to us, and perhaps not to the next hop.
            Known::TransferEncoding => write(out, name, b"chunked"),
            Known::Te => write(out, name, b"trailers"),
            Known::Connection => write(out, name, again.connection),
            _ => write(out, name, value),
        }
    }
    if !host_written {
        write_host(out, b"Host", accepted.host, authority);
    }
    if again.append {
        write(out, b"Connection", again.connection);
    }
    out.extend_from_slice(b"\r\n");
}

/// The host that was routed by.
fn write_host(out: &mut Vec<u8>, name: &[u8], host: Option<Host<'_>>, authority: &str) {
    let Some(host) = host else {
        return write(out, name, authority.as_bytes());
    };
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(host.name.as_bytes());
    if let Some(port) = host.port {
        // A vector takes all that is written.
        let _ = write!(out, ":{port}");
    }
    out.extend_from_slice(b"\r\n");
}

/// After an upgrade nobody looks at the bytes: HTTP/2 would hide requests from policy.
fn may_upgrade(protocols: &[u8]) -> bool {
    let hides = |p: &[u8]| {
        let name = p.split(|b| *b == b'/').next().unwrap_or_default();
        [&b"h2c"[..], b"h2", b"http"]
            .iter()
            .any(|n| name.eq_ignore_ascii_case(n))
    };
    list(protocols).next().is_some() && !list(protocols).any(hides)
}

/// Of a request line with three parts the last is a version that is not ours.
fn asks_for_other_version(head: &[u8]) -> bool {
    let line = head.split(|b| *b == b'\r').next().unwrap_or_default();
    let mut parts = line.split(|b| *b == b' ');
    let version = parts.nth(2).unwrap_or_default();
    parts.next().is_none()
        && matches!(version, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit())
}

#[cfg(test)]
mod tests;
