//! Which host a request is for: from the Host field, `:authority` or the target.

use std::net::Ipv6Addr;

use crate::Refusal;

/// A name or address with an optional port. The name is as it was sent, without a root's dot; compare
/// it without regard to case.
#[derive(Clone, Copy, Debug)]
pub struct Host<'a> {
    pub name: &'a str,
    pub port: Option<u16>,
}

/// Longest DNS name (RFC 1035, 2.3.4), its root's dot included.
const NAME_MAX: usize = 254;

impl<'a> Host<'a> {
    /// `uri-host [ ":" port ]` (RFC 9110, 7.2), of which the host is a DNS name, where `_` may stand, or an
    /// address. User names and escapes are refused: servers read them in different ways.
    pub fn parse(text: &'a [u8]) -> Result<Self, Refusal> {
        let bad = Refusal::BadHost;
        let text = str::from_utf8(text).map_err(|_| bad)?;
        if let Some(rest) = text.strip_prefix('[') {
            let (address, port) = rest.split_once(']').ok_or(bad)?;
            address.parse::<Ipv6Addr>().map_err(|_| bad)?;
            let port = match port {
                "" => None,
                port => port_of(port.strip_prefix(':').ok_or(bad)?)?,
            };
            let name = &text[..address.len() + 2];
            return Ok(Self { name, port });
        }
        let (name, port) = match text.split_once(':') {
            Some((name, port)) => (name, port_of(port)?),
            None => (text, None),
        };
        let stem = name.strip_suffix('.').unwrap_or(name);
        if name.len() > NAME_MAX || !is_name(stem) {
            return Err(bad);
        }
        Ok(Self { name: stem, port })
    }
}

/// Labels of letters, digits, `-` and `_`, none of them empty.
fn is_name(name: &str) -> bool {
    let mut label_ended = true;
    for b in name.bytes() {
        match b {
            b'.' if label_ended => return false,
            b'.' => label_ended = true,
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => label_ended = false,
            _ => return false,
        }
    }
    !label_ended
}

/// `80`; an empty one is as none (RFC 3986, 3.2.3).
fn port_of(digits: &str) -> Result<Option<u16>, Refusal> {
    if digits.is_empty() {
        return Ok(None);
    }
    // `parse` alone would take a sign.
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Refusal::BadHost);
    }
    digits.parse().map(Some).map_err(|_| Refusal::BadHost)
}

impl PartialEq for Host<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.port == other.port && self.name.eq_ignore_ascii_case(other.name)
    }
}

impl Eq for Host<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_names_addresses_and_ports() {
        for (text, name, port) in [
            ("ledger", "ledger", None),
            ("Ledger.Shop.svc:8080", "ledger.shop.svc", Some(8080)),
            ("ledger.shop.", "ledger.shop", None),
            ("ledger.:80", "ledger", Some(80)),
            ("a_b:", "a_b", None),
            ("10.0.0.7:1", "10.0.0.7", Some(1)),
            ("[::1]", "[::1]", None),
            ("[fd00::7]:65535", "[fd00::7]", Some(65535)),
        ] {
            assert_eq!(
                Host::parse(text.as_bytes()),
                Ok(Host { name, port }),
                "{text}"
            );
        }
    }

    #[test]
    fn refuses_what_is_no_host() {
        let long = "a.".repeat(128);
        for text in [
            "",
            ".",
            ":80",
            "a..b",
            ".a",
            "a:b",
            "a:65536",
            "a:+80",
            "a:-1",
            "a:80:80",
            "a b",
            "a,b",
            "a/b",
            "user@a",
            "a%2eb",
            "a\0",
            "::1",
            "[::1",
            "::1]",
            "[::1]x",
            "[::1]:x",
            "[v1.a]",
            "a[::1]",
            "caf\u{e9}",
            "a\r",
            &long,
        ] {
            assert_eq!(
                Host::parse(text.as_bytes()),
                Err(Refusal::BadHost),
                "{text:?}"
            );
        }
    }
}
