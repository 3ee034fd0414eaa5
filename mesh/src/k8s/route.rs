//! `gateway.networking.k8s.io/v1` HTTPRoute, attached to a Service (GEP-1426), as far as a worker will
//! obey it. What the API knows and is not built is refused with its path, and so are unknown fields:
//! a condition that is skipped would send requests elsewhere. Parents of other kinds are others' to obey.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    field::{self, NOT_IMPLEMENTED},
    value,
};
use crate::Str;
use parts::list;

mod parts;

/// An HTTPRoute as a manifest has it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawRoute")]
pub struct Manifest(pub HttpRoute);

/// One HTTPRoute. Names are `namespace/name`. Serialized as it stands here, for snapshots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpRoute {
    pub full_name: Str,
    /// When Kubernetes made the object, as `2026-11-21T19:50:00Z`; such texts sort by time. `None` for
    /// one that was read from a file.
    pub created: Option<Str>,
    /// Empty: it is no route of the mesh.
    pub parents: Vec<Parent>,
    /// Empty: every host. GEP-1426 would have a mesh ignore them; they are obeyed here as they are at a
    /// gateway, since a route that names hosts and gets requests for others surprises more.
    pub hostnames: Vec<Hostname>,
    pub rules: Vec<Rule>,
}

/// The Service whose requests are routed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    pub service: Str,
    /// `None`: each of its ports.
    pub port: Option<u16>,
}

/// In lower case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hostname {
    Exact(Str),
    /// Of `*.example.com` the part `.example.com`; one label or more stand before it.
    Suffix(Str),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    pub name: Option<Str>,
    /// One of them must hold; a manifest has at least one.
    pub matches: Vec<Match>,
    pub backends: Vec<Backend>,
    /// Over the whole of request and response; `None` is no bound.
    pub request_timeout: Option<Duration>,
}

/// Conditions that must all hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Match {
    pub path: PathMatch,
    pub method: Option<Str>,
    /// Names in lower case, each once, and the value.
    pub headers: Vec<(Str, Str)>,
    /// Names, each once, and the value, both decoded.
    pub query: Vec<(Str, Str)>,
}

/// Of absolute paths without dot segments and empty segments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathMatch {
    Exact(Str),
    /// By whole segments: `/a` and `/a/` are `/a`, `/a/` and `/a/b`, not `/ab`.
    Prefix(Str),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    pub service: Str,
    pub port: u16,
    /// Its share of the sum over the rule; 0 to 1,000,000.
    pub weight: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawRoute {
    metadata: RawMeta,
    spec: RawSpec,
    #[serde(default, rename = "status", deserialize_with = "field::ignored")]
    _status: (),
    #[serde(default, rename = "apiVersion", deserialize_with = "field::ignored")]
    _api_version: (),
    #[serde(default, rename = "kind", deserialize_with = "field::ignored")]
    _kind: (),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawMeta {
    #[serde(deserialize_with = "field::subdomain")]
    name: Str,
    #[serde(
        default = "field::default_namespace",
        deserialize_with = "field::label"
    )]
    namespace: Str,
    #[serde(default, deserialize_with = "parts::timestamp")]
    creation_timestamp: Option<Str>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawSpec {
    #[serde(deserialize_with = "list::<_, _, 32>")]
    parent_refs: Vec<RawParent>,
    #[serde(default, deserialize_with = "parts::hostnames")]
    hostnames: Vec<Hostname>,
    #[serde(default, deserialize_with = "list::<_, _, 16>")]
    rules: Vec<RawRule>,
    #[serde(
        default,
        rename = "useDefaultGateways",
        deserialize_with = "value::unbuilt"
    )]
    _use_default_gateways: (),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawParent {
    group: Option<Str>,
    #[serde(default = "parts::gateway")]
    kind: Str,
    #[serde(default, deserialize_with = "field::optional_label")]
    namespace: Option<Str>,
    #[serde(deserialize_with = "field::subdomain")]
    name: Str,
    #[serde(default, deserialize_with = "value::optional_port")]
    port: Option<u16>,
    section_name: Option<Str>,
}

impl RawParent {
    fn is_service(&self) -> bool {
        self.kind == "Service" && matches!(self.group.as_deref(), None | Some("" | "core"))
    }

    fn build(self, home: &str, index: usize) -> Result<Parent, String> {
        let path = format!("spec.parentRefs[{index}]");
        if self.section_name.is_some() {
            let why = "a port is named by its number";
            return Err(format!("{path}.sectionName: {NOT_IMPLEMENTED}{why}"));
        }
        let path = format!("{path}.namespace");
        let why = "a route for the callers of one namespace";
        Ok(Parent {
            service: in_namespace(home, self.namespace, &self.name, &path, why)?,
            port: self.port,
        })
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawRule {
    #[serde(default, deserialize_with = "field::optional_subdomain")]
    name: Option<Str>,
    #[serde(default, deserialize_with = "list::<_, _, 64>")]
    matches: Vec<RawMatch>,
    #[serde(default, deserialize_with = "list::<_, _, 16>")]
    backend_refs: Vec<RawBackend>,
    #[serde(default, deserialize_with = "field::nullable")]
    timeouts: RawTimeouts,
    #[serde(default, rename = "filters", deserialize_with = "value::unbuilt")]
    _filters: (),
    #[serde(default, rename = "retry", deserialize_with = "value::unbuilt")]
    _retry: (),
    #[serde(
        default,
        rename = "sessionPersistence",
        deserialize_with = "value::unbuilt"
    )]
    _session_persistence: (),
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawTimeouts {
    #[serde(default, deserialize_with = "parts::timeout")]
    request: Option<Duration>,
    #[serde(
        default,
        rename = "backendRequest",
        deserialize_with = "value::unbuilt"
    )]
    _backend_request: (),
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawMatch {
    #[serde(default)]
    path: RawPathMatch,
    #[serde(default, deserialize_with = "parts::method")]
    method: Option<Str>,
    #[serde(default, deserialize_with = "list::<_, _, 16>")]
    headers: Vec<RawHeader>,
    #[serde(default, deserialize_with = "list::<_, _, 16>")]
    query_params: Vec<RawParam>,
}

