//! Heads of HTTP/2: judged by `l7`, and as the next hop gets them.

use std::time::Duration;

use h2::ext::Protocol;
use http::{
    HeaderMap, HeaderName, Method, Uri, Version, header,
    request::Parts,
    uri::{Authority, PathAndQuery, Scheme},
};
use underpass_l7::{
    Refusal,
    head::{self, Request},
    host::Host,
    inbound::Denied,
    limit::{Accepted, Limits, check, check_response},
    target::Target,
};

use crate::{h1::request, plan::Ticket};

/// What must be known of a request until it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub method: request::Method,
    /// CONNECT, extended or not: nothing goes before it is granted.
    pub tunnel: bool,
    pub grpc: bool,
    /// Sent twice it does what it does when sent once, and it has no body.
    pub repeatable: bool,
    /// As a caller of gRPC says it.
    pub timeout: Option<Duration>,
}

impl Facts {
    /// Counts that we end the request, as its client is told.
    pub fn refused(&self, ticket: &mut Ticket, why: Refusal, status: u16) {
        match self.grpc {
            true => ticket.refused_grpc(why),
            false => ticket.refused(why, status),
        }
    }

    pub fn is_head(&self) -> bool {
        self.method == request::Method::Head
    }

    /// `end`: there is no body.
    pub fn of(parts: &Parts, end: bool) -> Self {
        let method = match parts.method {
            Method::HEAD => request::Method::Head,
            Method::CONNECT if parts.extensions.get::<Protocol>().is_none() => {
                request::Method::Connect
            }
            _ => request::Method::Other,
        };
        let grpc = is_grpc(&parts.headers);
        Self {
            method,
            tunnel: parts.method == Method::CONNECT,
            grpc,
            repeatable: end && parts.method.is_idempotent(),
            timeout: grpc.then(|| grpc_timeout(&parts.headers)).flatten(),
        }
    }
}

/// Judges a head, and changes it to what is forwarded: path and authority as `decide` saw them.
pub(super) fn forward<T>(
    parts: &mut Parts,
    limits: &Limits,
    decide: impl FnOnce(&Request<'_, HeaderMap>, &Accepted<'_>) -> Result<T, Denied>,
) -> Result<T, Denied> {
    let uri = &parts.uri;
    let protocol = parts.extensions.get::<Protocol>();
    let request = Request {
        version: head::Version::Http2,
        method: parts.method.as_str().as_bytes(),
        target: uri.path_and_query().map_or(&[], |p| p.as_str().as_bytes()),
        scheme: uri.scheme_str().map(str::as_bytes),
        authority: uri.authority().map(|a| a.as_str().as_bytes()),
        protocol: protocol.map(|p| p.as_str().as_bytes()),
        fields: &parts.headers,
    };
    if protocol.is_some_and(|p| !may_upgrade(p.as_str())) {
        return Err(Refusal::Http2.into());
    }
    let accepted = check(&request, limits)?;
    let decided = decide(&request, &accepted)?;
    let normal = normal(&accepted, uri)?;
    if let Some(normal) = normal {
        parts.uri = normal;
    }
    parts.headers.remove(header::HOST);
    parts.version = Version::HTTP_2;
    Ok(decided)
}

/// After it nobody looks at the bytes: HTTP would hide requests from policy.
fn may_upgrade(protocol: &str) -> bool {
    !["h2c", "h2", "http"]
        .iter()
        .any(|p| protocol.eq_ignore_ascii_case(p))
}

