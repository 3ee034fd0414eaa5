//! One connection as the node API shows it, from what the kernel kept of it.

use std::{net::SocketAddr, sync::Arc};

use underpass_abi::{
    Ip,
    reason::{self, code},
    sock::{Layer, SockState, flag},
    tables::NameKind,
    verdict::Verdict,
};
use underpass_api::v1alpha1 as api;

use super::{Interner, Names, Node};

/// Names of a row, resolved when it was taken: indexes are reused after a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels {
    /// `ns/name SPIFFE`, or a word for what is no workload.
    pub source: Arc<str>,
    pub destination: Arc<str>,
    /// `ns/name:port`, or empty.
    pub service: Arc<str>,
    pub policy: Arc<str>,
}

impl Labels {
    pub fn of(s: &SockState, names: &dyn Names, node: &Node, strings: &mut Interner) -> Self {
        let service = names
            .name(NameKind::Service, s.service)
            .filter(|_| s.service != 0);
        let service = service.map_or(String::new(), |n| service_name(n).to_owned());
        Self {
            source: strings.get(&source(s, names, node)),
            destination: strings.get(&destination(s, names, node)),
            service: strings.get(&service),
            policy: strings.get(&policy(s, names)),
        }
    }
}

/// `ns/name:port` of the register's `ns/name:port/proto`.
pub fn service_name(registered: &str) -> &str {
    registered
        .strip_suffix("/tcp")
        .or_else(|| registered.strip_suffix("/udp"))
        .unwrap_or(registered)
}

/// `ns/name` and identity of the register's `ns/name SPIFFE`.
pub fn workload_name(registered: &str) -> (&str, &str) {
    registered.split_once(' ').unwrap_or((registered, ""))
}

fn workload(index: u32, names: &dyn Names) -> String {
    names
        .name(NameKind::Workload, index)
        .map_or_else(|| format!("#{index}"), str::to_owned)
}

fn source(s: &SockState, names: &dyn Names, node: &Node) -> String {
    if s.source != 0 {
        workload(s.source, names)
    } else if s.flags & flag::SOURCE_OUTSIDE != 0 {
        "outside".into()
    } else if s.flags & (flag::SOURCE_HOST | flag::ACTIVE) != 0 {
        "host".into()
    } else {
        owner_of(s.remote, node).into()
    }
}

fn destination(s: &SockState, names: &dyn Names, node: &Node) -> String {
    if s.destination != 0 {
        return workload(s.destination, names);
    }
    if s.flags & flag::ACTIVE == 0 {
        return owner_of(s.local, node).into();
    }
    match endpoint(s) {
        Some((address, _)) => owner_of(address, node).into(),
        // Nothing was chosen, so nothing is known of the destination but its service.
        None => String::new(),
    }
}

/// Where the kernel connected to, or would have if the connect had not been refused.
fn endpoint(s: &SockState) -> Option<(Ip, u16)> {
    if s.remote != Ip::ANY {
        Some((s.remote, s.remote_port))
    } else if s.flags & flag::SERVICE == 0 {
        Some((s.dialed, s.dialed_port))
    } else {
        None
    }
}

fn owner_of(ip: Ip, node: &Node) -> &'static str {
    if ip.is_loopback() || node.addresses.contains(&ip.into()) {
        "host"
    } else {
        "outside"
    }
}

fn policy(s: &SockState, names: &dyn Names) -> String {
    if s.policy != 0 {
        let name = names.name(NameKind::Policy, s.policy);
        return name.map_or_else(String::new, |n| format!("AuthorizationPolicy {n}"));
    }
    let by_default = match Verdict::from_u8(s.verdict) {
        Verdict::Denied | Verdict::Audited => true,
        // Nothing was decided about a connection that is older than the mesh.
        Verdict::Allowed => s.destination != 0 && s.layer != Layer::BeforeMesh as u8,
        Verdict::None | Verdict::Refused => false,
    };
    if by_default {
        "default".into()
    } else {
        String::new()
    }
}

/// Where a row's socket state came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The kernel still has the socket.
    Open,
    Ended,
    /// There never was a connection; the number tells refusals of one socket apart.
    Refused(u64),
}

/// How the agent itself ended a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destroyed {
    /// As in `Connection.policy`.
    pub policy: Arc<str>,
}

