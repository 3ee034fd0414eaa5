//! The comparison: the same requests without mesh, under the mesh in the kernel, and through the proxies
//! that others put between client and server. `docs/how-to/compare.md` says how to repeat and read it.

pub mod cases;
mod cdf;
mod envoy;
pub mod field;
mod haproxy;
mod html;
pub mod judge;
mod load;
mod nginx;
mod proxy;
pub mod rounds;
pub mod rows;
mod sidecar;
mod table;
mod words;

use serde::{Serialize, Serializer};
use underpass_abi::reason::{self, code};

use crate::{
    lab::{Side, Wire},
    way::{Mesh, Workers},
};

pub use html::page;
pub use table::text;
use words::text_of;

/// What stands between client and server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum System {
    /// Nothing: the baseline.
    None,
    /// The mesh, the shortcut off.
    Kernel,
    KernelShortcut,
    /// The client's worker, both sides' workers, with the shortcut; and a proxy beside each workload.
    Http,
    HttpBoth,
    Sidecar,
    /// A hop is one proxy, a pair is two, as two sidecars are.
    EnvoyHop,
    EnvoyPair,
    HaproxyHop,
    NginxHop,
    /// The workers without the shortcut.
    HttpPlain,
    HttpBothPlain,
    /// Of `underpass bench`: a client that the mesh does not know, and one that is in it.
    Outside,
    Inside,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    Envoy,
    Haproxy,
    Nginx,
}

impl System {
    pub const ALL: &[Self] = &[
        Self::None,
        Self::Kernel,
        Self::KernelShortcut,
        Self::Http,
        Self::HttpBoth,
        Self::Sidecar,
        Self::EnvoyHop,
        Self::EnvoyPair,
        Self::HaproxyHop,
        Self::NginxHop,
        Self::HttpPlain,
        Self::HttpBothPlain,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Kernel => "kernel",
            Self::KernelShortcut => "kernel+shortcut",
            Self::Http => "http",
            Self::HttpBoth => "http-both",
            Self::Sidecar => "sidecar",
            Self::EnvoyHop => "envoy-hop",
            Self::EnvoyPair => "envoy-pair",
            Self::HaproxyHop => "haproxy-hop",
            Self::NginxHop => "nginx-hop",
            Self::HttpPlain => "http-plain",
            Self::HttpBothPlain => "http-both-plain",
            Self::Outside => "outside",
            Self::Inside => "inside",
        }
    }

    pub const fn describe(self) -> &'static str {
        match self {
            Self::None => "client and server alone, no mesh on the machine: the baseline",
            Self::Kernel => "the mesh in the kernel: identity, policy and byte counts, no proxy",
            Self::KernelShortcut => "the same with --shortcut on",
            Self::Http => "our HTTP worker on one side, the client's, with --shortcut on",
            Self::HttpBoth => "our HTTP workers on both sides, of two tenants, with --shortcut on",
            Self::Sidecar => {
                "our proxy beside each workload, two processes, traffic captured by nft"
            }
            Self::EnvoyHop => "one Envoy between client and server",
            Self::EnvoyPair => "two Envoys, as two sidecars",
            Self::HaproxyHop => "one HAProxy between client and server",
            Self::NginxHop => "one nginx between client and server",
            Self::HttpPlain => "`http` with --shortcut off (only by name)",
            Self::HttpBothPlain => "`http-both` with --shortcut off (only by name)",
            Self::Outside => "a client that is no workload of the mesh: the baseline",
            Self::Inside => "the same client as a workload of the mesh",
        }
    }

    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|s| s.name() == name)
    }

    /// What the others of its round are compared with.
    pub const fn is_baseline(self) -> bool {
        matches!(self, Self::None | Self::Outside)
    }

    /// Of the table, unless it is asked for.
    pub const fn by_default(self) -> bool {
        !matches!(self, Self::HttpPlain | Self::HttpBothPlain)
    }

    /// Why it is refused whatever is installed.
    pub fn refused(self, wire: Wire) -> Option<Refusal> {
        (self.own_hops() > 0 && wire == Wire::Loopback).then(|| {
            let why =
                "client and server share one, so a worker could not tell whose a connection is";
            Refusal::new(code::OWN_NAMESPACE, why)
        })
    }

    /// What of the mesh runs meanwhile.
    pub const fn mesh(self) -> Option<Mesh> {
        let (shortcut, workers) = match self {
            Self::Kernel => (false, Workers::None),
            Self::KernelShortcut => (true, Workers::None),
            Self::Http => (true, Workers::Client),
            Self::HttpPlain => (false, Workers::Client),
            Self::HttpBoth => (true, Workers::Both),
            Self::HttpBothPlain => (false, Workers::Both),
            _ => return None,
        };
        Some(Mesh { shortcut, workers })
    }

    /// Whose parties carry it.
    pub const fn side(self) -> Side {
        match self.mesh() {
            Some(_) => Side::On,
            None => Side::Off,
        }
    }

    /// Our own proxies that each request passes.
    pub const fn own_hops(self) -> usize {
        match self {
            Self::Http | Self::HttpPlain => 1,
            Self::HttpBoth | Self::HttpBothPlain | Self::Sidecar => 2,
            _ => 0,
        }
    }

    /// Proxies that each request passes.
    pub fn proxies(self) -> usize {
        self.hops().map_or(self.own_hops(), |(_, hops)| hops.into())
    }

    /// The client dials the service's address.
    pub fn dials_service(self) -> bool {
        self.mesh().is_some() || self == Self::Sidecar
    }

    /// The proxies between client and server: whose, and how many.
    pub const fn hops(self) -> Option<(Peer, u16)> {
        match self {
            Self::EnvoyHop => Some((Peer::Envoy, 1)),
            Self::EnvoyPair => Some((Peer::Envoy, 2)),
            Self::HaproxyHop => Some((Peer::Haproxy, 1)),
            Self::NginxHop => Some((Peer::Nginx, 1)),
            _ => None,
        }
    }

    /// A number for its ports and its color.
    pub fn index(self) -> usize {
        // Those of `underpass bench` look like nothing and the kernel.
        let own = Self::ALL.iter().position(|s| *s == self);
        own.unwrap_or(usize::from(self == Self::Inside))
    }
}

