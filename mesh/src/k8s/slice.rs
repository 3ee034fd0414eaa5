//! EndpointSlice: where a service's traffic can go.

use std::net::IpAddr;

use serde::Deserialize;

use super::{Meta, Protocol, field, value};
use crate::Str;

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "RawSlice")]
pub struct EndpointSlice {
    pub metadata: Meta,
    pub address_type: AddressType,
    pub endpoints: Box<[Endpoint]>,
    pub ports: Box<[EndpointPort]>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawSlice {
    metadata: Meta,
    address_type: AddressType,
    #[serde(default, deserialize_with = "field::nullable")]
    endpoints: Vec<RawEndpoint>,
    #[serde(default, deserialize_with = "field::nullable")]
    ports: Box<[EndpointPort]>,
    // Known before or, if keys are sorted, found here.
    #[serde(default, rename = "apiVersion", deserialize_with = "value::slice_api")]
    _api_version: (),
    #[serde(default, rename = "kind", deserialize_with = "value::slice_kind")]
    _kind: (),
}

impl From<RawSlice> for EndpointSlice {
    fn from(raw: RawSlice) -> Self {
        let namespace = raw.metadata.namespace();
        let endpoints = raw.endpoints.into_iter().map(|e| Endpoint {
            address: e.address,
            conditions: e.conditions,
            target: e.target_ref.and_then(|t| t.workload(namespace)),
        });
        Self {
            endpoints: endpoints.collect(),
            address_type: raw.address_type,
            ports: raw.ports,
            metadata: raw.metadata,
        }
    }
}

impl EndpointSlice {
    /// The first endpoint whose address is of the other family.
    pub fn misplaced(&self) -> Option<usize> {
        let v4 = self.address_type == AddressType::IPv4;
        self.endpoints
            .iter()
            .position(|e| e.address.is_ipv4() != v4)
    }
}

/// `FQDN`, which Kubernetes has deprecated, is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum AddressType {
    IPv4,
    IPv6,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The first of `addresses`, which stand for each other.
    pub address: IpAddr,
    pub conditions: Conditions,
    /// The Pod or Workload behind it, as `namespace/name`.
    pub target: Option<Str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawEndpoint {
    #[serde(rename = "addresses", deserialize_with = "value::first_address")]
    address: IpAddr,
    #[serde(default)]
    conditions: Conditions,
    target_ref: Option<TargetRef>,
}

/// All may be absent: then ready, serving as ready, and not terminating.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Conditions {
    pub ready: Option<bool>,
    pub serving: Option<bool>,
    pub terminating: Option<bool>,
}

impl Conditions {
    pub fn ready(self) -> bool {
        self.ready.unwrap_or(true)
    }
    pub fn serving(self) -> bool {
        self.serving.unwrap_or(self.ready())
    }
    pub fn terminating(self) -> bool {
        self.terminating.unwrap_or(false)
    }
}

#[derive(Deserialize)]
struct TargetRef {
    kind: Option<Str>,
    namespace: Option<Str>,
    name: Option<Str>,
}

impl TargetRef {
    /// The full name of a Pod or Workload; `namespace` is the slice's.
    fn workload(&self, namespace: &str) -> Option<Str> {
        let is_workload = matches!(self.kind.as_deref(), Some("Pod" | "Workload"));
        let name = self.name.as_ref().filter(|_| is_workload)?;
        let namespace = self.namespace.as_deref().unwrap_or(namespace);
        Some(arcstr::format!("{namespace}/{name}"))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct EndpointPort {
    #[serde(
        default = "field::empty",
        deserialize_with = "field::nullable_port_name"
    )]
    pub name: Str,
    /// Absent means every port, which the mesh does not serve.
    #[serde(default, deserialize_with = "value::optional_port")]
    pub port: Option<u16>,
    #[serde(default, deserialize_with = "field::nullable")]
    pub protocol: Protocol,
}
