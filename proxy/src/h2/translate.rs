//! Between HTTP/1 and HTTP/2 (RFC 9113, 8). On the side of HTTP/1 the codec has judged a head, or will be
//! judged as if it had come: fields of the connection, framing and the host are never copied.

use std::mem::MaybeUninit;

use bytes::Bytes;
use h2::ext::Protocol;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    request::Parts,
    response,
    uri::{Authority, PathAndQuery, Scheme},
};
use underpass_l7::{Refusal, framing::Framing};

use super::body::{Chunk, Coding};
use crate::h1::{
    FIELDS_MAX, TRAILER_FIELDS,
    field::{Known, trim, write},
    request::{self, RequestFacts},
};

/// A trailer section that the codec has let through.
pub(super) fn trailers(section: &[u8]) -> Chunk {
    if is_empty(section) {
        return Chunk::End;
    }
    let mut storage = [httparse::EMPTY_HEADER; TRAILER_FIELDS];
    let Ok(httparse::Status::Complete((_, lines))) = httparse::parse_headers(section, &mut storage)
    else {
        return Chunk::End;
    };
    let mut fields = HeaderMap::with_capacity(lines.len());
    append(&mut fields, lines.iter().map(|l| (l.name, l.value)));
    Chunk::Trailers(fields)
}

pub(super) fn is_empty(section: &[u8]) -> bool {
    matches!(section, b"" | b"\r\n")
}

