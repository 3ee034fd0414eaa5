//! Address blocks of policies.

use std::net::IpAddr;

use serde::{Deserialize, Serialize, Serializer};

use super::value;

/// A CIDR without some CIDRs inside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawBlock")]
pub struct IpBlock {
    pub cidr: Cidr,
    pub except: Vec<Cidr>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBlock {
    cidr: Cidr,
    #[serde(default)]
    except: Vec<Cidr>,
}

impl TryFrom<RawBlock> for IpBlock {
    type Error = String;

    fn try_from(RawBlock { cidr, except }: RawBlock) -> Result<Self, String> {
        match except.iter().find(|e| !cidr.covers(e)) {
            Some(e) => Err(format!("except {e} is not inside {cidr}")),
            None => Ok(Self { cidr, except }),
        }
    }
}

/// `address/prefix`, with the bits after the prefix zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    pub ip: IpAddr,
    pub prefix: u8,
}

impl Cidr {
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.ip, ip) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => {
                let shift = 32 - u32::from(self.prefix);
                net.to_bits().checked_shr(shift) == ip.to_bits().checked_shr(shift)
            }
            (IpAddr::V6(net), IpAddr::V6(ip)) => {
                let shift = 128 - u32::from(self.prefix);
                net.to_bits().checked_shr(shift) == ip.to_bits().checked_shr(shift)
            }
            _ => false,
        }
    }

    /// True if every address of `other` is in it.
    pub fn covers(&self, other: &Cidr) -> bool {
        self.prefix <= other.prefix && self.contains(other.ip)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        value::cidr(d)
    }
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl Cidr {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is no CIDR as 10.0.0.0/8 or fd00::/8");
        let (ip, prefix) = text.split_once('/').ok_or_else(bad)?;
        let ip: IpAddr = ip.parse().map_err(|_| bad())?;
        let prefix: u8 = prefix.parse().map_err(|_| bad())?;
        let (bits, host_bits) = match ip {
            IpAddr::V4(v4) => (
                32,
                v4.to_bits().checked_shl(u32::from(prefix)).unwrap_or(0) != 0,
            ),
            IpAddr::V6(v6) => (
                128,
                v6.to_bits().checked_shl(u32::from(prefix)).unwrap_or(0) != 0,
            ),
        };
        if matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
            return Err(format!("write `{text}` as an IPv4 CIDR"));
        }
        if prefix > bits {
            return Err(bad());
        }
        if host_bits {
            return Err(format!("`{text}` has bits set after its prefix"));
        }
        Ok(Self { ip, prefix })
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}
