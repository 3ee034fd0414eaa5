//! One address form for both families: IPv4 is carried as `::ffff:a.b.c.d` (RFC 4291, 2.5.5.2).

/// An IP address as four 32-bit words in network byte order, the shape in which
/// `bpf_sock_addr`, `bpf_sock_ops` and `bpf_sk_lookup` give it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ip(pub [u32; 4]);

/// Third word of an IPv4-mapped address, in network byte order.
pub const MAPPED: u32 = 0x0000_ffff_u32.to_be();

impl Ip {
    /// The unspecified address; in a [`crate::tables::ListenKey`] it means "any address".
    pub const ANY: Self = Self([0; 4]);

    /// From an IPv4 address in network byte order.
    #[inline(always)]
    pub const fn v4(be: u32) -> Self {
        Self([0, 0, MAPPED, be])
    }

    /// True for an IPv4-mapped address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == MAPPED
    }

    /// True for `127.0.0.0/8` and `::1`.
    #[inline(always)]
    pub const fn is_loopback(&self) -> bool {
        if self.is_v4() {
            u32::from_be(self.0[3]) >> 24 == 127
        } else {
            self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0 && self.0[3] == 1_u32.to_be()
        }
    }

    /// The 16 bytes in network order.
    pub const fn octets(&self) -> [u8; 16] {
        let mut out = [0; 16];
        let mut word = 0;
        while word < 4 {
            let bytes = self.0[word].to_ne_bytes();
            let mut byte = 0;
            while byte < 4 {
                out[word * 4 + byte] = bytes[byte];
                byte += 1;
            }
            word += 1;
        }
        out
    }

    /// From 16 bytes in network order.
    pub const fn from_octets(o: [u8; 16]) -> Self {
        Self([
            u32::from_ne_bytes([o[0], o[1], o[2], o[3]]),
            u32::from_ne_bytes([o[4], o[5], o[6], o[7]]),
            u32::from_ne_bytes([o[8], o[9], o[10], o[11]]),
            u32::from_ne_bytes([o[12], o[13], o[14], o[15]]),
        ])
    }
}

impl From<core::net::IpAddr> for Ip {
    fn from(ip: core::net::IpAddr) -> Self {
        match ip {
            core::net::IpAddr::V4(v4) => Self::from_octets(v4.to_ipv6_mapped().octets()),
            core::net::IpAddr::V6(v6) => Self::from_octets(v6.octets()),
        }
    }
}

impl From<Ip> for core::net::IpAddr {
    fn from(ip: Ip) -> Self {
        core::net::Ipv6Addr::from(ip.octets()).to_canonical()
    }
}

impl core::fmt::Display for Ip {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::net::IpAddr::from(*self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn round_trips_both_families() {
        for ip in [
            IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3)),
            IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 2, 3, 4, 5, 6, 7)),
        ] {
            assert_eq!(IpAddr::from(Ip::from(ip)), ip);
        }
    }

    #[test]
    fn knows_loopback_and_mapped() {
        assert!(Ip::from(IpAddr::V4(Ipv4Addr::new(127, 9, 0, 1))).is_loopback());
        assert!(Ip::from(IpAddr::V6(Ipv6Addr::LOCALHOST)).is_loopback());
        assert!(!Ip::from(IpAddr::V4(Ipv4Addr::new(128, 0, 0, 1))).is_loopback());
        assert!(Ip::v4(u32::from(Ipv4Addr::LOCALHOST).to_be()).is_v4());
        assert!(!Ip::ANY.is_v4());
    }
}
