//! The comparison: the same requests without mesh, under the mesh in the kernel, and through the proxies
//! that others put between client and server. `docs/how-to/compare.md` says how to repeat and read it.

pub mod cases;
mod cdf;
mod envoy;
mod field;
mod haproxy;
mod html;
mod load;
mod nginx;
mod proxy;
pub mod rounds;
pub mod rows;
mod table;

use serde::{Serialize, Serializer};
use underpass_abi::reason::{self, code};

use crate::way::Way;

pub use html::page;
pub use table::text;

/// What stands between client and server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum System {
    /// Nothing: the baseline.
    None,
    /// The mesh, the shortcut off.
    Kernel,
    KernelShortcut,
    /// The worker for one side, for both, and one beside each workload.
    Http,
    HttpBoth,
    Sidecar,
    /// A hop is one proxy, a pair is two, as two sidecars are.
    EnvoyHop,
    EnvoyPair,
    HaproxyHop,
    NginxHop,
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
        }
    }

    pub const fn describe(self) -> &'static str {
        match self {
            Self::None => "client and server alone, no mesh on the machine: the baseline",
            Self::Kernel => "the mesh in the kernel: identity, policy and byte counts, no proxy",
            Self::KernelShortcut => "the same with --shortcut on",
            Self::Http => "our HTTP worker on one side",
            Self::HttpBoth => "our HTTP workers on both sides",
            Self::Sidecar => "our proxy beside each workload",
            Self::EnvoyHop => "one Envoy between client and server",
            Self::EnvoyPair => "two Envoys, as two sidecars",
            Self::HaproxyHop => "one HAProxy between client and server",
            Self::NginxHop => "one nginx between client and server",
        }
    }

    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|s| s.name() == name)
    }

    /// Why it is refused whatever is installed.
    pub fn refused(self) -> Option<Refusal> {
        let unbuilt = matches!(self, Self::Http | Self::HttpBoth | Self::Sidecar);
        unbuilt.then(|| Refusal::new(code::NOT_IMPLEMENTED, "the HTTP workers are not built yet"))
    }

    /// What the agent does meanwhile.
    pub const fn way(self) -> Way {
        match self {
            Self::Kernel => Way::Mesh,
            Self::KernelShortcut => Way::Shortcut,
            _ => Way::NoMesh,
        }
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
        Self::ALL.iter().position(|s| *s == self).unwrap_or(0)
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
        self.code == code::NOT_IMPLEMENTED
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
    fn what_is_not_built_is_refused_by_its_code() {
        let refused: Vec<_> = System::ALL
            .iter()
            .filter(|s| s.refused().is_some())
            .collect();
        assert_eq!(refused.len(), 3);
        for system in refused {
            let refusal = system.refused().unwrap();
            assert!(refusal.is_expected() && system.hops().is_none());
            assert!(refusal.line().starts_with("UP0301 NOT_IMPLEMENTED: "));
        }
    }
}
