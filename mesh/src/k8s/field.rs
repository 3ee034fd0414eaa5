//! Checked fields: what is wrong is an error of the deserializer, which knows line and path.

use std::{fmt, sync::Arc};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use crate::Str;

/// Starts the message of an error that is not about a wrong value but about one not built.
pub(crate) const NOT_IMPLEMENTED: &str = "NOT_IMPLEMENTED: ";

/// Labels, sorted by key; absent and `null` are the same. Objects of one set share them.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Labels(pub(crate) Arc<[(Str, Str)]>);

impl Labels {
    pub fn get(&self, key: &str) -> Option<&str> {
        let i = self.0.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        Some(&self.0[i].1)
    }

    /// True if every label of `self` is on the object.
    pub fn select(&self, object: &Labels) -> bool {
        self.0.iter().all(|(k, v)| object.get(k) == Some(v))
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (&**k, &**v))
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Map;
        impl<'de> Visitor<'de> for Map {
            type Value = Labels;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of strings")
            }
            fn visit_unit<E: Error>(self) -> Result<Labels, E> {
                Ok(Labels::default())
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Labels, A::Error> {
                let mut pairs: Vec<(Str, Str)> = Vec::new();
                while let Some(Text(key)) = map.next_key()? {
                    let Text(value) = map.next_value()?;
                    pairs.push((key, value));
                }
                pairs.sort();
                Ok(Labels(pairs.into()))
            }
        }
        d.deserialize_any(Map)
    }
}

/// A string, made shared in one step.
pub(crate) struct Text(pub(crate) Str);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        text(d, "a string", |_| Ok(())).map(Text)
    }
}

/// A string that passes `check`.
fn text<'de, D: Deserializer<'de>>(
    d: D,
    expected: &'static str,
    check: fn(&str) -> Result<(), String>,
) -> Result<Str, D::Error> {
    struct Check(&'static str, fn(&str) -> Result<(), String>);
    impl Visitor<'_> for Check {
        type Value = Str;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
        fn visit_str<E: Error>(self, s: &str) -> Result<Str, E> {
            (self.1)(s).map_err(E::custom)?;
            Ok(s.into())
        }
    }
    d.deserialize_str(Check(expected, check))
}

/// The same, absent as `null`.
fn optional_text<'de, D: Deserializer<'de>>(
    d: D,
    check: fn(&str) -> Result<(), String>,
) -> Result<Option<Str>, D::Error> {
    let Some(Text(text)) = Option::deserialize(d)? else {
        return Ok(None);
    };
    check(&text).map_err(D::Error::custom)?;
    Ok(Some(text))
}

pub(super) fn is_label(s: &str) -> Result<(), String> {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = s.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(a), Some(z))
            if bytes.len() <= 63
                && word(*a)
                && word(*z)
                && bytes.iter().all(|b| word(*b) || *b == b'-') =>
        {
            Ok(())
        }
        _ => Err(format!("`{s}` is no DNS label (a-z, 0-9, -, at most 63)")),
    }
}

pub(super) fn is_subdomain(s: &str) -> Result<(), String> {
    if s.len() <= 253 && s.split('.').all(|part| is_label(part).is_ok()) {
        return Ok(());
    }
    Err(format!(
        "`{s}` is no DNS name (a-z, 0-9, -, ., at most 253)"
    ))
}

pub(super) fn is_spiffe(s: &str) -> Result<(), String> {
    let path = s
        .strip_prefix("spiffe://")
        .and_then(|rest| rest.split_once('/'));
    match path {
        Some((domain, path))
            if is_subdomain(domain).is_ok()
                && s.len() <= 2048
                && !path.is_empty()
                && !path.contains(|c: char| c.is_whitespace() || c.is_control()) =>
        {
            Ok(())
        }
        _ => Err(format!(
            "`{s}` is no SPIFFE identity as spiffe://cluster.local/ns/NS/sa/NAME"
        )),
    }
}

fn is_port_name(s: &str) -> Result<(), String> {
    if s.is_empty() { Ok(()) } else { is_label(s) }
}

pub(super) fn subdomain<'de, D: Deserializer<'de>>(d: D) -> Result<Str, D::Error> {
    text(d, "a DNS name", is_subdomain)
}

pub(super) fn label<'de, D: Deserializer<'de>>(d: D) -> Result<Str, D::Error> {
    text(d, "a DNS label", is_label)
}

pub(super) fn port_name<'de, D: Deserializer<'de>>(d: D) -> Result<Str, D::Error> {
    text(d, "a port name", is_port_name)
}

pub(super) fn nullable_port_name<'de, D: Deserializer<'de>>(d: D) -> Result<Str, D::Error> {
    Ok(optional_text(d, is_port_name)?.unwrap_or_else(empty))
}

pub(super) fn optional_subdomain<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Str>, D::Error> {
    optional_text(d, is_subdomain)
}

pub(super) fn optional_label<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Str>, D::Error> {
    optional_text(d, is_label)
}

pub(super) fn default_namespace() -> Str {
    "default".into()
}

pub(super) fn empty() -> Str {
    "".into()
}

/// `null` as the default, which Kubernetes' Go writers produce for empty lists.
pub(super) fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    d: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

pub(super) fn ignored<'de, D: Deserializer<'de>>(d: D) -> Result<(), D::Error> {
    IgnoredAny::deserialize(d).map(|_| ())
}

/// Parses a string where it stands, so that an error has its line and path.
struct Item<T>(fn(&str) -> Result<T, String>);

impl<'de, T> DeserializeSeed<'de> for Item<T> {
    type Value = T;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<T, D::Error> {
        d.deserialize_str(self)
    }
}

impl<T> Visitor<'_> for Item<T> {
    type Value = T;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }
    fn visit_str<E: Error>(self, s: &str) -> Result<T, E> {
        (self.0)(s).map_err(E::custom)
    }
}

pub(super) fn parsed<'de, D: Deserializer<'de>, T>(
    d: D,
    parse: fn(&str) -> Result<T, String>,
) -> Result<T, D::Error> {
    Item(parse).deserialize(d)
}

/// A list of such strings; `null` is empty.
pub(super) fn sequence<'de, D: Deserializer<'de>, T>(
    d: D,
    parse: fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, D::Error> {
    struct Seq<T>(fn(&str) -> Result<T, String>);
    impl<'de, T> Visitor<'de> for Seq<T> {
        type Value = Vec<T>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of strings")
        }
        fn visit_unit<E: Error>(self) -> Result<Vec<T>, E> {
            Ok(Vec::new())
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
            let mut list = Vec::new();
            while let Some(item) = seq.next_element_seed(Item(self.0))? {
                list.push(item);
            }
            Ok(list)
        }
    }
    d.deserialize_any(Seq(parse))
}
