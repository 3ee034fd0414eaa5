//! One form for each path, found once, before routing, and forwarded as routing saw it.
//!
//! RFC 3986, 6.2.2: escapes of unreserved characters are decoded, the digits of others are upper case,
//! dot segments are gone. Beyond it, empty segments are merged (`//a` is `/a`), since many servers do
//! so and a rule for `/a` must hold for them. What two servers could read in two ways is refused.
//! A query is not part of it: it is passed on as it is.

use std::borrow::Cow;

use crate::Refusal;

/// The normal form; borrowed if `path` has it already. `path` begins with `/` and ends before `?`.
///
/// The result is ASCII, has no dot segment and no empty one but the last, and is its own normal form.
pub fn normalize(path: &[u8]) -> Result<Cow<'_, str>, Refusal> {
    if path.first() != Some(&b'/') {
        return Err(Refusal::BadTarget);
    }
    let changes = scan(path)?;
    let path = str::from_utf8(path).map_err(|_| Refusal::PathNonAscii)?;
    if !changes {
        return Ok(Cow::Borrowed(path));
    }
    let out = rewrite(path)?;
    // Decoding may have put together what is refused, as `%25%32%66` becomes `%252f`.
    scan(out.as_bytes())?;
    Ok(Cow::Owned(out))
}

/// Refuses what a query, too, may not hold: it would end the request line, or is not sent at all.
pub fn check_query(query: &[u8]) -> Result<(), Refusal> {
    query.iter().try_for_each(|b| check_byte(*b))
}

fn check_byte(b: u8) -> Result<(), Refusal> {
    match b {
        0..=b' ' | 0x7f => Err(Refusal::PathControl),
        b'#' => Err(Refusal::PathFragment),
        0x80.. => Err(Refusal::PathNonAscii),
        _ => Ok(()),
    }
}

/// Whether the normal form differs, unless the path is refused.
fn scan(path: &[u8]) -> Result<bool, Refusal> {
    let mut changes = false;
    let mut i = 0;
    while i < path.len() {
        match path[i] {
            b'\\' => return Err(Refusal::PathBackslash),
            b'?' => return Err(Refusal::BadTarget),
            b'%' => {
                let value = escape(&path[i..]).ok_or(Refusal::PathEscape)?;
                check_escape(value, &path[i + 3..])?;
                let digits = &path[i + 1..i + 3];
                changes |= is_unreserved(value) || digits.iter().any(u8::is_ascii_lowercase);
                i += 2;
            }
            b'/' => changes |= segment_changes(&path[i + 1..])?,
            b => check_byte(b)?,
        }
        i += 1;
    }
    Ok(changes)
}

/// Whether the segment at the start of `rest` is a dot segment, or empty and not the last one.
fn segment_changes(rest: &[u8]) -> Result<bool, Refusal> {
    let dots = rest.iter().take(3).take_while(|b| **b == b'.').count();
    match (dots, rest.get(dots)) {
        (0, next) => Ok(next == Some(&b'/')),
        (1 | 2, Some(b';')) => Err(Refusal::PathDotParameter),
        (1 | 2, None | Some(b'/')) => Ok(true),
        _ => Ok(false),
    }
}

fn check_escape(value: u8, rest: &[u8]) -> Result<(), Refusal> {
    let next = escape(rest);
    match value {
        b'/' => Err(Refusal::PathEncodedSlash),
        b'\\' => Err(Refusal::PathBackslash),
        // A space is fine here: unlike a plain one it ends no request line.
        0..=0x1f | 0x7f => Err(Refusal::PathControl),
        b'%' => match hex(rest) {
            Some(b'/' | b'\\' | b'.' | b'%' | 0..=0x1f | 0x7f) => Err(Refusal::PathDoubleEscape),
            _ => Ok(()),
        },
        0xc0 | 0xc1 if next.is_some_and(|b| (0x80..0xc0).contains(&b)) => {
            Err(Refusal::PathOverlong)
        }
        0xe0 if next.is_some_and(|b| (0x80..0xa0).contains(&b)) => Err(Refusal::PathOverlong),
        0xf0 if next.is_some_and(|b| (0x80..0x90).contains(&b)) => Err(Refusal::PathOverlong),
        _ => Ok(()),
    }
}

/// The value of an escape at the start.
pub(crate) fn escape(text: &[u8]) -> Option<u8> {
    hex(text.strip_prefix(b"%")?)
}

fn hex(text: &[u8]) -> Option<u8> {
    let digit = |b: &u8| char::from(*b).to_digit(16);
    Some((digit(text.first()?)? * 16 + digit(text.get(1)?)?) as u8)
}

fn is_unreserved(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-._~".contains(&b)
}

/// Of a path that [`scan`] has passed.
fn rewrite(path: &str) -> Result<String, Refusal> {
    let mut out = String::with_capacity(path.len());
    let mut segments = path[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        let start = out.len();
        out.push('/');
        unescape(segment, &mut out);
        // A last segment that goes away leaves its slash: `/a/.` is `/a/`.
        let slash = usize::from(segments.peek().is_none());
        match &out[start + 1..] {
            "" | "." => out.truncate(start + slash),
            ".." => {
                let parent = out[..start].rfind('/').ok_or(Refusal::PathAboveRoot)?;
                out.truncate(parent + slash);
            }
            _ => {}
        }
    }
    Ok(out)
}

fn unescape(segment: &str, out: &mut String) {
    let mut rest = segment;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let value = escape(&rest.as_bytes()[at..]).unwrap_or(b'%');
        if is_unreserved(value) {
            out.push(char::from(value));
        } else {
            out.extend(rest[at..at + 3].chars().map(|c| c.to_ascii_uppercase()));
        }
        rest = &rest[at + 3..];
    }
    out.push_str(rest);
}

#[cfg(test)]
mod tests;
