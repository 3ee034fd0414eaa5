//! One connection as the node API shows it, from what the kernel kept of it.

use std::{borrow::Cow, net::SocketAddr, sync::Arc};

use underpass_abi::{
    Ip,
    reason::{self, code},
    sock::{Layer, SockState, flag},
    tables::NameKind,
    verdict::Verdict,
};
use underpass_api::v1alpha1 as api;

use super::{Interner, Names, Node};

/// Who is at one end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    Workload(u32),
    /// A process of this node outside every workload.
    Host,
    Outside,
    /// Nothing was chosen, so nothing is known of the destination but its service.
    Unknown,
}

/// Everything that the names of a row depend on: few kinds make up most connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kind {
    source: End,
    destination: End,
    service: u32,
    policy: u32,
    verdict: u8,
    layer: u8,
}

impl Kind {
    pub fn of(s: &SockState, node: &Node) -> Self {
        Self {
            source: source(s, node),
            destination: destination(s, node),
            service: s.service.into(),
            policy: s.policy.into(),
            verdict: s.verdict,
            layer: s.layer,
        }
    }
}

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
    pub fn of(kind: &Kind, names: &dyn Names, strings: &mut Interner) -> Self {
        let service = names
            .name(NameKind::Service, kind.service)
            .filter(|_| kind.service != 0);
        Self {
            source: strings.get(&end(kind.source, names)),
            destination: strings.get(&end(kind.destination, names)),
            service: strings.get(service.map_or("", service_name)),
            policy: strings.get(&policy(kind, names)),
        }
    }

    /// The same with another policy.
    pub fn because_of(&self, policy: Arc<str>) -> Arc<Self> {
        Arc::new(Self {
            policy,
            ..self.clone()
        })
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

fn end(end: End, names: &dyn Names) -> Cow<'_, str> {
    match end {
        End::Workload(index) => match names.name(NameKind::Workload, index) {
            Some(name) => name.into(),
            None => format!("#{index}").into(),
        },
        End::Host => "host".into(),
        End::Outside => "outside".into(),
        End::Unknown => "".into(),
    }
}

fn source(s: &SockState, node: &Node) -> End {
    if s.source != 0 {
        End::Workload(s.source.into())
    } else if s.flags & flag::SOURCE_OUTSIDE != 0 {
        End::Outside
    } else if s.flags & (flag::SOURCE_HOST | flag::ACTIVE) != 0 {
        End::Host
    } else {
        owner_of(s.remote, node)
    }
}

fn destination(s: &SockState, node: &Node) -> End {
    if s.flags & (flag::DOOR | flag::ACTIVE) == flag::DOOR | flag::ACTIVE {
        // It ends at the worker of its own source; the worker's leg says who answered.
        End::Unknown
    } else if s.destination != 0 {
        End::Workload(s.destination.into())
    } else if s.flags & flag::ACTIVE == 0 {
        owner_of(s.local, node)
    } else {
        endpoint(s).map_or(End::Unknown, |(address, _)| owner_of(address, node))
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

fn owner_of(ip: Ip, node: &Node) -> End {
    if ip.is_loopback() || node.addresses.contains(&ip.into()) {
        End::Host
    } else {
        End::Outside
    }
}

fn policy(kind: &Kind, names: &dyn Names) -> String {
    if kind.policy != 0 {
        let name = names.name(NameKind::Policy, kind.policy);
        return name.map_or_else(String::new, |n| format!("AuthorizationPolicy {n}"));
    }
    let by_default = match Verdict::from_u8(kind.verdict) {
        Verdict::Denied | Verdict::Audited => true,
        // Nothing was decided about a connection that is older than the mesh.
        Verdict::Allowed => {
            matches!(kind.destination, End::Workload(_)) && kind.layer != Layer::BeforeMesh as u8
        }
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

/// The row. `destroyed`: the close reason if the agent itself ended it, else 0. `now_ns` is
/// `CLOCK_BOOTTIME`.
pub fn to_api(
    s: &SockState,
    seen: Seen,
    labels: &Labels,
    destroyed: u16,
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
        leg: if s.flags & flag::LEG != 0 {
            "upstream"
        } else {
            "app"
        }
        .into(),
        parent: String::new(),
        reporter: if active { "source" } else { "destination" }.into(),
        node: node.name.clone(),
        layer: Layer::from_u8(s.layer).name().into(),
        verdict: Verdict::from_u8(s.verdict).name().into(),
        reason: reason_of(s, seen).into(),
        policy: labels.policy.to_string(),
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
        bytes_shortcut: s.tcp.shortcut_sent + s.tcp.shortcut_received,
        shortcut_reason: reason::name(s.tcp.off_shortcut).into(),
        close_reason: if !ended && s.closed_ns == 0 {
            String::new()
        } else if destroyed != 0 {
            reason::name(destroyed).into()
        } else {
            reason::name(cause(s)).into()
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
            reason::name(cause(s))
        }
        _ => "",
    }
}

/// Why it ended. The kernel saw only a reset of what a policy allows, but the other end could not know
/// who asked.
fn cause(s: &SockState) -> u16 {
    let unproven = s.flags & flag::FLOW_FAILED != 0 && s.policy != 0;
    if s.reason == code::PEER_REFUSED && unproven {
        code::FLOW_TABLE_FULL
    } else {
        s.reason
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
mod tests;
