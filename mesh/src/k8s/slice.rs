//! EndpointSlice: where a service's traffic can go.

use std::net::IpAddr;

use serde::Deserialize;

use super::{Meta, Protocol, field, value};
use crate::Str;

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSlice {
    pub metadata: Meta,
    pub address_type: AddressType,
    #[serde(default, deserialize_with = "field::nullable")]
    pub endpoints: Vec<Endpoint>,
    #[serde(default, deserialize_with = "field::nullable")]
    pub ports: Vec<EndpointPort>,
    // Known before or, if keys are sorted, found here.
    #[serde(default, rename = "apiVersion", deserialize_with = "value::slice_api")]
    _api_version: (),
    #[serde(default, rename = "kind", deserialize_with = "value::slice_kind")]
    _kind: (),
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

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// The first of `addresses`, which stand for each other.
    #[serde(rename = "addresses", deserialize_with = "value::first_address")]
    pub address: IpAddr,
    #[serde(default)]
    pub conditions: Conditions,
    pub target_ref: Option<Box<TargetRef>>,
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

/// The object behind an endpoint: a Pod or Workload.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct TargetRef {
    pub kind: Option<Str>,
    pub namespace: Option<Str>,
    pub name: Option<Str>,
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
