//! Checked values of a route.

use std::{fmt, marker::PhantomData, net::Ipv4Addr, time::Duration};

use serde::{
    Deserialize, Deserializer,
    de::{Error, SeqAccess, Visitor},
};

use super::{
    super::{
        field::{NOT_IMPLEMENTED, is_subdomain, parsed, sequence},
        value,
    },
    Hostname, PathMatch, PathType, RawPath, RawPathMatch,
};
use crate::Str;

/// Most hostnames of a route (the API's own bound).
const HOSTNAMES_MAX: usize = 16;
/// Longest path of a match, in bytes (the API's own bound).
const PATH_MAX: usize = 1024;

/// A list of at most `MAX` entries; `null` is empty.
pub(super) fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>, const MAX: usize>(
    d: D,
) -> Result<Vec<T>, D::Error> {
    struct Seq<T, const MAX: usize>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Seq<T, MAX> {
        type Value = Vec<T>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {MAX} entries")
        }
        fn visit_unit<E: Error>(self) -> Result<Vec<T>, E> {
            Ok(Vec::new())
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
            let mut found = Vec::new();
            while let Some(entry) = seq.next_element()? {
                if found.len() == MAX {
                    return Err(A::Error::custom(format!("more than {MAX} entries")));
                }
                found.push(entry);
            }
            Ok(found)
        }
    }
    d.deserialize_any(Seq::<T, MAX>(PhantomData))
}

/// Parses a string where it stands, so that an error has its path; absent as `null`.
fn optional<'de, D: Deserializer<'de>, T>(
    d: D,
    parse: fn(&str) -> Result<T, String>,
) -> Result<Option<T>, D::Error> {
    struct Text<T>(fn(&str) -> Result<T, String>);
    impl<T> Visitor<'_> for Text<T> {
        type Value = Option<T>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }
        fn visit_unit<E: Error>(self) -> Result<Option<T>, E> {
            Ok(None)
        }
        fn visit_str<E: Error>(self, text: &str) -> Result<Option<T>, E> {
            (self.0)(text).map(Some).map_err(E::custom)
        }
    }
    d.deserialize_any(Text(parse))
}

pub(super) fn hostnames<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Hostname>, D::Error> {
    let found = sequence(d, |text| {
        let stem = text.strip_prefix("*.").unwrap_or(text);
        is_subdomain(stem)?;
        if text.parse::<Ipv4Addr>().is_ok() {
            return Err(format!("`{text}` is an address; a route's hosts are names"));
        }
        Ok(match text.strip_prefix('*') {
            Some(suffix) => Hostname::Suffix(suffix.into()),
            None => Hostname::Exact(text.into()),
        })
    })?;
    if found.len() > HOSTNAMES_MAX {
        return Err(D::Error::custom(format!(
            "more than {HOSTNAMES_MAX} entries"
        )));
    }
    Ok(found)
}

pub(super) fn core_group<'de, D: Deserializer<'de>>(d: D) -> Result<(), D::Error> {
    parsed(d, |group| match group {
        "" | "core" => Ok(()),
        other => Err(format!("{NOT_IMPLEMENTED}group {other}; only Services are")),
    })
}

pub(super) fn service_kind<'de, D: Deserializer<'de>>(d: D) -> Result<(), D::Error> {
    parsed(d, |kind| match kind {
        "Service" => Ok(()),
        other => Err(format!("{NOT_IMPLEMENTED}kind {other}; only Service is")),
    })
}

/// As the API server writes it, always in UTC and to the second.
pub(super) fn timestamp<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Str>, D::Error> {
    optional(d, |text| {
        let shape = text
            .bytes()
            .map(|b| if b.is_ascii_digit() { b'0' } else { b });
        if shape.eq(*b"0000-00-00T00:00:00Z") {
            return Ok(text.into());
        }
        Err(format!("`{text}` is no time as 2026-11-21T19:50:00Z"))
    })
}