impl Serialize for System {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.name())
    }
}

impl Peer {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Envoy => "envoy",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
        }
    }
}

/// Why a row has no figures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Refusal {
    #[serde(serialize_with = "name_of")]
    pub code: u16,
    pub why: String,
}

impl Refusal {
    pub fn new(code: u16, why: impl Into<String>) -> Self {
        let why = why.into();
        Self { code, why }
    }

    /// Not a failure of this run.
    pub const fn is_expected(&self) -> bool {
        matches!(self.code, code::NOT_IMPLEMENTED | code::OWN_NAMESPACE)
    }

    /// `UP0301 NOT_IMPLEMENTED: …`
    pub fn line(&self) -> String {
        let name = reason::name(self.code);
        format!("UP{:04} {name}: {}", self.code, self.why)
    }
}

fn name_of<S: Serializer>(number: &u16, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(reason::name(*number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        for system in System::ALL {
            assert_eq!(System::find(system.name()), Some(*system));
            assert_eq!(System::ALL[system.index()], *system);
        }
        assert_eq!(System::find("http2"), None);
    }

    #[test]
    fn what_needs_namespaces_is_refused_where_they_are_shared() {
        for system in System::ALL {
            assert!(system.refused(Wire::Veth).is_none());
            let refusal = system.refused(Wire::Loopback);
            assert_eq!(refusal.is_some(), system.own_hops() > 0);
            let said = refusal.map(|r| (r.is_expected(), r.line()));
            assert!(said.is_none_or(|(e, line)| e && line.starts_with("UP0512 OWN_NAMESPACE: ")));
        }
    }

    #[test]
    fn a_system_has_proxies_of_one_kind() {
        for system in System::ALL {
            assert!(system.hops().is_none() || system.own_hops() == 0);
            let mesh = system.mesh().is_some_and(|m| m.workers != Workers::None);
            assert!(!mesh || system.own_hops() > 0);
        }
        assert_eq!(System::EnvoyPair.proxies(), 2);
        assert_eq!(System::HttpBoth.proxies(), 2);
        assert_eq!(System::KernelShortcut.proxies(), 0);
    }
}
