//! Filters, checked before anything is asked of the agent.

use std::net::IpAddr;

use underpass_abi::reason::code;
use underpass_api::v1alpha1::ConnectionFilter;

use super::{Conns, Namespace};
use crate::error::CliError;

/// What `--service` names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceFilter {
    /// Goes to the agent.
    pub name: String,
    /// The agent knows no port in a filter, so this is compared here.
    pub port: Option<u16>,
}

impl ServiceFilter {
    pub fn parse(text: &str) -> Result<Self, CliError> {
        let (name, port) = match text.split_once(':') {
            None => (text, None),
            Some((name, port)) => {
                // As tables print it: `shop/ledger:8080`, and in some places `/tcp` behind it.
                let port = port.split('/').next().unwrap_or(port);
                let Ok(port) = port.parse() else {
                    return Err(bad_filter("service", text, SERVICE));
                };
                (name, Some(port))
            }
        };
        if text.is_empty() || is_name(name) || is_qualified(name) {
            return Ok(Self {
                name: name.to_owned(),
                port,
            });
        }
        Err(bad_filter("service", text, SERVICE))
    }

    /// Whether a row's `namespace/name:port` (in some places with `/tcp` behind it) fits; the name was
    /// compared by the agent.
    pub fn matches(&self, service: &str) -> bool {
        let Some(wanted) = self.port else { return true };
        let port = service
            .rsplit_once(':')
            .and_then(|(_, port)| port.split('/').next());
        port.is_some_and(|port| port.parse() == Ok(wanted))
    }
}

impl Namespace {
    pub fn check(&self) -> Result<(), CliError> {
        match &self.namespace {
            Some(n) if !is_name(n) => Err(bad_filter("namespace", n, "a namespace's name")),
            _ => Ok(()),
        }
    }

    /// Whether any of these `namespace/name…` is in the namespace asked for.
    pub fn matches<'a>(&self, objects: impl IntoIterator<Item = &'a str>) -> bool {
        let Some(wanted) = &self.namespace else {
            return true;
        };
        objects
            .into_iter()
            .any(|o| o.split_once('/').is_some_and(|(ns, _)| ns == wanted))
    }
}

impl Conns {
    /// The filter as the agent takes it, and the part that is compared here.
    pub fn filter(&self) -> Result<(ConnectionFilter, ServiceFilter), CliError> {
        let service = ServiceFilter::parse(&self.service)?;
        self.namespace.check()?;
        let filter = ConnectionFilter {
            from: peer("from", &self.from)?,
            to: peer("to", &self.to)?,
            service: service.name.clone(),
            verdict: one_of("verdict", &self.verdict, &VERDICTS)?,
            state: one_of("state", &self.state, &STATES)?,
        };
        Ok((filter, service))
    }
}

const VERDICTS: [&str; 4] = ["allowed", "denied", "audited", "refused"];
const STATES: [&str; 6] = [
    "opening",
    "established",
    "closing",
    "closed",
    "failed",
    "refused",
];
const PEER: &str = "namespace/name, namespace/, name, host, outside, or an address";
const SERVICE: &str = "namespace/name or name, with :PORT if only one port is meant";

fn peer(flag: &str, text: &str) -> Result<String, CliError> {
    let namespace_only = text.strip_suffix('/').is_some_and(is_name);
    if text.is_empty() || namespace_only || is_end(text) {
        return Ok(text.to_owned());
    }
    Err(bad_filter(flag, text, PEER))
}

fn one_of(flag: &str, text: &str, known: &[&str]) -> Result<String, CliError> {
    if text.is_empty() || known.contains(&text) {
        return Ok(text.to_owned());
    }
    Err(bad_filter(
        flag,
        text,
        &format!("one of: {}", known.join(", ")),
    ))
}

fn bad_filter(flag: &str, text: &str, wanted: &str) -> CliError {
    CliError::usage(
        code::BAD_FILTER,
        format!("--{flag} `{text}` is not {wanted}"),
    )
}

/// A name, `namespace/name` or an address.
pub fn is_end(text: &str) -> bool {
    is_name(text) || is_qualified(text) || text.parse::<IpAddr>().is_ok()
}

fn is_qualified(text: &str) -> bool {
    text.split_once('/')
        .is_some_and(|(namespace, name)| is_name(namespace) && is_name(name))
}

/// A Kubernetes name (DNS subdomain, RFC 1123).
fn is_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = text.as_bytes();
    bytes.len() <= 253
        && bytes.iter().all(|b| inner(*b))
        && edge(bytes.first())
        && edge(bytes.last())
}
