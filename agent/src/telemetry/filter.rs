//! The filter of `ListConnections`, checked once and then applied to each row.

use std::net::{IpAddr, SocketAddr};

use underpass_abi::reason::code;
use underpass_api::v1alpha1 as api;

use crate::problem::Problem;

pub const VERDICTS: [&str; 4] = ["allowed", "denied", "audited", "refused"];
pub const STATES: [&str; 6] = [
    "opening",
    "established",
    "closing",
    "closed",
    "failed",
    "refused",
];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    from: Option<End>,
    to: Option<End>,
    service: Option<End>,
    verdict: Option<String>,
    state: Option<String>,
}

/// What a filter says of one end or of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    Address(IpAddr),
    /// `host` or `outside`.
    Kind(String),
    Namespace(String),
    Object {
        namespace: Option<String>,
        name: String,
    },
}

impl Filter {
    pub fn parse(filter: &api::ConnectionFilter) -> Result<Self, Problem> {
        let service = end(&filter.service)?;
        if matches!(
            service,
            Some(End::Address(_) | End::Namespace(_) | End::Kind(_))
        ) {
            return Err(bad(
                "service",
                &filter.service,
                "\"namespace/name\" or \"name\"",
            ));
        }
        Ok(Self {
            from: end(&filter.from)?,
            to: end(&filter.to)?,
            service,
            verdict: word("verdict", &filter.verdict, &VERDICTS)?,
            state: word("state", &filter.state, &STATES)?,
        })
    }

    pub fn matches(&self, row: &api::Connection) -> bool {
        let is = |wanted: &Option<String>, value: &str| wanted.as_ref().is_none_or(|w| w == value);
        is(&self.verdict, &row.verdict)
            && is(&self.state, &row.state)
            && self.from.as_ref().is_none_or(|e| e.is(row.source.as_ref()))
            && self
                .to
                .as_ref()
                .is_none_or(|e| e.is(row.destination.as_ref()))
            && self
                .service
                .as_ref()
                .is_none_or(|e| e.names_service(&row.service))
    }
}

impl End {
    fn is(&self, peer: Option<&api::Peer>) -> bool {
        let Some(peer) = peer else { return false };
        match self {
            Self::Address(ip) => peer
                .address
                .parse::<SocketAddr>()
                .is_ok_and(|a| a.ip().to_canonical() == *ip),
            _ => self.names(&peer.workload),
        }
    }

    fn names(&self, object: &str) -> bool {
        match (self, object.split_once('/')) {
            (Self::Kind(kind), None) => kind == object,
            (Self::Namespace(wanted), Some((namespace, _))) => wanted == namespace,
            (Self::Object { namespace, name }, Some((its_namespace, its_name))) => {
                name == its_name && namespace.as_ref().is_none_or(|n| n == its_namespace)
            }
            _ => false,
        }
    }

    fn names_service(&self, service: &str) -> bool {
        self.names(
            service
                .rsplit_once(':')
                .map_or(service, |(object, _port)| object),
        )
    }
}

/// Whether `service` (`ns/name:port`) is what a user calls `wanted` (`ns/name`, `name` or empty).
pub fn is_service(service: &str, wanted: &str) -> Result<bool, Problem> {
    Ok(end(wanted)?.is_none_or(|e| e.names_service(service)))
}

fn end(text: &str) -> Result<Option<End>, Problem> {
    const FORMS: &str =
        "\"namespace/name\", \"namespace/\", \"name\", \"host\", \"outside\" or an address";
    if text.is_empty() {
        return Ok(None);
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(Some(End::Address(ip.to_canonical())));
    }
    if matches!(text, "host" | "outside") {
        return Ok(Some(End::Kind(text.to_owned())));
    }
    let (namespace, name) = match text.split_once('/') {
        Some((namespace, "")) => return named(namespace).map(|n| Some(End::Namespace(n))),
        Some((namespace, name)) => (Some(named(namespace)?), name),
        None => (None, text),
    };
    fn named(text: &str) -> Result<String, Problem> {
        let ok = !text.is_empty()
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
        if ok {
            Ok(text.to_owned())
        } else {
            Err(bad("filter", text, FORMS))
        }
    }
    Ok(Some(End::Object {
        namespace,
        name: named(name)?,
    }))
}

fn word(field: &str, text: &str, known: &[&str]) -> Result<Option<String>, Problem> {
    if text.is_empty() {
        return Ok(None);
    }
    if !known.contains(&text) {
        return Err(bad(field, text, &known.join(", ")));
    }
    Ok(Some(text.to_owned()))
}

fn bad(field: &str, text: &str, expected: &str) -> Problem {
    Problem::error(
        code::BAD_FILTER,
        format!("{field} \"{text}\", expected {expected}"),
        field,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> api::Connection {
        let peer = |workload: &str, address: &str| {
            Some(api::Peer {
                workload: workload.into(),
                address: address.into(),
                ..api::Peer::default()
            })
        };
        api::Connection {
            source: peer("shop/web", "10.0.0.1:4000"),
            destination: peer("outside", "[fd00::2]:80"),
            service: "shop/ledger:8080".into(),
            verdict: "allowed".into(),
            state: "closed".into(),
            ..api::Connection::default()
        }
    }

    fn matches(from: &str, to: &str, service: &str) -> bool {
        let filter = api::ConnectionFilter {
            from: from.into(),
            to: to.into(),
            service: service.into(),
            ..api::ConnectionFilter::default()
        };
        Filter::parse(&filter).unwrap().matches(&row())
    }

    #[test]
    fn each_form_selects_what_it_names() {
        for from in [
            "",
            "web",
            "shop/web",
            "shop/",
            "10.0.0.1",
            "::ffff:10.0.0.1",
        ] {
            assert!(matches(from, "", ""), "{from}");
        }
        for from in ["we", "other/web", "other/", "10.0.0.2", "host"] {
            assert!(!matches(from, "", ""), "{from}");
        }
        assert!(matches("", "outside", "ledger") && matches("", "fd00::2", "shop/ledger"));
        assert!(!matches("", "host", "") && !matches("", "", "shop/led"));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let bad = |f: api::ConnectionFilter| Filter::parse(&f).unwrap_err().code;
        let empty = api::ConnectionFilter::default;
        assert_eq!(
            bad(api::ConnectionFilter {
                from: "a/b/c".into(),
                ..empty()
            }),
            code::BAD_FILTER
        );
        assert_eq!(
            bad(api::ConnectionFilter {
                to: "two words".into(),
                ..empty()
            }),
            code::BAD_FILTER
        );
        assert_eq!(
            bad(api::ConnectionFilter {
                service: "ns/".into(),
                ..empty()
            }),
            code::BAD_FILTER
        );
        assert_eq!(
            bad(api::ConnectionFilter {
                verdict: "ok".into(),
                ..empty()
            }),
            code::BAD_FILTER
        );
        assert_eq!(
            bad(api::ConnectionFilter {
                state: "open".into(),
                ..empty()
            }),
            code::BAD_FILTER
        );
    }
}