/// What is routed by, if it is not what was sent.
fn normal(accepted: &Accepted<'_>, sent: &Uri) -> Result<Option<Uri>, Refusal> {
    let host = accepted.host.ok_or(Refusal::HostMissing)?;
    let same_host = sent.authority().is_some_and(|a| is(&host, a.as_str()));
    let same_path = match &accepted.target {
        Target::Path { path, query } => sent
            .path_and_query()
            .is_some_and(|sent| sent.path() == &**path && sent.query() == *query),
        Target::Asterisk | Target::Authority(_) => true,
    };
    if same_host && same_path {
        return Ok(None);
    }
    let bad = |_| Refusal::BadTarget;
    let mut parts = sent.clone().into_parts();
    if !same_host {
        parts.authority = Some(authority(&host)?);
        if accepted_has_path(accepted) && parts.scheme.is_none() {
            parts.scheme = Some(Scheme::HTTP);
        }
    }
    if !same_path {
        let mut path = Vec::new();
        accepted.target.write(&mut path);
        parts.path_and_query = Some(PathAndQuery::from_maybe_shared(path).map_err(bad)?);
    }
    Uri::from_parts(parts)
        .map(Some)
        .map_err(|_| Refusal::BadTarget)
}

fn accepted_has_path(accepted: &Accepted<'_>) -> bool {
    !matches!(accepted.target, Target::Authority(_))
}

fn is(host: &Host<'_>, text: &str) -> bool {
    match host.port {
        None => text == host.name,
        Some(port) => {
            let rest = text.strip_prefix(host.name);
            let rest = rest.and_then(|r| r.strip_prefix(':'));
            rest.is_some_and(|r| !r.starts_with('0') && r.parse() == Ok(port))
        }
    }
}

fn authority(host: &Host<'_>) -> Result<Authority, Refusal> {
    let text = match host.port {
        Some(port) => format!("{}:{port}", host.name),
        None => host.name.to_owned(),
    };
    Authority::from_maybe_shared(text).map_err(|_| Refusal::BadHost)
}

/// Judges a response's head.
pub(super) fn check_answer(
    status: u16,
    fields: &HeaderMap,
    facts: &Facts,
    limits: &Limits,
) -> Result<(), Refusal> {
    let response = head::Response {
        version: head::Version::Http2,
        status,
        fields,
    };
    // HTTP/2 has no 101 (RFC 9113, 8.6).
    if status == 101 {
        return Err(Refusal::UnaskedUpgrade);
    }
    check_response(&response, facts.method.name(), limits)?;
    Ok(())
}

/// gRPC's code for what says nothing of itself.
pub(super) const GRPC_UNKNOWN: u32 = 2;

/// In trailers, or in the head of a response that has no more.
pub(super) fn grpc_status(fields: &HeaderMap) -> Option<u32> {
    fields.get("grpc-status")?.to_str().ok()?.parse().ok()
}

fn is_grpc(fields: &HeaderMap) -> bool {
    let kind = fields.get(header::CONTENT_TYPE).map(|v| v.as_bytes());
    let rest = kind.and_then(|k| k.strip_prefix(b"application/grpc"));
    // Not gRPC-Web, which has no trailers of its own.
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// `1*8DIGIT` and a unit (gRPC over HTTP/2, Requests). One that is malformed is the server's to refuse.
fn grpc_timeout(fields: &HeaderMap) -> Option<Duration> {
    let (unit, digits) = fields.get(TIMEOUT)?.as_bytes().split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let many: u64 = str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(many * 3600),
        b'M' => Duration::from_secs(many * 60),
        b'S' => Duration::from_secs(many),
        b'm' => Duration::from_millis(many),
        b'u' => Duration::from_micros(many),
        b'n' => Duration::from_nanos(many),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn timeouts_of_grpc() {
        for (text, expected) in [
            ("1S", Some(Duration::from_secs(1))),
            ("00000250m", Some(Duration::from_millis(250))),
            ("000000250m", None),
            ("250m", Some(Duration::from_millis(250))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("7u", Some(Duration::from_micros(7))),
            ("7n", Some(Duration::from_nanos(7))),
            ("S", None),
            ("+1S", None),
            ("1", None),
            ("1s", None),
            ("", None),
        ] {
            let mut fields = HeaderMap::new();
            fields.insert(TIMEOUT, HeaderValue::from_static(text));
            assert_eq!(grpc_timeout(&fields), expected, "{text}");
        }
    }

    #[test]
    fn kinds_of_grpc() {
        for (text, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;x=y", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            let mut fields = HeaderMap::new();
            fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(text));
            assert_eq!(is_grpc(&fields), expected, "{text}");
        }
    }
}
