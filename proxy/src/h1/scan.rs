//! Where a head or a trailer section ends: at the first empty line. Each byte is looked at once, however
//! slowly they come.

use underpass_l7::{Refusal, limit::Limits};

use super::{first_line_max, head_bytes_max};

/// Goes through the lines of a section that grows at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scanner {
    /// Bytes that have been looked at.
    at: usize,
    /// Where the line begins in which `at` is.
    line: usize,
}

/// A line that ends with LF alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BareLf;

impl Scanner {
    /// Bytes until after the empty line, once it is there. `input` begins where it began before.
    pub fn find(&mut self, input: &[u8]) -> Result<Option<usize>, BareLf> {
        while let Some(found) = input.get(self.at..).and_then(find_lf) {
            let lf = self.at + found;
            if lf == 0 || input[lf - 1] != b'\r' {
                return Err(BareLf);
            }
            let empty = lf - 1 == self.line;
            (self.at, self.line) = (lf + 1, lf + 1);
            if empty {
                return Ok(Some(lf + 1));
            }
        }
        self.at = input.len();
        Ok(None)
    }
}

pub(super) fn find_lf(bytes: &[u8]) -> Option<usize> {
    const BLOCK: usize = 32;
    let (blocks, _) = bytes.as_chunks::<BLOCK>();
    // Without an early end the compiler compares a whole block at once.
    let has = |block: &[u8; BLOCK]| block.iter().fold(false, |any, b| any | (*b == b'\n'));
    let before = blocks.iter().take_while(|block| !has(block)).count() * BLOCK;
    let mut rest = bytes[before..].iter();
    Some(before + rest.position(|b| *b == b'\n')?)
}

/// What the head must begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Request,
    Response,
}

/// Finds one head.
#[derive(Clone, Copy, Debug)]
pub struct HeadReader {
    kind: Kind,
    scanner: Scanner,
    /// Of the empty line before a request (RFC 9112, 2.2).
    blank: usize,
}

/// The connection preface of HTTP/2, as far as it looks like a head.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";

impl HeadReader {
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            scanner: Scanner::default(),
            blank: 0,
        }
    }

    /// The place of the head in `input`, once all of it is there. What comes before it is of nobody.
    pub fn find(
        &mut self,
        input: &[u8],
        limits: &Limits,
    ) -> Result<Option<std::ops::Range<usize>>, Refusal> {
        if self.kind == Kind::Request && self.blank == 0 {
            match input {
                [b'\r', b'\n', ..] => self.blank = 2,
                [b'\r'] => return Ok(None),
                _ => {}
            }
        }
        let head = &input[self.blank..];
        let Some(first) = head.first() else {
            return Ok(None);
        };
        match self.kind {
            // Nothing is gained by waiting for the rest of a TLS greeting.
            Kind::Request if !first.is_ascii_graphic() => return Err(Refusal::BadMethod),
            Kind::Response if *first != b'H' => return Err(Refusal::BadStatusLine),
            _ => {}
        }
        let max = head_bytes_max(limits);
        let bounded = &head[..head.len().min(max)];
        match self.scanner.find(bounded) {
            Err(BareLf) => Err(Refusal::BadLine),
            Ok(Some(end)) if head[..end] == *PREFACE && self.kind == Kind::Request => {
                Err(Refusal::Http2)
            }
            Ok(Some(end)) => Ok(Some(self.blank..self.blank + end)),
            Ok(None) if head.len() >= max => Err(too_long(bounded, self.kind, limits)),
            Ok(None) => Ok(None),
        }
    }
}

fn too_long(head: &[u8], kind: Kind, limits: &Limits) -> Refusal {
    let first = &head[..head.len().min(first_line_max(limits))];
    match kind {
        Kind::Request if find_lf(first).is_none() => Refusal::TargetLength,
        _ => Refusal::HeaderBytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kind: Kind, input: &[u8]) -> Result<Option<std::ops::Range<usize>>, Refusal> {
        let limits = Limits {
            header_bytes: 100,
            target_bytes: 50,
            method_bytes: 10,
            ..Limits::default()
        };
        let whole = HeadReader::new(kind).find(input, &limits);
        let mut reader = HeadReader::new(kind);
        let mut slowly = Ok(None);
        for end in 1..=input.len() {
            slowly = reader.find(&input[..end], &limits);
            if slowly != Ok(None) {
                break;
            }
        }
        assert_eq!(slowly, whole, "{}", input.escape_ascii());
        whole
    }

    #[test]
    fn finds_the_end_however_it_comes() {
        use Kind::{Request, Response};
        let request = |text: &str| read(Request, text.as_bytes());
        assert_eq!(request("GET / HTTP/1.1\r\n\r\n"), Ok(Some(0..18)));
        assert_eq!(
            request("GET / HTTP/1.1\r\nA: b\r\n\r\nbody"),
            Ok(Some(0..24))
        );
        assert_eq!(request("\r\nGET / HTTP/1.1\r\n\r\n"), Ok(Some(2..20)));
        assert_eq!(request("GET / HTTP/1.1\r\nA: b\r\n"), Ok(None));
        assert_eq!(request("\r"), Ok(None));
        for (text, why) in [
            ("\r\n\r\nGET / HTTP/1.1\r\n\r\n", Refusal::BadMethod),
            ("\nGET / HTTP/1.1\r\n\r\n", Refusal::BadMethod),
            ("\x16\x03\x01", Refusal::BadMethod),
            ("GET / HTTP/1.1\n\r\n", Refusal::BadLine),
            ("GET / HTTP/1.1\r\nA: b\n\r\n", Refusal::BadLine),
            ("GET / HTTP/1.1\r\n\n", Refusal::BadLine),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Refusal::Http2),
        ] {
            assert_eq!(request(text), Err(why), "{text:?}");
        }
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(200));
        assert_eq!(request(&long), Err(Refusal::TargetLength));
        let long = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "a".repeat(200));
        assert_eq!(request(&long), Err(Refusal::HeaderBytes));
        // What is wrong behind the bound is never seen.
        let long = format!("GET / HTTP/1.1\r\nA: {}\n\r\n", "a".repeat(200));
        assert_eq!(request(&long), Err(Refusal::HeaderBytes));
        let response = |text: &str| read(Response, text.as_bytes());
        assert_eq!(response("HTTP/1.1 200 OK\r\n\r\nx"), Ok(Some(0..19)));
        assert_eq!(
            response("\r\nHTTP/1.1 200 OK\r\n\r\n"),
            Err(Refusal::BadStatusLine)
        );
    }

    #[test]
    fn finds_a_line_feed_at_every_place() {
        for len in 0..100 {
            let mut bytes = vec![b'a'; len];
            assert_eq!(find_lf(&bytes), None);
            for at in 0..len {
                bytes[at] = b'\n';
                assert_eq!(find_lf(&bytes), Some(at));
                bytes[at] = b'a';
            }
        }
    }
}
