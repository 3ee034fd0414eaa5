//! Pod: who runs where.

use std::net::IpAddr;

use serde::Deserialize;

use super::{Meta, field};
use crate::Str;

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "RawPod")]
pub struct Pod {
    pub metadata: Meta,
    pub service_account_name: Option<Str>,
    pub host_network: bool,
    /// None once it has ended.
    pub addresses: Box<[IpAddr]>,
}

#[derive(Deserialize)]
struct RawPod {
    metadata: Meta,
    #[serde(default)]
    spec: PodSpec,
    #[serde(default)]
    status: PodStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodSpec {
    #[serde(default, deserialize_with = "field::optional_subdomain")]
    service_account_name: Option<Str>,
    #[serde(default)]
    host_network: bool,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodStatus {
    #[serde(default, rename = "podIPs")]
    pod_ips: Vec<PodIp>,
    phase: Option<Phase>,
}

#[derive(Deserialize)]
struct PodIp {
    ip: IpAddr,
}

#[derive(Deserialize)]
enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed,
    Unknown,
}

impl From<RawPod> for Pod {
    fn from(raw: RawPod) -> Self {
        let PodStatus { pod_ips, phase } = raw.status;
        let ended = matches!(phase, Some(Phase::Succeeded | Phase::Failed));
        Self {
            metadata: raw.metadata,
            service_account_name: raw.spec.service_account_name,
            host_network: raw.spec.host_network,
            addresses: match ended {
                true => Box::default(),
                false => pod_ips.into_iter().map(|p| p.ip).collect(),
            },
        }
    }
}