/// A duration of GEP-2257: one to four numbers of at most five digits with h, m, s or ms. Zero is none.
pub(super) fn timeout<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
    let time = optional(d, |text| {
        duration(text).ok_or_else(|| format!("`{text}` is no duration as 10s or 1h30m"))
    })?;
    Ok(time.filter(|time| *time > Duration::ZERO))
}

fn duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    // Four parts and the end.
    for part in 0..5 {
        if rest.is_empty() {
            return (part > 0).then_some(total);
        }
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if !(1..=5).contains(&digits) {
            return None;
        }
        let number: u32 = rest[..digits].parse().ok()?;
        let units = [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1000)];
        let (after, ms) = units
            .iter()
            .find_map(|(unit, ms)| Some((rest[digits..].strip_prefix(unit)?, *ms)))?;
        total += Duration::from_millis(ms) * number;
        rest = after;
    }
    None
}

pub(super) fn method<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Str>, D::Error> {
    const METHODS: [&str; 9] = [
        "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
    ];
    optional(d, |text| {
        if METHODS.contains(&text) {
            return Ok(text.into());
        }
        let known = METHODS.join(", ");
        Err(format!("`{text}` is none of {known}"))
    })
}

pub(super) fn path_type<'de, D: Deserializer<'de>>(d: D) -> Result<PathType, D::Error> {
    parsed(d, |kind| match kind {
        "Exact" => Ok(PathType::Exact),
        "PathPrefix" => Ok(PathType::Prefix),
        "RegularExpression" => Err(format!("{NOT_IMPLEMENTED}regular expressions")),
        other => Err(format!("`{other}` is none of Exact, PathPrefix")),
    })
}

pub(super) fn exact<'de, D: Deserializer<'de>>(d: D) -> Result<(), D::Error> {
    parsed(d, |kind| match kind {
        "Exact" => Ok(()),
        "RegularExpression" => Err(format!("{NOT_IMPLEMENTED}regular expressions")),
        other => Err(format!("`{other}` is not Exact")),
    })
}

pub(super) fn header_name<'de, D: Deserializer<'de>>(d: D) -> Result<Str, D::Error> {
    parsed(d, |name| {
        let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if name.is_empty() || name.len() > 256 || !name.bytes().all(is_token) {
            return Err(format!("`{name}` is no name of a header field"));
        }
        Ok(name.to_ascii_lowercase().into())
    })
}

pub(super) fn weight<'de, D: Deserializer<'de>>(d: D) -> Result<u32, D::Error> {
    value::number(d, "a weight from 0 to 1000000", 0..=1_000_000).map(|n| n as u32)
}

pub(super) fn one() -> u32 {
    1
}

/// What a parent is, if it does not say.
pub(super) fn gateway() -> Str {
    "Gateway".into()
}

pub(super) fn root() -> Str {
    "/".into()
}

impl TryFrom<RawPath> for RawPathMatch {
    type Error = String;

    /// With the conditions of the API's own schema.
    fn try_from(RawPath { kind, value }: RawPath) -> Result<Self, String> {
        let bad = |why| Err(format!("path.value: `{value}` {why}"));
        if !value.starts_with('/') || value.len() > PATH_MAX {
            return bad("is no absolute path of at most 1024 bytes");
        }
        let mut segments = value[1..].split('/').rev();
        if segments.any(|s| s == "." || s == "..") {
            return bad("has a dot segment");
        }
        if value.contains("//") {
            return bad("has an empty segment");
        }
        let known = |b: u8| b.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@%".contains(&b);
        let mut escapes = value.split('%').skip(1);
        let is_escape = |rest: &str| {
            let digits = rest.as_bytes().get(..2);
            digits.is_some_and(|d| {
                d.iter().all(u8::is_ascii_hexdigit) && *d != *b"2f" && *d != *b"2F"
            })
        };
        if !value.bytes().all(known) || !escapes.all(is_escape) {
            return bad("holds what no path of a route may hold");
        }
        Ok(Self(match kind {
            PathType::Exact => PathMatch::Exact(value),
            PathType::Prefix => PathMatch::Prefix(value),
        }))
    }
}
