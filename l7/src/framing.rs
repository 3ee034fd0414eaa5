//! Where a message's body ends (RFC 9112, 6.3), found while its fields are looked at one by one. What
//! leaves a doubt is refused, not repaired: two parsers with two opinions are how requests are smuggled.

use crate::{Refusal, head::Version};

/// How the codec finds the end of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    Empty,
    /// So many bytes.
    Length(u64),
    /// HTTP/1's chunked coding.
    Chunked,
    /// HTTP/2's END_STREAM, after so many bytes if a length was given.
    Frames(Option<u64>),
    /// A response of HTTP/1 that ends with its connection.
    UntilClose,
    /// No message follows but bytes both ways: after CONNECT and 101.
    Tunnel,
}

/// What the fields say about the body.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lengths {
    length: Option<u64>,
    coding: Coding,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Coding {
    #[default]
    None,
    /// Codings, the last of them not `chunked`.
    Other,
    Chunked,
    /// Other codings and then `chunked`.
    OtherChunked,
    /// `chunked` and something after it, which no reading makes right.
    Broken,
}

impl Lengths {
    /// A Content-Length field. A second one is refused even if it says the same: then one would have to
    /// go before the message is forwarded.
    pub fn content_length(&mut self, value: &[u8]) -> Result<(), Refusal> {
        if self.length.is_some() || value.contains(&b',') {
            return Err(Refusal::LengthTwice);
        }
        // `parse` alone would take a sign.
        if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
            return Err(Refusal::BadLength);
        }
        let digits = str::from_utf8(value).map_err(|_| Refusal::BadLength)?;
        self.length = Some(digits.parse().map_err(|_| Refusal::BadLength)?);
        Ok(())
    }

    /// A Transfer-Encoding field; several are read as one list.
    pub fn transfer_encoding(&mut self, value: &[u8]) {
        for coding in value.split(|b| *b == b',').map(trim) {
            let chunked = coding.eq_ignore_ascii_case(b"chunked");
            // Neither an empty element nor a parameter is needed by anybody but an attacker.
            self.coding = match (self.coding, chunked) {
                _ if !is_token(coding) => Coding::Broken,
                (Coding::None, true) => Coding::Chunked,
                (Coding::Other, true) => Coding::OtherChunked,
                (Coding::None | Coding::Other, false) => Coding::Other,
                (Coding::Chunked | Coding::OtherChunked | Coding::Broken, _) => Coding::Broken,
            };
        }
    }

    pub fn of_request(&self, version: Version, connect: bool) -> Result<Framing, Refusal> {
        let framing = match (version, self.chunked(version)?) {
            (Version::Http2, _) => Framing::Frames(self.length),
            (_, true) => Framing::Chunked,
            (_, false) => self.length.map_or(Framing::Empty, Framing::Length),
        };
        match (connect, framing) {
            (false, Framing::Length(0)) => Ok(Framing::Empty),
            (false, framing) => Ok(framing),
            (true, Framing::Empty | Framing::Length(0) | Framing::Frames(None | Some(0))) => {
                Ok(Framing::Tunnel)
            }
            (true, _) => Err(Refusal::ConnectBody),
        }
    }

    /// `method` is the request's.
    pub fn of_response(
        &self,
        version: Version,
        status: u16,
        method: &[u8],
    ) -> Result<Framing, Refusal> {
        let chunked = self.chunked(version)?;
        Ok(match status {
            101 => Framing::Tunnel,
            100..200 | 204 | 304 => Framing::Empty,
            _ if method == b"HEAD" => Framing::Empty,
            200..300 if method == b"CONNECT" => Framing::Tunnel,
            _ if version == Version::Http2 => Framing::Frames(self.length),
            _ if chunked => Framing::Chunked,
            _ => self.length.map_or(Framing::UntilClose, |n| match n {
                0 => Framing::Empty,
                n => Framing::Length(n),
            }),
        })
    }

    /// Whether the body is chunked and the fields agree.
    fn chunked(&self, version: Version) -> Result<bool, Refusal> {
        match (self.coding, self.length) {
            (Coding::None, _) => Ok(false),
            (_, Some(_)) => Err(Refusal::LengthAndCoding),
            _ if version != Version::Http11 => Err(Refusal::CodingBefore11),
            (Coding::Chunked, None) => Ok(true),
            (Coding::OtherChunked, None) => Err(Refusal::TransferCoding),
            (Coding::Other | Coding::Broken, None) => Err(Refusal::ChunkedNotLast),
        }
    }
}

/// Without spaces and tabs at its ends.
pub(crate) fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// A name or a method: one character of RFC 9110, 5.6.2, or more.
pub(crate) fn is_token(text: &[u8]) -> bool {
    // A table, and no early end: names are short and nearly always good.
    !text.is_empty()
        && text
            .iter()
            .fold(true, |good, b| good & TOKEN[usize::from(*b)])
}

const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut b = 0u8;
    while b < 128 {
        table[b as usize] = b.is_ascii_alphanumeric();
        b += 1;
    }
    let others = b"!#$%&'*+-.^_`|~";
    let mut i = 0;
    while i < others.len() {
        table[others[i] as usize] = true;
        i += 1;
    }
    table
};

/// A field's value: no control character but the tab (RFC 9110, 5.5). Bytes beyond ASCII may stand in it.
pub(crate) fn is_value(text: &[u8]) -> bool {
    let bad = |b: u8| ((b < b' ') & (b != b'\t')) | (b == 0x7f);
    // Without an early end this is done many bytes at a time.
    !text.iter().fold(false, |any, b| any | bad(*b))
}
