//! The annotations that are read.

use std::{fmt, num::NonZeroU32, time::Duration};

use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, MapAccess, Visitor},
};
use underpass_abi::shortcut::Mode;

use super::{
    OBSERVE_ANNOTATION, RATE_LIMIT_ANNOTATION, SHORTCUT_ANNOTATION, WEIGHT_ANNOTATION, WEIGHT_MAX,
    field::Text,
};
use crate::snapshot::Rate;

/// The annotations that are read; the rest is skipped without a copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Annotations {
    pub weight: Option<u16>,
    pub shortcut: Option<Mode>,
    /// Through the worker, or not.
    pub observe: Option<bool>,
    pub rate_limit: Option<RateLimit>,
}

/// As small as every object's metadata wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    requests: NonZeroU32,
    burst: NonZeroU32,
    /// 1, 60 or 3600.
    seconds: u16,
}

impl RateLimit {
    /// `100/s`, `/m` or `/h`; as many may come at once as it names, or `;burst=` says how many.
    fn parse(text: &str) -> Option<Self> {
        let (rate, burst) = match text.split_once(';') {
            Some((rate, rest)) => (rate, Some(rest.trim_start().strip_prefix("burst=")?)),
            None => (text, None),
        };
        let (requests, unit) = rate.split_once('/')?;
        let number = |text: &str| {
            let digits = text.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| text.parse().ok()).flatten()
        };
        let requests = number(requests)?;
        Some(Self {
            requests,
            burst: burst.map_or(Some(requests), number)?,
            seconds: match unit {
                "s" => 1,
                "m" => 60,
                "h" => 3600,
                _ => return None,
            },
        })
    }

    pub fn rate(self) -> Rate {
        Rate {
            requests: self.requests.get(),
            per: Duration::from_secs(self.seconds.into()),
            burst: self.burst.get(),
        }
    }
}

impl Annotations {
    /// Takes one, if it is read; `Err` is what it should be.
    fn take(&mut self, key: &str, text: &str) -> Result<(), String> {
        let expected = match key {
            WEIGHT_ANNOTATION => {
                self.weight = text.parse().ok();
                self.weight
                    .is_none()
                    .then(|| format!("no number from 0 to {WEIGHT_MAX}"))
            }
            SHORTCUT_ANNOTATION => {
                self.shortcut = Mode::parse(text);
                let none = self.shortcut.is_none();
                none.then(|| "none of off, auto, on".into())
            }
            OBSERVE_ANNOTATION => {
                self.observe = match text {
                    "http" => Some(true),
                    "off" => Some(false),
                    _ => None,
                };
                let none = self.observe.is_none();
                none.then(|| "none of http, off".into())
            }
            _ => {
                self.rate_limit = RateLimit::parse(text);
                let none = self.rate_limit.is_none();
                none.then(|| "no rate as 100/s, 100/m or 100/s;burst=20".into())
            }
        };
        match expected {
            Some(expected) => Err(format!("{key}: `{text}` is {expected}")),
            None => Ok(()),
        }
    }
}

impl<'de> Deserialize<'de> for Annotations {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Map;
        impl<'de> Visitor<'de> for Map {
            type Value = Annotations;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of strings")
            }
            fn visit_unit<E: Error>(self) -> Result<Annotations, E> {
                Ok(Annotations::default())
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Annotations, A::Error> {
                const READ: [&str; 4] = [
                    WEIGHT_ANNOTATION,
                    SHORTCUT_ANNOTATION,
                    OBSERVE_ANNOTATION,
                    RATE_LIMIT_ANNOTATION,
                ];
                let mut found = Annotations::default();
                while let Some(Text(key)) = map.next_key()? {
                    if READ.contains(&&*key) {
                        let Text(text) = map.next_value()?;
                        found.take(&key, &text).map_err(A::Error::custom)?;
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(found)
            }
        }
        d.deserialize_any(Map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_a_unit_and_perhaps_a_burst() {
        let rate = |text| {
            let rate = RateLimit::parse(text)?.rate();
            Some((rate.requests, rate.per.as_secs(), rate.burst))
        };
        for (text, expected) in [
            ("100/s", (100, 1, 100)),
            ("30/m", (30, 60, 30)),
            ("5/h; burst=1", (5, 3600, 1)),
            ("4294967295/s;burst=7", (u32::MAX, 1, 7)),
        ] {
            assert_eq!(rate(text), Some(expected), "{text}");
        }
        for text in [
            "",
            "100",
            "/s",
            "0/s",
            "+1/s",
            "-1/s",
            "1.5/s",
            "100/d",
            "100/s;",
            "1/s;burst=0",
            "1/s;burst=",
            "1/s;max=2",
            "4294967296/s",
            "100 /s",
            "100/s ",
            "1/s;burst=2;burst=3",
        ] {
            assert_eq!(rate(text), None, "{text}");
        }
    }
}