/// The row. `now_ns` is `CLOCK_BOOTTIME`.
pub fn to_api(
    s: &SockState,
    seen: Seen,
    labels: &Labels,
    destroyed: Option<&Destroyed>,
    node: &Node,
    now_ns: u64,
) -> api::Connection {
    let active = s.flags & flag::ACTIVE != 0;
    let end_ns = if s.closed_ns == 0 {
        now_ns
    } else {
        s.closed_ns
    };
    let local = address(s.local, s.local_port);
    let remote = endpoint(s).map_or_else(String::new, |(ip, port)| address(ip, port));
    let (source_at, destination_at) = if active {
        (local, remote)
    } else {
        (remote, local)
    };
    let (source, source_id) = workload_name(&labels.source);
    let (destination, destination_id) = workload_name(&labels.destination);
    let state = state(s, seen);
    let ended = matches!(state, "closed" | "failed" | "refused");
    let (sent, received, delivered) = if active {
        (s.tcp.sent, s.tcp.received, s.tcp.delivered)
    } else {
        // The destination's view of the same directions.
        (s.tcp.received, s.tcp.sent, s.tcp.received)
    };
    let before_mesh = s.layer == Layer::BeforeMesh as u8;
    let measured = s.proto == 6 && (s.established_ns != 0 || before_mesh);
    api::Connection {
        id: match seen {
            Seen::Refused(number) => format!("{}/r{number}", node.name),
            _ => format!("{}/{}", node.name, s.cookie),
        },
        source: Some(peer(source, source_id, source_at)),
        destination: Some(peer(destination, destination_id, destination_at.clone())),
        service: labels.service.to_string(),
        original_destination: address(s.dialed, s.dialed_port),
        endpoint: destination_at,
        protocol: if s.proto == 17 { "udp" } else { "tcp" }.into(),
        leg: "app".into(),
        parent: String::new(),
        reporter: if active { "source" } else { "destination" }.into(),
        node: node.name.clone(),
        layer: Layer::from_u8(s.layer).name().into(),
        verdict: Verdict::from_u8(s.verdict).name().into(),
        reason: reason_of(s, seen).into(),
        policy: destroyed.map_or_else(|| labels.policy.to_string(), |d| d.policy.to_string()),
        authn: authn(s, active, source, node).into(),
        state: state.into(),
        // Nobody saw a connection open that is older than the mesh.
        opened_at_ms: if before_mesh {
            0
        } else {
            to_unix_ms(s.opened_ns, node)
        },
        connect_us: (active && s.established_ns >= s.opened_ns && s.established_ns != 0)
            .then(|| (s.established_ns - s.opened_ns) / 1000),
        duration_ms: if before_mesh {
            0
        } else {
            end_ns.saturating_sub(s.opened_ns) / 1_000_000
        },
        bytes_sent: sent,
        bytes_received: received,
        bytes_delivered: delivered,
        segments_out: s.tcp.segments_out,
        retransmits: s.tcp.retransmits,
        srtt_us: (measured && s.tcp.srtt_us != 0).then_some(s.tcp.srtt_us),
        close_reason: if !ended && s.closed_ns == 0 {
            String::new()
        } else if destroyed.is_some() {
            reason::name(code::POLICY_CHANGED).into()
        } else {
            reason::name(s.reason).into()
        },
    }
}

/// One of the proto's states.
pub fn state(s: &SockState, seen: Seen) -> &'static str {
    const ESTABLISHED: u8 = 1;
    if matches!(seen, Seen::Refused(_)) {
        "refused"
    } else if s.flags & flag::FAILED != 0 {
        "failed"
    } else if seen == Seen::Ended {
        "closed"
    } else if s.flags & flag::OPENED == 0 {
        "opening"
    } else if s.flags & (flag::RELEASED | flag::CLOSED) != 0 || s.tcp_state != ESTABLISHED {
        "closing"
    } else {
        "established"
    }
}

fn reason_of(s: &SockState, seen: Seen) -> &'static str {
    match (Layer::from_u8(s.layer), Verdict::from_u8(s.verdict)) {
        (Layer::BeforeMesh, _) => reason::name(code::BEFORE_MESH),
        (_, Verdict::Audited) => reason::name(code::WOULD_DENY),
        (_, Verdict::Denied | Verdict::Refused) => reason::name(s.reason),
        _ if matches!(seen, Seen::Refused(_)) || s.flags & flag::FAILED != 0 => {
            reason::name(s.reason)
        }
        _ => "",
    }
}

/// How the source's identity was proven.
fn authn(s: &SockState, active: bool, source: &str, node: &Node) -> &'static str {
    match (active, s.source != 0) {
        (true, true) if node.by_netns.contains(source) => "netns",
        (true, _) => "cgroup",
        (false, true) => "address",
        (false, false) => "none",
    }
}

fn peer(workload: &str, identity: &str, address: String) -> api::Peer {
    api::Peer {
        workload: workload.into(),
        identity: identity.into(),
        address,
    }
}

/// Empty for an address that was never known.
fn address(ip: Ip, port: u16) -> String {
    if port == 0 && (ip == Ip::ANY || ip == Ip::v4(0)) {
        return String::new();
    }
    SocketAddr::new(ip.into(), port).to_string()
}