#[derive(Default, Deserialize)]
#[serde(try_from = "RawPath")]
struct RawPathMatch(PathMatch);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPath {
    #[serde(default, rename = "type", deserialize_with = "parts::path_type")]
    kind: PathType,
    #[serde(default = "parts::root")]
    value: Str,
}

#[derive(Default)]
enum PathType {
    Exact,
    #[default]
    Prefix,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHeader {
    #[serde(default, rename = "type", deserialize_with = "parts::exact")]
    _type: (),
    #[serde(deserialize_with = "parts::header_name")]
    name: Str,
    value: Str,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawParam {
    #[serde(default, rename = "type", deserialize_with = "parts::exact")]
    _type: (),
    name: Str,
    value: Str,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawBackend {
    #[serde(default, rename = "group", deserialize_with = "parts::core_group")]
    _group: (),
    #[serde(default, rename = "kind", deserialize_with = "parts::service_kind")]
    _kind: (),
    #[serde(default, deserialize_with = "field::optional_label")]
    namespace: Option<Str>,
    #[serde(deserialize_with = "field::subdomain")]
    name: Str,
    #[serde(deserialize_with = "value::port")]
    port: u16,
    #[serde(default = "parts::one", deserialize_with = "parts::weight")]
    weight: u32,
    #[serde(default, rename = "filters", deserialize_with = "value::unbuilt")]
    _filters: (),
}

/// Most matches of one route (the API's own bound).
const MATCHES_MAX: usize = 128;

impl TryFrom<RawRoute> for Manifest {
    type Error = String;

    fn try_from(raw: RawRoute) -> Result<Self, String> {
        let RawRoute { metadata, spec, .. } = raw;
        let mut rules = spec.rules;
        if rules.is_empty() {
            rules.push(RawRule::default());
        }
        if rules.iter().map(|r| r.matches.len()).sum::<usize>() > MATCHES_MAX {
            return Err(format!("spec.rules: more than {MATCHES_MAX} matches"));
        }
        let home = &metadata.namespace;
        let parents = spec.parent_refs.into_iter().enumerate();
        let parents = parents.filter(|(_, parent)| parent.is_service());
        let parents = parents.map(|(i, parent)| parent.build(home, i));
        let rules = rules.into_iter().enumerate();
        Ok(Self(HttpRoute {
            full_name: arcstr::format!("{home}/{}", metadata.name),
            created: metadata.creation_timestamp,
            parents: parents.collect::<Result<_, String>>()?,
            hostnames: spec.hostnames,
            rules: rules
                .map(|(i, rule)| rule.build(home, i))
                .collect::<Result<_, String>>()?,
        }))
    }
}

/// `namespace/name`, if it is the route's own namespace.
fn in_namespace(
    home: &str,
    namespace: Option<Str>,
    name: &str,
    path: &str,
    why: &str,
) -> Result<Str, String> {
    match namespace {
        Some(other) if other != *home => Err(format!("{path}: {NOT_IMPLEMENTED}{why}")),
        _ => Ok(arcstr::format!("{home}/{name}")),
    }
}

impl RawRule {
    fn build(self, home: &str, index: usize) -> Result<Rule, String> {
        let mut matches: Vec<Match> = self.matches.into_iter().map(RawMatch::build).collect();
        if matches.is_empty() {
            matches.push(RawMatch::default().build());
        }
        let backends = self.backend_refs.into_iter().enumerate().map(|(i, b)| {
            let path = format!("spec.rules[{index}].backendRefs[{i}].namespace");
            let why = "a backend of another namespace needs a ReferenceGrant";
            Ok(Backend {
                service: in_namespace(home, b.namespace, &b.name, &path, why)?,
                port: b.port,
                weight: b.weight,
            })
        });
        Ok(Rule {
            name: self.name,
            matches,
            backends: backends.collect::<Result<_, String>>()?,
            request_timeout: self.timeouts.request,
        })
    }
}

impl RawMatch {
    fn build(self) -> Match {
        let headers = self.headers.into_iter().map(|h| (h.name, h.value));
        let query = self.query_params.into_iter().map(|p| (p.name, p.value));
        Match {
            path: self.path.0,
            method: self.method,
            headers: first_of_each(headers),
            query: first_of_each(query),
        }
    }
}

/// Of equal names only the first counts, as the API says.
fn first_of_each(pairs: impl Iterator<Item = (Str, Str)>) -> Vec<(Str, Str)> {
    let mut found: Vec<(Str, Str)> = Vec::new();
    for (name, value) in pairs {
        if !found.iter().any(|(known, _)| *known == name) {
            found.push((name, value));
        }
    }
    found
}

impl PathMatch {
    pub(crate) fn text(&self) -> &Str {
        match self {
            Self::Exact(path) | Self::Prefix(path) => path,
        }
    }
}

impl Default for PathMatch {
    fn default() -> Self {
        Self::Prefix(parts::root())
    }
}

#[cfg(test)]
mod tests;