/// A chunk of data that is not empty.
pub(super) fn chunk(out: &mut Vec<u8>, data: &Bytes) {
    out.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

/// The last, with those fields that may stand after it.
pub(super) fn last_chunk(out: &mut Vec<u8>, fields: &HeaderMap) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in fields {
        if may_trail(name) {
            write(out, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// As the codec has it of trailers of HTTP/1.
fn may_trail(name: &HeaderName) -> bool {
    let dashed = name.as_str().replace('_', "-");
    Known::of(dashed.as_bytes()) == Known::Other
}

/// Adds fields that HTTP/2 may have.
fn append<'a>(fields: &mut HeaderMap, lines: impl Iterator<Item = (&'a str, &'a [u8])>) {
    for (name, value) in lines {
        let of_http1 = matches!(
            Known::of(name.as_bytes()),
            Known::Connection
                | Known::Host
                | Known::Http2Settings
                | Known::KeepAlive
                | Known::ProxyConnection
                | Known::TransferEncoding
                | Known::Upgrade
        );
        if of_http1 {
            continue;
        }
        let name = HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(trim(value))) {
            fields.append(name, value);
        }
    }
}

/// The head of a request of HTTP/2 for an endpoint of HTTP/1; `end`: it has no body.
pub(super) fn request_head(
    parts: &Parts,
    end: bool,
    key: &str,
    out: &mut Vec<u8>,
) -> (Coding, RequestFacts) {
    let protocol = parts.extensions.get::<Protocol>();
    let connect = parts.method == Method::CONNECT && protocol.is_none();
    let authority = parts.uri.authority().map_or("", Authority::as_str);
    let method = if protocol.is_some() {
        "GET"
    } else {
        parts.method.as_str()
    };
    let target = match (connect, parts.uri.path_and_query()) {
        (true, _) => authority,
        (false, path) => path.map_or("/", PathAndQuery::as_str),
    };
    for text in [method, " ", target, " HTTP/1.1\r\n"] {
        out.extend_from_slice(text.as_bytes());
    }
    write(out, b"host", authority.as_bytes());
    let (mut cookies, mut length, mut te) = (Vec::new(), false, false);
    for (name, value) in &parts.headers {
        let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
        match Known::of(name) {
            Known::Te => te = true,
            Known::ContentLength => {
                length = true;
                write(out, name, value);
            }
            Known::Host => {}
            _ if name == b"cookie" => {
                // RFC 9113, 8.2.3.
                let separator: &[u8] = if cookies.is_empty() { b"" } else { b"; " };
                cookies.extend_from_slice(separator);
                cookies.extend_from_slice(value);
            }
            _ => write(out, name, value),
        }
    }
    if !cookies.is_empty() {
        write(out, b"cookie", &cookies);
    }
    if let Some(protocol) = protocol {
        write(out, b"connection", b"upgrade");
        write(out, b"upgrade", protocol.as_str().as_bytes());
        write(out, b"sec-websocket-key", key.as_bytes());
    } else if te {
        write(out, b"te", b"trailers");
        write(out, b"connection", b"te");
    }
    let coding = match (connect || protocol.is_some(), end, length) {
        (true, ..) => Coding::UntilClose,
        (false, false, false) => Coding::Chunked,
        (false, ..) => Coding::Plain,
    };
    if coding == Coding::Chunked {
        write(out, b"transfer-encoding", b"chunked");
    }
    out.extend_from_slice(b"\r\n");
    let facts = RequestFacts {
        framing: Framing::Empty,
        method: match parts.method {
            Method::HEAD => request::Method::Head,
            _ if connect => request::Method::Connect,
            _ => request::Method::Other,
        },
        is_1_0: false,
        keep_alive: true,
        upgrade: protocol.is_some(),
        repeatable: end && parts.method.is_idempotent(),
    };
    (coding, facts)
}

/// The head of a response of HTTP/1, as [`crate::h1::response::forward`] has written it. A 101 that was
/// asked for is 200 (RFC 8441, 5).
pub(super) fn response_of(head: &[u8]) -> Result<response::Parts, Refusal> {
    let mut storage = [const { MaybeUninit::uninit() }; FIELDS_MAX + 2];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let bad = Refusal::BadStatusLine;
    match config.parse_response_with_uninit_headers(&mut parsed, head, &mut storage) {
        Ok(httparse::Status::Complete(_)) => {}
        _ => return Err(bad),
    }
    let status = match parsed.code {
        Some(101) => 200,
        code => code.ok_or(bad)?,
    };
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(status).map_err(|_| bad)?;
    let lines = parsed.headers.iter();
    let lines = lines.filter(|l| !l.name.eq_ignore_ascii_case("sec-websocket-accept"));
    append(response.headers_mut(), lines.map(|l| (l.name, l.value)));
    Ok(response.into_parts().0)
}

/// The head of a request of HTTP/1, as [`request::forward`] has written it. An upgrade is not asked for
/// again: a server may do without.
pub(super) fn request_of(head: &[u8]) -> Result<Parts, Refusal> {
    let mut storage = [const { MaybeUninit::uninit() }; FIELDS_MAX + 2];
    let mut parsed = httparse::Request::new(&mut []);
    let bad = Refusal::BadLine;
    match parsed.parse_with_uninit_headers(head, &mut storage) {
        Ok(httparse::Status::Complete(_)) => {}
        _ => return Err(bad),
    }
    let (Some(method), Some(target)) = (parsed.method, parsed.path) else {
        return Err(bad);
    };
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(method.as_bytes()).map_err(|_| bad)?;
    *request.version_mut() = Version::HTTP_2;
    let lines = parsed.headers.iter();
    append(request.headers_mut(), lines.map(|l| (l.name, l.value)));
    let mut hosts = parsed.headers.iter();
    let host = hosts.find(|l| l.name.eq_ignore_ascii_case("host"));
    let host = trim(host.ok_or(Refusal::HostMissing)?.value);
    let bad = |_| Refusal::BadTarget;
    let mut uri = http::uri::Parts::default();
    if method == "CONNECT" {
        let target = Bytes::copy_from_slice(target.as_bytes());
        uri.authority = Some(Authority::from_maybe_shared(target).map_err(bad)?);
    } else {
        uri.scheme = Some(Scheme::HTTP);
        let host = Bytes::copy_from_slice(host);
        uri.authority = Some(Authority::from_maybe_shared(host).map_err(|_| Refusal::BadHost)?);
        let target = Bytes::copy_from_slice(target.as_bytes());
        uri.path_and_query = Some(PathAndQuery::from_maybe_shared(target).map_err(bad)?);
    }
    *request.uri_mut() = Uri::from_parts(uri).map_err(|_| Refusal::BadTarget)?;
    Ok(request.into_parts().0)
}

/// The head of a response of HTTP/2 for a client of HTTP/1; `end`: it has no body. Also whether the
/// client's connection may be used again.
pub(super) fn response_head(
    parts: &response::Parts,
    end: bool,
    request: &RequestFacts,
    keep: bool,
    out: &mut Vec<u8>,
) -> (Coding, bool) {
    let status = parts.status;
    let reason = status.canonical_reason().unwrap_or("");
    out.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", status.as_str()).as_bytes());
    let tunnel = request.method == request::Method::Connect && status.is_success();
    let bodiless = status.is_informational()
        || matches!(status.as_u16(), 204 | 304)
        || request.method == request::Method::Head;
    let mut length = false;
    for (name, value) in &parts.headers {
        let unframed = status.is_informational() || status.as_u16() == 204 || tunnel;
        match Known::of(name.as_str().as_bytes()) {
            Known::ContentLength if unframed => {}
            Known::Te | Known::Trailer if unframed => {}
            known => {
                length |= known == Known::ContentLength;
                write(out, name.as_str().as_bytes(), value.as_bytes());
            }
        }
    }
    let coding = match () {
        () if tunnel => Coding::UntilClose,
        () if bodiless || length => Coding::Plain,
        () if end => {
            write(out, b"content-length", b"0");
            Coding::Plain
        }
        () if request.is_1_0 => Coding::UntilClose,
        () => {
            write(out, b"transfer-encoding", b"chunked");
            Coding::Chunked
        }
    };
    let keep = keep && request.keep_alive && coding != Coding::UntilClose;
    if !status.is_informational() && !tunnel {
        match (keep, request.is_1_0) {
            (false, _) => write(out, b"connection", b"close"),
            (true, true) => write(out, b"connection", b"keep-alive"),
            (true, false) => {}
        }
    }
    out.extend_from_slice(b"\r\n");
    (coding, keep)
}

/// 16 bytes in base64 (RFC 6455, 4.1).
pub(super) fn websocket_key(random: [u64; 2]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bits = u128::from(random[0]) << 64 | u128::from(random[1]);
    let mut key = String::with_capacity(24);
    for _ in 0..22 {
        key.push(DIGITS[(bits >> 122) as usize].into());
        bits <<= 6;
    }
    key + "=="
}
