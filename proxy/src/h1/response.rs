//! A response's head: judged and written for the client.

use std::mem::MaybeUninit;

use underpass_l7::{
    Refusal,
    framing::Framing,
    head::{Response, Version},
    limit::{Limits, check_response},
};

use super::{
    FIELDS_MAX,
    field::{Hop, Known, Lines, refusal, write},
    request::{Method, RequestFacts},
};

/// What must be known of a response until it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseFacts {
    pub status: u16,
    pub framing: Framing,
    /// 1xx but 101: another response to the same request follows.
    pub interim: bool,
    /// The endpoint takes another request on this connection when this is over.
    pub keep_upstream: bool,
    /// So do we from the client.
    pub keep_downstream: bool,
    /// The client gets the data of chunks only.
    pub strip_chunks: bool,
}

/// Judges a head, which [`super::scan::HeadReader`] found, and appends to `out` what the client gets.
/// An interim response is nothing to a client of HTTP/1.0. With an error, `out` is as before.
///
/// `close`: the client's connection will not be used again whatever the two say.
pub fn forward(
    head: &[u8],
    request: &RequestFacts,
    close: bool,
    limits: &Limits,
    out: &mut Vec<u8>,
) -> Result<ResponseFacts, Refusal> {
    let mut storage = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    match config.parse_response_with_uninit_headers(&mut parsed, head, &mut storage) {
        Ok(status) if status == httparse::Status::Complete(head.len()) => {}
        Ok(_) => return Err(Refusal::BadStatusLine),
        Err(e) => return Err(refusal(e, Refusal::BadStatusLine)),
    }
    let (Some(status @ 100..), Some(minor)) = (parsed.code, parsed.version) else {
        return Err(Refusal::BadStatusLine);
    };
    let version = match minor {
        0 => Version::Http10,
        _ => Version::Http11,
    };
    let all = Lines::new(parsed.headers, 0);
    let response = Response {
        version,
        status,
        fields: &all,
    };
    let framing = check_response(&response, request.method.name(), limits)?;
    let hop = Hop::read(parsed.headers)?;
    if status == 101 && (!request.upgrade || hop.upgrade.is_none()) {
        return Err(Refusal::UnaskedUpgrade);
    }
    let ends = !matches!(framing, Framing::UntilClose | Framing::Tunnel);
    let asks_to_stay = !hop.close && (version == Version::Http11 || hop.keep_alive);
    let strip_chunks = request.is_1_0 && framing == Framing::Chunked;
    let facts = ResponseFacts {
        status,
        framing,
        interim: (100..200).contains(&status) && status != 101,
        keep_upstream: asks_to_stay && ends,
        keep_downstream: request.keep_alive && ends && !strip_chunks && !close,
        strip_chunks,
    };
    if !(facts.interim && request.is_1_0) {
        // 426 says what a client should ask for.
        let upgrade = hop.upgrade.is_some() && matches!(status, 101 | 426);
        let connection = connection(request, &facts, upgrade);
        let mut kept = if upgrade { hop.upgrade_at } else { 0 };
        if !connection.is_empty() {
            kept |= hop.connection_at;
        }
        let lines = Lines::new(parsed.headers, hop.dropped & !kept);
        let append = hop.connection_at == 0;
        write_head(out, head, &lines, request, &facts, connection);
        if append && !connection.is_empty() {
            write(out, b"Connection", connection);
        }
        out.extend_from_slice(b"\r\n");
    }
    Ok(facts)
}

/// All but the empty line; `connection` where such a field stood.
fn write_head(
    out: &mut Vec<u8>,
    head: &[u8],
    lines: &Lines<'_, '_>,
    request: &RequestFacts,
    facts: &ResponseFacts,
    connection: &[u8],
) {
    out.extend_from_slice(b"HTTP/1.1 ");
    // The status and its reason, which may hold bytes beyond ASCII; httparse has checked both.
    let line = head.split(|b| *b == b'\r').next().unwrap_or_default();
    out.extend_from_slice(line.get(9..).unwrap_or_default());
    out.extend_from_slice(b"\r\n");
    let connect = request.method == Method::Connect && (200..300).contains(&facts.status);
    // RFC 9110, 8.6 and RFC 9112, 6.1: here they say nothing, and not every client knows.
    let unframed = facts.status < 200 || facts.status == 204 || connect;
    for (known, name, value) in lines.kept() {
        match known {
            Known::ContentLength | Known::TransferEncoding if unframed => {}
            Known::TransferEncoding if request.is_1_0 => {}
            Known::TransferEncoding => write(out, name, b"chunked"),
            Known::Connection => write(out, name, connection),
            _ => write(out, name, value),
        }
    }
}

/// The Connection field's value; empty: none.
fn connection(request: &RequestFacts, facts: &ResponseFacts, upgrade: bool) -> &'static [u8] {
    let tunnel = facts.framing == Framing::Tunnel;
    match (upgrade, facts.keep_downstream || tunnel) {
        _ if facts.interim => b"",
        (true, true) => b"Upgrade",
        (true, false) => b"Upgrade, close",
        (false, false) => b"close",
        (false, true) if request.is_1_0 && !tunnel => b"keep-alive",
        (false, true) => b"",
    }
}

#[cfg(test)]
mod tests;
