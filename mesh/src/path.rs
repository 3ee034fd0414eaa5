//! One form for each path of a request, found once, before routing, and forwarded as routing saw it; and
//! for the paths of manifests, which are compared with those.
//!
//! RFC 3986, 6.2.2: escapes of unreserved characters are decoded, the digits of others are upper case,
//! dot segments are gone. Beyond it, empty segments are merged (`//a` is `/a`), since many servers do
//! so and a rule for `/a` must hold for them. What two servers could read in two ways is refused.
//! A query is not part of it: it is passed on as it is.

use std::borrow::Cow;

use underpass_abi::reason::code;

/// Why a path has no normal form. Each is a code of the registry's chapter on requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoNormalForm {
    NotAbsolute,
    Control,
    NonAscii,
    Fragment,
    Backslash,
    EncodedSlash,
    Escape,
    DoubleEscape,
    Overlong,
    AboveRoot,
    DotParameter,
}

impl NoNormalForm {
    /// A number of `abi::reason::code`.
    pub fn code(self) -> u16 {
        match self {
            Self::NotAbsolute => code::BAD_TARGET,
            Self::Control => code::PATH_CONTROL,
            Self::NonAscii => code::PATH_NON_ASCII,
            Self::Fragment => code::PATH_FRAGMENT,
            Self::Backslash => code::PATH_BACKSLASH,
            Self::EncodedSlash => code::PATH_ENCODED_SLASH,
            Self::Escape => code::PATH_ESCAPE,
            Self::DoubleEscape => code::PATH_DOUBLE_ESCAPE,
            Self::Overlong => code::PATH_OVERLONG,
            Self::AboveRoot => code::PATH_ABOVE_ROOT,
            Self::DotParameter => code::PATH_DOT_PARAMETER,
        }
    }
}

/// The normal form; borrowed if `path` has it already. `path` begins with `/` and ends before `?`.
///
/// The result is ASCII, has no dot segment and no empty one but the last, and is its own normal form.
pub fn normalize(path: &[u8]) -> Result<Cow<'_, str>, NoNormalForm> {
    if path.first() != Some(&b'/') {
        return Err(NoNormalForm::NotAbsolute);
    }
    let changes = scan(path)?;
    let path = str::from_utf8(path).map_err(|_| NoNormalForm::NonAscii)?;
    if !changes {
        return Ok(Cow::Borrowed(path));
    }
    let out = rewrite(path)?;
    // Decoding may have put together what is refused, as `%25%32%66` becomes `%252f`.
    scan(out.as_bytes())?;
    Ok(Cow::Owned(out))
}

/// Refuses what a query, too, may not hold: it would end the request line, or is not sent at all.
pub fn check_query(query: &[u8]) -> Result<(), NoNormalForm> {
    query.iter().try_for_each(|b| check_byte(*b))
}

fn check_byte(b: u8) -> Result<(), NoNormalForm> {
    match b {
        0..=b' ' | 0x7f => Err(NoNormalForm::Control),
        b'#' => Err(NoNormalForm::Fragment),
        0x80.. => Err(NoNormalForm::NonAscii),
        _ => Ok(()),
    }
}

/// Whether the normal form differs, unless the path is refused.
fn scan(path: &[u8]) -> Result<bool, NoNormalForm> {
    let mut changes = false;
    let mut i = 0;
    while i < path.len() {
        match path[i] {
            b'\\' => return Err(NoNormalForm::Backslash),
            b'?' => return Err(NoNormalForm::NotAbsolute),
            b'%' => {
                let value = escape(&path[i..]).ok_or(NoNormalForm::Escape)?;
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
fn segment_changes(rest: &[u8]) -> Result<bool, NoNormalForm> {
    let dots = rest.iter().take(3).take_while(|b| **b == b'.').count();
    match (dots, rest.get(dots)) {
        (0, next) => Ok(next == Some(&b'/')),
        (1 | 2, Some(b';')) => Err(NoNormalForm::DotParameter),
        (1 | 2, None | Some(b'/')) => Ok(true),
        _ => Ok(false),
    }
}

fn check_escape(value: u8, rest: &[u8]) -> Result<(), NoNormalForm> {
    let next = escape(rest);
    match value {
        b'/' => Err(NoNormalForm::EncodedSlash),
        b'\\' => Err(NoNormalForm::Backslash),
        // A space is fine here: unlike a plain one it ends no request line.
        0..=0x1f | 0x7f => Err(NoNormalForm::Control),
        b'%' => match hex(rest) {
            Some(b'/' | b'\\' | b'.' | b'%' | 0..=0x1f | 0x7f) => Err(NoNormalForm::DoubleEscape),
            _ => Ok(()),
        },
        0xc0 | 0xc1 if next.is_some_and(|b| (0x80..0xc0).contains(&b)) => {
            Err(NoNormalForm::Overlong)
        }
        0xe0 if next.is_some_and(|b| (0x80..0xa0).contains(&b)) => Err(NoNormalForm::Overlong),
        0xf0 if next.is_some_and(|b| (0x80..0x90).contains(&b)) => Err(NoNormalForm::Overlong),
        _ => Ok(()),
    }
}

/// The value of an escape at the start.
pub fn escape(text: &[u8]) -> Option<u8> {
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
fn rewrite(path: &str) -> Result<String, NoNormalForm> {
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
                let parent = out[..start].rfind('/').ok_or(NoNormalForm::AboveRoot)?;
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