pub fn to_unix_ms(boot_ns: u64, node: &Node) -> u64 {
    (boot_ns as i64).saturating_add(node.boot_to_unix_ns).max(0) as u64 / 1_000_000
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        net::{IpAddr, Ipv4Addr},
    };

    use underpass_abi::sock::TcpCounts;

    use super::*;

    fn names() -> BTreeMap<(NameKind, u32), String> {
        BTreeMap::from([
            (
                (NameKind::Workload, 1),
                "shop/web spiffe://cluster.local/ns/shop/sa/web".to_owned(),
            ),
            (
                (NameKind::Workload, 2),
                "shop/ledger spiffe://cluster.local/ns/shop/sa/led".to_owned(),
            ),
            ((NameKind::Service, 3), "shop/ledger:8080/tcp".to_owned()),
            ((NameKind::Policy, 4), "shop/only-web".to_owned()),
        ])
    }

    fn node() -> Node {
        Node {
            name: "n1".into(),
            boot_to_unix_ns: 1_000_000_000,
            ..Node::default()
        }
    }

    fn ip(last: u8) -> Ip {
        IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)).into()
    }

    fn dialed() -> SockState {
        SockState {
            cookie: 77,
            cgroup: 5,
            opened_ns: 2_000_000_000,
            established_ns: 2_000_500_000,
            local: ip(1),
            remote: ip(2),
            dialed: ip(9),
            local_port: 40000,
            remote_port: 8081,
            dialed_port: 8080,
            proto: 6,
            layer: 1,
            source: 1,
            destination: 2,
            service: 3,
            policy: 4,
            verdict: 1,
            tcp_state: 1,
            flags: flag::ACTIVE | flag::REWRITTEN | flag::OPENED | flag::SERVICE,
            tcp: TcpCounts {
                sent: 10,
                received: 20,
                delivered: 9,
                srtt_us: 33,
                ..TcpCounts::default()
            },
            ..SockState::default()
        }
    }

    fn row(s: &SockState, seen: Seen) -> api::Connection {
        let labels = Labels::of(s, &names(), &node(), &mut Interner::default());
        to_api(s, seen, &labels, None, &node(), 3_000_000_000)
    }

    #[test]
    fn an_open_connection_is_shown_from_its_source() {
        let row = row(&dialed(), Seen::Open);
        assert_eq!(row.id, "n1/77");
        let source = row.source.unwrap();
        assert_eq!(
            (source.workload.as_str(), source.address.as_str()),
            ("shop/web", "10.0.0.1:40000")
        );
        assert_eq!(source.identity, "spiffe://cluster.local/ns/shop/sa/web");
        assert_eq!(row.service, "shop/ledger:8080");
        assert_eq!(
            (row.original_destination.as_str(), row.endpoint.as_str()),
            ("10.0.0.9:8080", "10.0.0.2:8081")
        );
        assert_eq!(
            (row.state.as_str(), row.authn.as_str()),
            ("established", "cgroup")
        );
        assert_eq!(row.policy, "AuthorizationPolicy shop/only-web");
        assert_eq!(
            (row.opened_at_ms, row.connect_us, row.duration_ms),
            (3_000, Some(500), 1_000)
        );
        assert_eq!(
            (row.bytes_sent, row.bytes_received, row.bytes_delivered),
            (10, 20, 9)
        );
        assert_eq!((row.srtt_us, row.close_reason.as_str()), (Some(33), ""));
    }

    #[test]
    fn a_connection_from_elsewhere_is_shown_by_its_destination() {
        let s = SockState {
            cgroup: 0,
            source: 0,
            flags: flag::OPENED | flag::SOURCE_OUTSIDE,
            local: ip(2),
            remote: ip(200),
            ..dialed()
        };
        let row = row(&s, Seen::Open);
        assert_eq!(row.reporter, "destination");
        assert_eq!(row.source.unwrap().workload, "outside");
        assert_eq!(
            (row.bytes_sent, row.bytes_received),
            (20, 10),
            "directions are the source's"
        );
        assert_eq!((row.authn.as_str(), row.connect_us), ("none", None));
    }

    #[test]
    fn a_refused_connect_names_its_reason() {
        let s = SockState {
            verdict: Verdict::Denied as u8,
            reason: code::POLICY_DENIED,
            established_ns: 0,
            closed_ns: 2_000_000_000,
            flags: flag::ACTIVE | flag::SERVICE,
            local: Ip::ANY,
            local_port: 0,
            remote: Ip::ANY,
            remote_port: 0,
            ..dialed()
        };
        let row = row(&s, Seen::Refused(3));
        assert_eq!((row.id.as_str(), row.state.as_str()), ("n1/r3", "refused"));
        assert_eq!(
            (row.endpoint.as_str(), row.original_destination.as_str()),
            ("", "10.0.0.9:8080")
        );
        assert_eq!(
            (row.verdict.as_str(), row.reason.as_str()),
            ("denied", "POLICY_DENIED")
        );
        assert_eq!(
            (row.srtt_us, row.connect_us, row.duration_ms),
            (None, None, 0)
        );
    }

    #[test]
    fn the_agents_own_reset_names_the_policy() {
        let s = SockState {
            closed_ns: 2_600_000_000,
            reason: code::RESET_LOCALLY,
            flags: dialed().flags | flag::RELEASED | flag::CLOSED,
            ..dialed()
        };
        let labels = Labels::of(&s, &names(), &node(), &mut Interner::default());
        let destroyed = Destroyed {
            policy: "AuthorizationPolicy shop/new".into(),
        };
        let row = to_api(&s, Seen::Ended, &labels, Some(&destroyed), &node(), 0);
        assert_eq!(row.close_reason, "POLICY_CHANGED");
        assert_eq!(row.policy, "AuthorizationPolicy shop/new");
        assert_eq!((row.state.as_str(), row.duration_ms), ("closed", 600));
    }
}
