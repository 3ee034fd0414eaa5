//! The Kubernetes objects that the mesh reads, in their exact shape, without the fields that it
//! does not need. Of core kinds unknown fields are skipped, as a client of Kubernetes must; of our
//! own group they are errors.

#![allow(clippy::upper_case_acronyms, reason = "names of Kubernetes' values")]
#![allow(
    clippy::manual_non_exhaustive,
    reason = "unit fields are checked when read, not kept"
)]

use std::{net::IpAddr, sync::Arc};

use serde::Deserialize;

use crate::{Str, snapshot, split_name};

mod annotation;
mod app;
mod cidr;
mod field;
mod locator;
mod pod;
mod policy;
pub mod route;
mod slice;
mod value;

pub use annotation::{Annotations, RateLimit};
pub use cidr::{Cidr, IpBlock};
pub use field::Labels;
pub(crate) use field::NOT_IMPLEMENTED;
pub use locator::{Locator, NetnsRef};
pub use pod::Pod;
pub use policy::*;
pub use slice::*;

/// The label that joins the mesh: `enabled` on a Namespace, Pod or Workload; `disabled` on the
/// object opts out.
pub const MESH_LABEL: &str = "underpass.dev/mesh";
/// The annotation that gives an endpoint its weight: on its Pod or Workload, else on its
/// EndpointSlice. Default 1; 0 means none of the traffic.
pub const WEIGHT_ANNOTATION: &str = "underpass.dev/weight";
/// The annotation that says who takes the shortcut past TCP (off, auto, on): on a Pod or Workload, else
/// on its Namespace, else the node's mode holds.
pub const SHORTCUT_ANNOTATION: &str = "underpass.dev/shortcut";
/// The annotation that asks for the layer Http (`http`; `off`: not, whatever the namespace says): on a
/// Service for who dials it, on a Pod or Workload for what it dials and serves, on a Namespace for all.
pub const OBSERVE_ANNOTATION: &str = "underpass.dev/observe";
/// The annotation on a Service that bounds the requests that each of its endpoints gets, as `100/s` or
/// `100/m;burst=20`.
pub const RATE_LIMIT_ANNOTATION: &str = "underpass.dev/rate-limit";
/// The label that ties an EndpointSlice to its Service.
pub const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// Largest weight of an endpoint.
pub const WEIGHT_MAX: u16 = 65_535;

/// What the mesh reads of `metadata`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "RawMeta")]
pub struct Meta {
    /// `namespace/name`; of a Namespace its name.
    pub full_name: Str,
    pub labels: Labels,
    pub annotations: Annotations,
}

#[derive(Deserialize)]
struct RawMeta {
    #[serde(deserialize_with = "field::subdomain")]
    name: Str,
    /// `default` if absent; meaningless for a Namespace.
    #[serde(
        default = "field::default_namespace",
        deserialize_with = "field::label"
    )]
    namespace: Str,
    #[serde(default)]
    labels: Labels,
    #[serde(default)]
    annotations: Annotations,
}

impl From<RawMeta> for Meta {
    fn from(raw: RawMeta) -> Self {
        Self {
            full_name: arcstr::format!("{}/{}", raw.namespace, raw.name),
            labels: raw.labels,
            annotations: raw.annotations,
        }
    }
}

impl Meta {
    pub fn namespace(&self) -> &str {
        split_name(&self.full_name).0
    }

    /// What the object's own [`MESH_LABEL`] says.
    pub fn mesh(&self) -> Option<bool> {
        match self.labels.get(MESH_LABEL)? {
            "enabled" => Some(true),
            _ => Some(false),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "RawNamespace")]
pub struct Namespace {
    pub metadata: Meta,
}

#[derive(Deserialize)]
struct RawNamespace {
    metadata: RawMeta,
}

impl From<RawNamespace> for Namespace {
    fn from(RawNamespace { metadata }: RawNamespace) -> Self {
        let full_name = metadata.name.clone();
        Self {
            metadata: Meta {
                full_name,
                ..metadata.into()
            },
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Service {
    pub metadata: Meta,
    pub spec: ServiceSpec,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSpec {
    /// An address, `None` (headless), or empty.
    #[serde(default, rename = "clusterIP", deserialize_with = "value::cluster_ip")]
    cluster_ip: Option<value::ClusterIp>,
    #[serde(
        default,
        rename = "clusterIPs",
        deserialize_with = "value::cluster_ips"
    )]
    cluster_ips: Box<[value::ClusterIp]>,
    #[serde(default, deserialize_with = "field::nullable")]
    pub ports: Box<[ServicePort]>,
    #[serde(default)]
    pub session_affinity: SessionAffinity,
    #[serde(default)]
    pub session_affinity_config: SessionAffinityConfig,
    #[serde(default)]
    pub publish_not_ready_addresses: bool,
    #[serde(default, rename = "type")]
    pub kind: ServiceType,
    // Fields that change traffic and are not built: named in a warning.
    external_name: Option<Str>,
    #[serde(default, rename = "externalIPs")]
    external_ips: Box<[Str]>,
    internal_traffic_policy: Option<Str>,
    traffic_distribution: Option<Str>,
}

impl ServiceSpec {
    /// The cluster addresses, at most one of each family; none for a headless service.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let all = self.cluster_ips.iter().chain(self.cluster_ip.iter().take(
            // `clusterIP` repeats the first of `clusterIPs`.
            usize::from(self.cluster_ips.is_empty()),
        ));
        let mut found: Vec<IpAddr> = Vec::new();
        for ip in all.filter_map(|c| c.0) {
            if !found.iter().any(|f| f.is_ipv4() == ip.is_ipv4()) {
                found.push(ip);
            }
        }
        found
    }

