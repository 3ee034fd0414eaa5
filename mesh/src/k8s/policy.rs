//! Our own group, `underpass.dev/v1alpha1`: `AuthorizationPolicy`, modeled on GEP-3779, and
//! `Workload`, what runs on a machine and is no Pod. Unknown fields are errors.

use std::net::IpAddr;

use serde::Deserialize;

use super::{
    IpBlock, Labels, Locator, Meta, Protocol,
    field::{self, NOT_IMPLEMENTED},
    value,
};
use crate::Str;

/// Who may connect to what. There are allow rules only: a connection to a selected destination is
/// allowed if a rule of any policy in force allows it, else denied. A policy with `audit: true`
/// denies nothing; what it would deny is counted and shown.
///
/// ```yaml
/// apiVersion: underpass.dev/v1alpha1
/// kind: AuthorizationPolicy
/// metadata: { name: ledger, namespace: shop }
/// spec:
///   targetRefs:                      # absent: every workload of the namespace
///   - { kind: Workload, labelSelector: { matchLabels: { app: ledger } } }
///   action: ALLOW
///   rules:                           # absent: nobody
///   - sources:                       # absent: everybody
///     - serviceAccounts: [{ name: web }]
///     ports: [{ port: 8080 }]        # absent: every port
///     methods: [GET]                 # absent: each
///     paths: [/accounts, /rates/*]   # absent: each
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawPolicy")]
pub struct AuthorizationPolicy {
    pub metadata: Meta,
    pub spec: PolicySpec,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawPolicy {
    metadata: Meta,
    spec: PolicySpec,
    #[serde(default, rename = "status", deserialize_with = "field::ignored")]
    _status: (),
    // Read before; they are here again if they are written after the rest.
    #[serde(default, rename = "apiVersion", deserialize_with = "field::ignored")]
    _api_version: (),
    #[serde(default, rename = "kind", deserialize_with = "field::ignored")]
    _kind: (),
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PolicySpec {
    /// What is protected, in the policy's own namespace; empty: all its workloads.
    #[serde(default)]
    pub target_refs: Vec<PolicyTarget>,
    /// Only `ALLOW`.
    #[serde(default, rename = "action", deserialize_with = "value::action_allow")]
    _action: (),
    /// Nothing is refused; what the rules do not allow is counted and shown as `audited`.
    #[serde(default)]
    pub audit: bool,
    /// Without rules nobody is allowed.
    #[serde(default)]
    pub rules: Vec<Rule>,
}

impl PolicySpec {
    /// Some rule is about requests.
    pub fn of_requests(&self) -> bool {
        self.rules.iter().any(Rule::of_requests)
    }
}

impl TryFrom<RawPolicy> for AuthorizationPolicy {
    type Error = String;

    /// With what a rule about requests needs, so that somebody can judge it.
    fn try_from(raw: RawPolicy) -> Result<Self, String> {
        let RawPolicy { metadata, spec, .. } = raw;
        let of_service = |t: &PolicyTarget| matches!(t, PolicyTarget::Service { .. });
        for (i, rule) in spec.rules.iter().enumerate() {
            let of_tcp = rule.ports.iter().all(|p| p.protocol == Protocol::TCP);
            let why = match rule.of_requests() {
                true if spec.audit => format!("{NOT_IMPLEMENTED}methods and paths in audit mode"),
                true if spec.target_refs.iter().any(of_service) => {
                    format!("{NOT_IMPLEMENTED}methods and paths with a Service as target")
                }
                // A port that is not steered to the worker would be judged by nobody.
                true if rule.ports.is_empty() || !of_tcp => {
                    "methods and paths need `ports`, of TCP: those that speak HTTP".into()
                }
                _ => continue,
            };
            return Err(format!("spec.rules[{i}]: {why}"));
        }
        Ok(Self { metadata, spec })
    }
}

/// One target: `Service` by name (its port is checked, whatever endpoint is chosen), or Pods or
/// Workloads by name or labels (neither: all of the namespace).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawTarget")]
pub enum PolicyTarget {
    Service {
        name: Str,
    },
    Workloads {
        kind: TargetKind,
        name: Option<Str>,
        labels: Labels,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum TargetKind {
    Service,
    Pod,
    Workload,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawTarget {
    group: Option<Str>,
    kind: TargetKind,
    #[serde(default, deserialize_with = "field::optional_subdomain")]
    name: Option<Str>,
    label_selector: Option<LabelSelector>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct LabelSelector {
    #[serde(default)]
    match_labels: Labels,
    #[serde(
        default,
        rename = "matchExpressions",
        deserialize_with = "value::unbuilt"
    )]
    _match_expressions: (),
}

impl TryFrom<RawTarget> for PolicyTarget {
    type Error = String;

    fn try_from(raw: RawTarget) -> Result<Self, String> {
        let group = if raw.kind == TargetKind::Workload {
            "underpass.dev"
        } else {
            ""
        };
        if raw.group.as_deref().is_some_and(|g| g != group) {
            return Err(format!("group of this kind must be \"{group}\""));
        }
        match (raw.kind, raw.name, raw.label_selector) {
            (TargetKind::Service, Some(name), None) => Ok(Self::Service { name }),
            (TargetKind::Service, ..) => Err("a Service is named by `name`, nothing else".into()),
            (_, Some(_), Some(_)) => Err("give either `name` or `labelSelector`".into()),
            (kind, name, selector) => {
                let labels = selector.map(|s| s.match_labels).unwrap_or_default();
                Ok(Self::Workloads { kind, name, labels })
            }
        }
    }
}

/// Allows every listed source on every listed port; with `methods` or `paths` only requests that
/// satisfy them, and nothing that is no HTTP. A worker judges those; without one the rule allows nothing.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Rule {
    /// Empty: everybody.
    #[serde(default)]
    pub sources: Vec<Source>,
    /// Empty: every port.
    #[serde(default)]
    pub ports: Vec<PolicyPort>,
    /// Empty: each.
    #[serde(default, deserialize_with = "value::methods")]
    pub methods: Vec<Str>,
    /// Exact, or a prefix of the text with `*` at its end; in normal form. Empty: each.
    #[serde(default, deserialize_with = "value::paths")]
    pub paths: Vec<Str>,
}

impl Rule {
    /// Requests must be judged.
    pub fn of_requests(&self) -> bool {
        !self.methods.is_empty() || !self.paths.is_empty()
    }
}

/// Everybody who matches at least one of the fields.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawSource")]
pub struct Source {
    pub service_accounts: Vec<ServiceAccountRef>,
    /// SPIFFE identities, as `spiffe://cluster.local/ns/shop/sa/web`.
    pub spiffe: Vec<Str>,
    pub namespaces: Vec<Str>,
    /// Sources off this node that are no workload, by address.
    pub ip_blocks: Vec<IpBlock>,
    /// Processes of the destination's node that are no workload.
    pub host: bool,
    /// Sources off the destination's node that are no workload.
    pub outside: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawSource {
    #[serde(default)]
    service_accounts: Vec<ServiceAccountRef>,
    #[serde(default, deserialize_with = "value::spiffe_ids")]
    spiffe: Vec<Str>,
    #[serde(default, deserialize_with = "value::labels")]
    namespaces: Vec<Str>,
    #[serde(default)]
    ip_blocks: Vec<IpBlock>,
    #[serde(default)]
    host: bool,
    #[serde(default)]
    outside: bool,
}

impl TryFrom<RawSource> for Source {
    type Error = &'static str;

    fn try_from(raw: RawSource) -> Result<Self, Self::Error> {
        let RawSource {
            service_accounts,
            spiffe,
            namespaces,
            ip_blocks,
            host,
            outside,
        } = raw;
        let nobody = service_accounts.is_empty()
            && spiffe.is_empty()
            && namespaces.is_empty()
            && ip_blocks.is_empty();
        if nobody && !host && !outside {
            return Err("a source must name somebody");
        }
        Ok(Self {
            service_accounts,
            spiffe,
            namespaces,
            ip_blocks,
            host,
            outside,
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceAccountRef {
    /// Default: the policy's namespace.
    #[serde(default, deserialize_with = "field::optional_label")]
    pub namespace: Option<Str>,
    #[serde(deserialize_with = "field::subdomain")]
    pub name: Str,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PolicyPort {
    #[serde(deserialize_with = "value::port")]
    pub port: u16,
    #[serde(default, deserialize_with = "value::policy_protocol")]
    pub protocol: Protocol,
    #[serde(default, rename = "endPort", deserialize_with = "value::unbuilt")]
    _end_port: (),
}

/// What runs on a machine and is no Pod. With a cgroup, network namespace or systemd unit it runs
/// on this node; with addresses only, elsewhere.
///
/// ```yaml
/// apiVersion: underpass.dev/v1alpha1
/// kind: Workload
/// metadata: { name: ledger, namespace: shop, labels: { app: ledger } }
/// spec: { serviceAccountName: ledger, cgroup: shop/ledger, addresses: [10.1.0.3] }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Workload {
    pub metadata: Meta,
    pub spec: WorkloadSpec,
    #[serde(default, rename = "status", deserialize_with = "field::ignored")]
    _status: (),
    // Read before; they are here again if they are written after the rest.
    #[serde(default, rename = "apiVersion", deserialize_with = "field::ignored")]
    _api_version: (),
    #[serde(default, rename = "kind", deserialize_with = "field::ignored")]
    _kind: (),
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawWorkload")]
pub struct WorkloadSpec {
    pub service_account_name: Option<Str>,
    /// Where it runs on this node; `None`: elsewhere.
    pub locator: Option<Locator>,
    pub addresses: Box<[IpAddr]>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawWorkload {
    #[serde(default, deserialize_with = "field::optional_subdomain")]
    service_account_name: Option<Str>,
    cgroup: Option<Str>,
    netns: Option<Str>,
    systemd_unit: Option<Str>,
    #[serde(default, deserialize_with = "value::addresses")]
    addresses: Box<[IpAddr]>,
}

impl TryFrom<RawWorkload> for WorkloadSpec {
    type Error = String;

    fn try_from(raw: RawWorkload) -> Result<Self, String> {
        let RawWorkload {
            service_account_name,
            cgroup,
            netns,
            systemd_unit,
            addresses,
        } = raw;
        let locator = match (cgroup, netns, systemd_unit) {
            (Some(path), None, None) => Some(Locator::Cgroup(value::cgroup_path(&path)?)),
            (None, Some(netns), None) => Some(Locator::Netns(value::netns(&netns)?)),
            (None, None, Some(unit)) => Some(Locator::SystemdUnit(value::unit(&unit)?)),
            (None, None, None) if !addresses.is_empty() => None,
            (None, None, None) => {
                return Err(
                    "give cgroup, netns or systemdUnit, or addresses if it runs elsewhere".into(),
                );
            }
            _ => return Err("give only one of cgroup, netns and systemdUnit".into()),
        };
        Ok(Self {
            service_account_name,
            locator,
            addresses,
        })
    }
}
