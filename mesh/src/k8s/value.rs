//! Checked values: numbers, addresses, paths, and what is refused whatever its value.

use std::{fmt, net::IpAddr};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Unexpected, Visitor},
};

use super::{
    NetnsRef, Protocol,
    field::{NOT_IMPLEMENTED, Text, is_label, is_spiffe, parsed, sequence},
};
use crate::Str;

/// A field that Kubernetes or GEP-3779 knows and the mesh does not build: refused whatever it holds.
pub(super) fn unbuilt<'de, D: Deserializer<'de>>(d: D) -> Result<(), D::Error> {
    struct Unbuilt;
    fn refuse<E: Error>() -> Result<(), E> {
        Err(E::custom(format!(
            "{NOT_IMPLEMENTED}this field is not built"
        )))
    }
    impl<'de> Visitor<'de> for Unbuilt {
        type Value = ();
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("nothing")
        }
        fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
            refuse()
        }
        fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
            refuse()
        }
        fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
            refuse()
        }
        fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
            refuse()
        }
        fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
            refuse()
        }
        fn visit_unit<E: Error>(self) -> Result<(), E> {
            refuse()
        }
        fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<(), A::Error> {
            refuse()
        }
        fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<(), A::Error> {
            refuse()
        }
    }
    d.deserialize_any(Unbuilt)
}

pub(super) fn action_allow<'de, D: Deserializer<'de>>(d: D) -> Result<(), D::Error> {
    parsed(d, |action| match action {
        "ALLOW" => Ok(()),
        other => Err(format!("{NOT_IMPLEMENTED}action {other}; only ALLOW is")),
    })
}

pub(super) fn policy_protocol<'de, D: Deserializer<'de>>(d: D) -> Result<Protocol, D::Error> {
    parsed(d, |protocol| match protocol {
        "TCP" => Ok(Protocol::TCP),
        "UDP" => Ok(Protocol::UDP),
        "SCTP" => Err(format!("{NOT_IMPLEMENTED}SCTP")),
        other => Err(format!("`{other}` is none of TCP, UDP")),
    })
}

pub(super) fn slice_api<'de, D: Deserializer<'de>>(d: D) -> Result<(), D::Error> {
    parsed(d, |api| match api {
        "discovery.k8s.io/v1" => Ok(()),
        other => Err(format!(
            "an object with addressType is of discovery.k8s.io/v1, not {other}"
        )),
    })
}

pub(super) fn slice_kind<'de, D: Deserializer<'de>>(d: D) -> Result<(), D::Error> {
    parsed(d, |kind| match kind {
        "EndpointSlice" => Ok(()),
        other => Err(format!(
            "an object with addressType is an EndpointSlice, no {other}"
        )),
    })
}

pub(super) fn cidr<'de, D: Deserializer<'de>>(d: D) -> Result<super::Cidr, D::Error> {
    parsed(d, super::Cidr::parse)
}

pub(super) fn port<'de, D: Deserializer<'de>>(d: D) -> Result<u16, D::Error> {
    number(d, "a port from 1 to 65535", 1..=65_535).map(|n| n as u16)
}

pub(super) fn optional_port<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u16>, D::Error> {
    struct Port(u16);
    impl<'de> Deserialize<'de> for Port {
        fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
            port(d).map(Port)
        }
    }
    Ok(Option::<Port>::deserialize(d)?.map(|p| p.0))
}

pub(super) fn timeout<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u32>, D::Error> {
    struct Secs(u32);
    impl<'de> Deserialize<'de> for Secs {
        fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
            number(d, "a time from 1 to 86400 seconds", 1..=86_400).map(|n| Secs(n as u32))
        }
    }
    Ok(Option::<Secs>::deserialize(d)?.map(|s| s.0))
}

/// A number within bounds, checked where it stands, so that an error has its line and path.
pub(super) fn number<'de, D: Deserializer<'de>>(
    d: D,
    expected: &'static str,
    bounds: std::ops::RangeInclusive<u64>,
) -> Result<u64, D::Error> {
    struct Number(&'static str, std::ops::RangeInclusive<u64>);
    impl Visitor<'_> for Number {
        type Value = u64;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
        fn visit_u64<E: Error>(self, n: u64) -> Result<u64, E> {
            let good = self.1.contains(&n);
            if good {
                Ok(n)
            } else {
                Err(E::invalid_value(Unexpected::Unsigned(n), &self))
            }
        }
    }
    d.deserialize_u64(Number(expected, bounds))
}

/// A port number or a port's name.
pub(super) fn target_port<'de, D: Deserializer<'de>>(d: D) -> Result<(), D::Error> {
    struct Port;
    impl Visitor<'_> for Port {
        type Value = ();
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a port number or a port's name")
        }
        fn visit_u64<E: Error>(self, port: u64) -> Result<(), E> {
            // Kubernetes writes 0 for "the same port".
            if port <= 65_535 {
                Ok(())
            } else {
                Err(E::invalid_value(Unexpected::Unsigned(port), &self))
            }
        }
        fn visit_str<E: Error>(self, name: &str) -> Result<(), E> {
            is_label(name).map_err(E::custom)
        }
        fn visit_unit<E: Error>(self) -> Result<(), E> {
            Ok(())
        }
    }
    d.deserialize_any(Port)
}

/// `None` is the word `None`: headless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClusterIp(pub(super) Option<IpAddr>);

fn cluster_ip_of(text: &str) -> Result<Option<ClusterIp>, String> {
    match text {
        "" => Ok(None),
        "None" => Ok(Some(ClusterIp(None))),
        ip => address(ip).map(|ip| Some(ClusterIp(Some(ip)))),
    }
}