    /// Declared without an address: endpoints are dialed directly.
    pub fn headless(&self) -> bool {
        self.cluster_ips
            .iter()
            .chain(&self.cluster_ip)
            .any(|c| c.0.is_none())
    }

    /// Seconds for which a client stays on its endpoint, 0 without affinity.
    pub fn affinity_secs(&self) -> u32 {
        match self.session_affinity {
            SessionAffinity::None => 0,
            SessionAffinity::ClientIP => self
                .session_affinity_config
                .client_ip
                .timeout_seconds
                .unwrap_or(10_800),
        }
    }

    /// Fields that are set, change traffic, and are not built.
    pub fn unbuilt(&self) -> Vec<(String, &'static str)> {
        let mut found = Vec::new();
        if self.external_name.is_some() || self.kind == ServiceType::ExternalName {
            found.push((
                "spec.externalName".into(),
                "no traffic goes to an external name",
            ));
        }
        if !self.external_ips.is_empty() {
            found.push((
                "spec.externalIPs".into(),
                "only cluster addresses are served",
            ));
        }
        if matches!(self.kind, ServiceType::NodePort | ServiceType::LoadBalancer) {
            found.push((
                "spec.type".into(),
                "only cluster addresses are served, no node ports",
            ));
        }
        if self
            .internal_traffic_policy
            .as_deref()
            .is_some_and(|p| p != "Cluster")
        {
            found.push((
                "spec.internalTrafficPolicy".into(),
                "endpoints of all nodes are used",
            ));
        }
        if self.traffic_distribution.is_some() {
            found.push((
                "spec.trafficDistribution".into(),
                "endpoints are not chosen by distance",
            ));
        }
        for (i, port) in self.ports.iter().enumerate() {
            if port.protocol == Protocol::SCTP {
                found.push((
                    format!("spec.ports[{i}].protocol"),
                    "only TCP and UDP are served",
                ));
            }
        }
        found
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum ServiceType {
    #[default]
    ClusterIP,
    NodePort,
    LoadBalancer,
    ExternalName,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum SessionAffinity {
    #[default]
    None,
    ClientIP,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SessionAffinityConfig {
    #[serde(rename = "clientIP")]
    pub client_ip: ClientIpConfig,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientIpConfig {
    #[serde(deserialize_with = "value::timeout")]
    pub timeout_seconds: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// Ties it to the EndpointSlice's port of that name; empty for a service's only port.
    #[serde(default = "field::empty", deserialize_with = "field::port_name")]
    pub name: Str,
    #[serde(deserialize_with = "value::port")]
    pub port: u16,
    #[serde(default)]
    pub protocol: Protocol,
    /// What is spoken.
    #[serde(default, deserialize_with = "app::protocol")]
    pub app_protocol: snapshot::Protocol,
    /// Kubernetes resolves it into EndpointSlices; checked, then not needed.
    #[serde(
        default,
        rename = "targetPort",
        deserialize_with = "value::target_port"
    )]
    _target_port: (),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
pub enum Protocol {
    #[default]
    TCP,
    UDP,
    SCTP,
}

impl Protocol {
    /// The IP protocol number; 0 for what is not served.
    pub fn number(self) -> u8 {
        match self {
            Self::TCP => 6,
            Self::UDP => 17,
            Self::SCTP => 0,
        }
    }
}

/// Any object that the mesh reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    Namespace(Arc<Namespace>),
    Pod(Arc<Pod>),
    Service(Arc<Service>),
    EndpointSlice(Arc<EndpointSlice>),
    AuthorizationPolicy(Arc<AuthorizationPolicy>),
    Workload(Arc<Workload>),
    HttpRoute(Arc<route::HttpRoute>),
}

impl Object {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Namespace(_) => Kind::Namespace,
            Self::Pod(_) => Kind::Pod,
            Self::Service(_) => Kind::Service,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::AuthorizationPolicy(_) => Kind::AuthorizationPolicy,
            Self::Workload(_) => Kind::Workload,
            Self::HttpRoute(_) => Kind::HttpRoute,
        }
    }

    pub fn full_name(&self) -> &Str {
        match self {
            Self::Namespace(o) => &o.metadata.full_name,
            Self::Pod(o) => &o.metadata.full_name,
            Self::Service(o) => &o.metadata.full_name,
            Self::EndpointSlice(o) => &o.metadata.full_name,
            Self::AuthorizationPolicy(o) => &o.metadata.full_name,
            Self::Workload(o) => &o.metadata.full_name,
            Self::HttpRoute(o) => &o.full_name,
        }
    }
}

/// The kinds, in the order in which problems are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Namespace,
    Pod,
    Workload,
    Service,
    EndpointSlice,
    AuthorizationPolicy,
    HttpRoute,
}

impl Kind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Pod => "Pod",
            Self::Workload => "Workload",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::HttpRoute => "HTTPRoute",
        }
    }
}
