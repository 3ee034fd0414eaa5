//! The chunked coding (RFC 9112, 7.1), read as strictly as it can be: sizes are digits and nothing else,
//! lines end with CRLF, extensions have the grammar's form.

use underpass_l7::Refusal;

use super::{
    CHUNK_EXCESS_BYTES, CHUNK_LINE_BYTES, TRAILER_BYTES, TRAILER_FIELDS,
    field::Known,
    scan::{BareLf, Scanner, find_lf},
};

/// Where in a chunked body the next byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunked {
    at: At,
    /// Bytes of data that may still come.
    left: u64,
    /// Bytes of chunk lines beyond what their data excuses.
    excess: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Line,
    /// So many more bytes of data.
    Data(u64),
    /// The CRLF after the data; whether its CR is gone.
    DataEnd(bool),
    Trailers(Scanner),
    Done,
}

/// Bytes of one kind at the front of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// 0: more bytes are needed, or the body is done.
    pub len: usize,
    /// They are the body's, not the coding's.
    pub data: bool,
}

/// Largest chunk: others read its size as a signed number.
const CHUNK_MAX: u64 = i64::MAX as u64;

impl Chunked {
    /// `limit`: of bytes of data.
    pub fn new(limit: u64) -> Self {
        Self {
            at: At::Line,
            left: limit,
            excess: 0,
        }
    }

    pub fn is_done(&self) -> bool {
        self.at == At::Done
    }

    pub fn run(&mut self, input: &[u8]) -> Result<Run, Refusal> {
        let coding = |len| Run { len, data: false };
        match &mut self.at {
            At::Done => Ok(coding(0)),
            At::Data(size) => {
                let len = input
                    .len()
                    .min(usize::try_from(*size).unwrap_or(usize::MAX));
                *size -= len as u64;
                if *size == 0 {
                    self.at = At::DataEnd(false);
                }
                Ok(Run { len, data: true })
            }
            At::DataEnd(after_cr) => {
                let expected = if *after_cr { b'\n' } else { b'\r' };
                match input.first() {
                    None => Ok(coding(0)),
                    Some(b) if *b != expected => Err(Refusal::BadChunk),
                    Some(b'\r') => {
                        *after_cr = true;
                        Ok(coding(1))
                    }
                    Some(_) => {
                        self.at = At::Line;
                        Ok(coding(1))
                    }
                }
            }
            At::Line => self.line(input).map(coding),
            At::Trailers(scanner) => {
                let bounded = &input[..input.len().min(TRAILER_BYTES)];
                match scanner.find(bounded) {
                    Err(BareLf) => Err(Refusal::Trailers),
                    Ok(None) if input.len() >= TRAILER_BYTES => Err(Refusal::Trailers),
                    Ok(None) => Ok(coding(0)),
                    Ok(Some(end)) => {
                        check_trailers(&input[..end])?;
                        self.at = At::Done;
                        Ok(coding(end))
                    }
                }
            }
        }
    }

    /// A chunk's first line, once all of it is here.
    fn line(&mut self, input: &[u8]) -> Result<usize, Refusal> {
        match input.first() {
            None => return Ok(0),
            // What begins wrong need not be waited for.
            Some(b) if !b.is_ascii_hexdigit() => return Err(Refusal::BadChunk),
            Some(_) => {}
        }
        let bounded = &input[..input.len().min(CHUNK_LINE_BYTES)];
        let Some(lf) = find_lf(bounded) else {
            return if bounded.len() == CHUNK_LINE_BYTES {
                Err(Refusal::ChunkExtensions)
            } else {
                Ok(0)
            };
        };
        let line = bounded[..lf].strip_suffix(b"\r").ok_or(Refusal::BadChunk)?;
        let size = size_of(line).ok_or(Refusal::BadChunk)?;
        self.left = self.left.checked_sub(size).ok_or(Refusal::BodyLength)?;
        let excused = size.saturating_mul(2).saturating_add(16);
        self.excess = (self.excess + lf as u64 + 1).saturating_sub(excused);
        if self.excess > CHUNK_EXCESS_BYTES {
            return Err(Refusal::ChunkExtensions);
        }
        self.at = match size {
            0 => At::Trailers(Scanner::default()),
            size => At::Data(size),
        };
        Ok(lf + 1)
    }
}

/// `1*HEXDIG [ chunk-ext ]`.
fn size_of(line: &[u8]) -> Option<u64> {
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let (digits, extensions) = line.split_at(digits);
    if digits.is_empty() || digits.len() > 16 || !are_extensions(extensions) {
        return None;
    }
    let size = u64::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
    (size <= CHUNK_MAX).then_some(size)
}

/// `*( ";" name [ "=" ( token / quoted-string ) ] )`, without the white space that a sender must not make.
fn are_extensions(mut rest: &[u8]) -> bool {
    while let [b';', after @ ..] = rest {
        let Some(after) = token(after) else {
            return false;
        };
        rest = match after {
            [b'=', b'"', text @ ..] => match quoted(text) {
                Some(after) => after,
                None => return false,
            },
            [b'=', value @ ..] => match token(value) {
                Some(after) => after,
                None => return false,
            },
            after => after,
        };
    }
    rest.is_empty()
}

/// What follows a token.
fn token(text: &[u8]) -> Option<&[u8]> {
    let is = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    let len = text.iter().take_while(|b| is(b)).count();
    (len > 0).then(|| &text[len..])
}

/// What follows a quoted string whose first quote is gone.
fn quoted(mut text: &[u8]) -> Option<&[u8]> {
    loop {
        text = match text {
            [b'"', after @ ..] => return Some(after),
            [b'\\', b'\t' | b' '..=b'~', after @ ..] => after,
            [b'\\', ..] => return None,
            [b'\t' | b' '..=b'~', after @ ..] => after,
            _ => return None,
        };
    }
}

/// Fields after the body, as some servers merge them with the head's.
fn check_trailers(section: &[u8]) -> Result<(), Refusal> {
    let mut storage = [httparse::EMPTY_HEADER; TRAILER_FIELDS];
    let fields = match httparse::parse_headers(section, &mut storage) {
        Ok(httparse::Status::Complete((len, fields))) if len == section.len() => fields,
        _ => return Err(Refusal::Trailers),
    };
    let forbidden = |name: &str| {
        // CGI and its heirs read `_` and `-` as one.
        let dashed = name.replace('_', "-");
        Known::of(dashed.as_bytes()) != Known::Other
    };
    if fields.iter().any(|f| forbidden(f.name)) {
        return Err(Refusal::Trailers);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