pub(super) fn cluster_ip<'de, D: Deserializer<'de>>(d: D) -> Result<Option<ClusterIp>, D::Error> {
    match Option::<Text>::deserialize(d)? {
        Some(Text(text)) => cluster_ip_of(&text).map_err(D::Error::custom),
        None => Ok(None),
    }
}

pub(super) fn cluster_ips<'de, D: Deserializer<'de>>(d: D) -> Result<Box<[ClusterIp]>, D::Error> {
    let list = sequence(d, |text| {
        cluster_ip_of(text)?.ok_or_else(|| "an empty address".into())
    })?;
    Ok(list.into())
}

/// An address that traffic can go to.
fn address(text: &str) -> Result<IpAddr, String> {
    let ip: IpAddr = text
        .parse()
        .map_err(|_| format!("`{text}` is no IP address"))?;
    let ip = ip.to_canonical();
    if ip.is_unspecified() || ip.is_multicast() {
        return Err(format!("`{text}` is no address of one host"));
    }
    Ok(ip)
}

pub(super) fn addresses<'de, D: Deserializer<'de>>(d: D) -> Result<Box<[IpAddr]>, D::Error> {
    let list = sequence(d, address)?;
    if list.len() > 64 {
        return Err(D::Error::custom("more than 64 addresses"));
    }
    Ok(list.into())
}

/// Of an endpoint's addresses, which stand for each other, the first.
pub(super) fn first_address<'de, D: Deserializer<'de>>(d: D) -> Result<IpAddr, D::Error> {
    let list = sequence(d, address)?;
    list.first()
        .copied()
        .ok_or_else(|| D::Error::custom("an endpoint needs an address"))
}

pub(super) fn labels<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Str>, D::Error> {
    sequence(d, |s| is_label(s).map(|()| s.into()))
}

pub(super) fn spiffe_ids<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Str>, D::Error> {
    sequence(d, |s| is_spiffe(s).map(|()| s.into()))
}

/// A directory below the cgroup2 root.
pub(super) fn cgroup_path(path: &str) -> Result<Str, String> {
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    let bad = parts.is_empty() || parts.len() > 15 || path.len() > 4096;
    if bad || parts.iter().any(|p| *p == "." || *p == "..") || path.contains('\0') {
        return Err(format!(
            "cgroup: `{path}` is no path below the cgroup2 root (1 to 15 levels)"
        ));
    }
    Ok(parts.join("/").into())
}

/// A name as of `ip netns`, an absolute path, or `pid:N`.
pub(super) fn netns(text: &str) -> Result<NetnsRef, String> {
    let bad = || format!("netns: `{text}` is no name, absolute path or pid:N");
    if let Some(pid) = text.strip_prefix("pid:") {
        return pid
            .parse()
            .ok()
            .filter(|p| *p > 0)
            .map(NetnsRef::Pid)
            .ok_or_else(bad);
    }
    if text.is_empty() || text.len() > 4096 || text.contains('\0') {
        return Err(bad());
    }
    if text.starts_with('/') {
        return Ok(NetnsRef::Path(text.into()));
    }
    if text.contains('/') || text == "." || text == ".." {
        return Err(bad());
    }
    Ok(NetnsRef::Path(format!("/run/netns/{text}").into()))
}

pub(super) fn unit(text: &str) -> Result<Str, String> {
    let good = text.len() <= 255
        && [".service", ".scope", ".slice"]
            .iter()
            .any(|s| text.ends_with(s) && text != *s)
        && !text.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control());
    if good {
        Ok(text.into())
    } else {
        Err(format!("systemdUnit: `{text}` is no unit as web.service"))
    }
}

/// Methods of requests; they are compared as they are, so that another case would be a slip.
pub(super) fn methods<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Str>, D::Error> {
    let methods = sequence(d, |method| {
        let known = |b: u8| b.is_ascii_uppercase() || b"-_".contains(&b);
        if (1..=32).contains(&method.len()) && method.bytes().all(known) {
            return Ok(method.into());
        }
        Err(format!("`{method}` is no method as GET"))
    })?;
    at_most(methods)
}

/// Exact paths, and prefixes with `*` at their end, in the form in which requests have them.
pub(super) fn paths<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Str>, D::Error> {
    let paths = sequence(d, |text| {
        let path = text.strip_suffix('*').unwrap_or(text);
        if path.contains('*') {
            return Err(format!("`{text}`: `*` may stand at the end only"));
        }
        if text.len() > 1024 {
            return Err(format!("`{text}` is longer than 1024 bytes"));
        }
        // A prefix ends anywhere: `/a/.*` may mean `/a/.well-known`.
        let end = if text == path { "" } else { "x" };
        let whole = format!("{path}{end}");
        match crate::path::normalize(whole.as_bytes()) {
            Ok(normal) if normal == whole => Ok(text.into()),
            Ok(normal) => {
                let normal = normal.strip_suffix(end).unwrap_or(&normal);
                Err(format!("`{text}` is not in normal form, as `{normal}` is"))
            }
            Err(why) => {
                let name = underpass_abi::reason::name(why.code());
                Err(format!("`{text}` can be no request's path ({name})"))
            }
        }
    })?;
    at_most(paths)
}

fn at_most<E: Error>(list: Vec<Str>) -> Result<Vec<Str>, E> {
    match list.len() {
        0..=64 => Ok(list),
        _ => Err(E::custom("more than 64 entries")),
    }
}
