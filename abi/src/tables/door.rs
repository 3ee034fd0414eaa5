//! How connections come to the worker of a workload, and what it is told of them.

use super::learnt::{FlowKey, SEED, mix, mix_ip};
use crate::addr::Ip;

/// Where the worker listens for connections that its workload dials: the kernel rewrites their
/// destination to the workload's own address and this port, and remembers what was dialed.
pub const OUTBOUND: u16 = 15_001;
/// Where it listens for connections to ports that are steered.
pub const INBOUND: u16 = 15_006;

/// Bits of a `WORKLOADS` word above the policy table (0-31) and the shortcut's mode (32-39).
pub mod workload {
    /// The worker listens in its namespace, so that its connections can be sent there.
    pub const DOOR: u64 = 1 << 40;
    /// All services that it dials are dialed through the worker.
    pub const OUTBOUND: u64 = 1 << 41;
    /// Some of its ports are steered to the worker (`STEERED`).
    pub const INBOUND: u64 = 1 << 42;
}

/// Value of `OWN`, by workload index: the addresses of a workload that has a network namespace for
/// itself. An element is written in place, and readers can see it half written: then the check is wrong.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct OwnAddresses {
    /// Network byte order; 0: it has none.
    pub v4: u32,
    pub check: u32,
    pub v6: [u32; 4],
}

impl OwnAddresses {
    /// `None` where it has no address of the family.
    pub const fn new(v4: Option<Ip>, v6: Option<Ip>) -> Self {
        let mut own = Self {
            v4: match v4 {
                Some(ip) => ip.0[3],
                None => 0,
            },
            check: 0,
            v6: match v6 {
                Some(ip) => ip.0,
                None => [0; 4],
            },
        };
        own.check = own.sum();
        own
    }

    #[inline(always)]
    const fn sum(&self) -> u32 {
        mix(mix_ip(SEED, &Ip(self.v6)), self.v4)
    }

    /// False for one that is being written, or was never.
    #[inline(always)]
    pub const fn is_whole(&self) -> bool {
        self.check == self.sum()
    }

    /// The own address of a family; `None`: it has none.
    #[inline(always)]
    pub const fn of_family(&self, v4: bool) -> Option<Ip> {
        if v4 {
            if self.v4 == 0 {
                return None;
            }
            return Some(Ip::v4(self.v4));
        }
        if self.v6[0] | self.v6[1] | self.v6[2] | self.v6[3] == 0 {
            return None;
        }
        Some(Ip(self.v6))
    }
}

/// Key of `STEERED`; the value is an [`super::Entry`] whose word is 1.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SteerKey {
    pub workload: u32,
    /// Host byte order; TCP.
    pub port: u16,
    pub pad: u16,
}

/// Value of `ORIGINALS`, under the [`FlowKey`] of a connection that goes to the worker: what was dialed.
/// Written at TCP_CONNECT_CB, taken by the accepted socket. Programs write it into elements that are
/// given to other keys at any moment: a reader takes `check_last`, the fields, then `check_first`, and
/// believes them only if both are its key's (the kernel writes upwards).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Original {
    pub check_first: u32,
    /// What was dialed, in host byte order.
    pub port: u16,
    /// Service index.
    pub service: u16,
    pub ip: Ip,
    /// Of the dialing socket.
    pub cookie: u64,
    /// Workload index of who dialed.
    pub source: u32,
    pub check_last: u32,
}

impl Original {
    #[inline(always)]
    pub const fn is_of(&self, key: &FlowKey) -> bool {
        let check = key.check();
        self.check_first == check && self.check_last == check
    }
}

const _: () = assert!(size_of::<OwnAddresses>() == 24);
const _: () = assert!(size_of::<SteerKey>() == 8);
const _: () = assert!(size_of::<Original>() == 40);

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use super::*;

    #[test]
    fn a_half_written_element_is_not_believed() {
        let ip = |text: &str| Some(Ip::from(text.parse::<IpAddr>().unwrap()));
        let own = OwnAddresses::new(ip("10.0.0.1"), ip("fd00::1"));
        assert!(own.is_whole());
        assert_eq!(own.of_family(true), ip("10.0.0.1"));
        assert_eq!(own.of_family(false), ip("fd00::1"));
        let next = OwnAddresses::new(ip("10.0.0.2"), ip("fd00::2"));
        assert!(!OwnAddresses { v6: next.v6, ..own }.is_whole());
        assert!(!OwnAddresses::default().is_whole());
        let four = OwnAddresses::new(ip("10.0.0.1"), None);
        assert!(four.is_whole() && four.of_family(false).is_none());
    }
}
