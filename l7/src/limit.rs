//! What a head may be: sizes, characters, one host, one length. Each message goes through here once,
//! before anything is decided by what it says.

use crate::{
    Refusal,
    framing::{Framing, Lengths, is_token, is_value, trim},
    head::{Fields, Request, Response, Version},
    host::Host,
    target::{self, Target},
};

/// Defaults of [`Limits`], where each is explained.
pub const HEADER_BYTES: usize = 64 << 10;
pub const HEADER_COUNT: usize = 128;
pub const TARGET_BYTES: usize = 16 << 10;
pub const METHOD_BYTES: usize = 32;
pub const BODY_BYTES: u64 = u64::MAX;

/// Bounds of one head. A codec that finds one exceeded while it still reads refuses the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all header fields, counted as in RFC 9113, 6.5.2: names, values, and 32 for each field.
    pub header_bytes: usize,
    /// Header fields.
    pub header_count: usize,
    /// Bytes of the request target, or of `:path`.
    pub target_bytes: usize,
    /// Bytes of the method's name.
    pub method_bytes: usize,
    /// Bytes of a body whose length is given; the codec counts the others.
    pub body_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes: HEADER_BYTES,
            header_count: HEADER_COUNT,
            target_bytes: TARGET_BYTES,
            method_bytes: METHOD_BYTES,
            body_bytes: BODY_BYTES,
        }
    }
}

/// A request that nothing speaks against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted<'a> {
    pub framing: Framing,
    /// `None` only for HTTP/1.0. What is forwarded needs a Host field that says the same.
    pub host: Option<Host<'a>>,
    pub target: Target<'a>,
}

/// Judges a request's head.
pub fn check<'a, F: Fields + ?Sized>(
    head: &Request<'a, F>,
    limits: &Limits,
) -> Result<Accepted<'a>, Refusal> {
    if head.version == Version::Other {
        return Err(Refusal::HttpVersion);
    }
    if !is_token(head.method) {
        return Err(Refusal::BadMethod);
    }
    if head.method.len() > limits.method_bytes {
        return Err(Refusal::MethodLength);
    }
    if head.target.len() > limits.target_bytes {
        return Err(Refusal::TargetLength);
    }
    let found = check_fields(head.fields, head.version, limits)?;
    if found.expects_other && head.version != Version::Http10 {
        return Err(Refusal::Expectation);
    }
    let (target, named) = target::parse(head)?;
    let field = found.host.map(Host::parse).transpose()?;
    if let (Some(field), Some(named)) = (field, named)
        && !agree(head, field, named)
    {
        return Err(Refusal::HostConflict);
    }
    let host = named.or(field);
    let field_needed = head.version == Version::Http11 && field.is_none();
    if field_needed || (head.version == Version::Http2 && host.is_none()) {
        return Err(Refusal::HostMissing);
    }
    let framing = found.lengths.of_request(head.version, head.is_connect())?;
    if let Framing::Length(n) | Framing::Frames(Some(n)) = framing
        && n > limits.body_bytes
    {
        return Err(Refusal::BodyLength);
    }
    Ok(Accepted {
        framing,
        host,
        target,
    })
}

/// Whether the Host field says what the target says.
fn agree<F: ?Sized>(head: &Request<'_, F>, field: Host<'_>, named: Host<'_>) -> bool {
    // RFC 9112, 3.2.3, itself shows a CONNECT whose Host has no port.
    let port = if head.is_connect() {
        field.port.or(named.port)
    } else {
        field.port
    };
    Host { port, ..field } == named
}

/// Judges the head of a response to `method`; what is refused becomes 502.
pub fn check_response<F: Fields + ?Sized>(
    head: &Response<'_, F>,
    method: &[u8],
    limits: &Limits,
) -> Result<Framing, Refusal> {
    if head.version == Version::Other {
        return Err(Refusal::HttpVersion);
    }
    let found = check_fields(head.fields, head.version, limits)?;
    found.lengths.of_response(head.version, head.status, method)
}

#[derive(Default)]
struct Found<'a> {
    host: Option<&'a [u8]>,
    lengths: Lengths,
    /// Expect holds something other than `100-continue`.
    expects_other: bool,
}

fn check_fields<'a, F: Fields + ?Sized>(
    fields: &'a F,
    version: Version,
    limits: &Limits,
) -> Result<Found<'a>, Refusal> {
    let mut found = Found::default();
    let (mut bytes, mut count) = (0, 0);
    for (name, value) in fields.iter() {
        count += 1;
        bytes += name.len() + value.len() + 32;
        if bytes > limits.header_bytes {
            return Err(Refusal::HeaderBytes);
        }
        if count > limits.header_count {
            return Err(Refusal::HeaderCount);
        }
        if !is_token(name) {
            return Err(Refusal::HeaderName);
        }
        if !is_value(value) {
            return Err(Refusal::HeaderValue);
        }
        found.field(name, trim(value), version)?;
    }
    Ok(found)
}

impl<'a> Found<'a> {
    fn field(&mut self, name: &[u8], value: &'a [u8], version: Version) -> Result<(), Refusal> {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        // By length first: most fields are none of these.
        match name.len() {
            4 if is("host") => {
                if self.host.replace(value).is_some() {
                    return Err(Refusal::HostTwice);
                }
            }
            6 if is("expect") => self.expects_other |= !value.eq_ignore_ascii_case(b"100-continue"),
            14 if is("content-length") => self.lengths.content_length(value)?,
            17 if version == Version::Http2 && is("transfer-encoding") => {
                return Err(Refusal::HeaderOfConnection);
            }
            17 if is("transfer-encoding") => self.lengths.transfer_encoding(value),
            // CGI and its heirs read `_` and `-` as one, and so would be told another length.
            14 if is("content_length") => return Err(Refusal::HeaderLookalike),
            17 if looks_like(name, b"transfer-encoding") => return Err(Refusal::HeaderLookalike),
            _ if version == Version::Http2 => of_connection(name, value)?,
            _ => {}
        }
        Ok(())
    }
}

fn looks_like(name: &[u8], known: &[u8]) -> bool {
    let dashed = name.iter().map(|b| if *b == b'_' { b'-' } else { *b });
    dashed
        .map(|b| b.to_ascii_lowercase())
        .eq(known.iter().copied())
}

/// RFC 9113, 8.2.2.
fn of_connection(name: &[u8], value: &[u8]) -> Result<(), Refusal> {
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    let forbidden = is("connection")
        || is("proxy-connection")
        || is("keep-alive")
        || is("upgrade")
        || (is("te") && !value.eq_ignore_ascii_case(b"trailers"));
    if forbidden {
        return Err(Refusal::HeaderOfConnection);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
