//! Connections that are older than the mesh: established sockets of guarded namespaces that touch a
//! workload and of which the programs keep no state. sock_diag counts them until they end.

use std::collections::{BTreeMap, HashMap, HashSet};

use underpass_abi::{
    Ip,
    reason::code,
    sock::{Event, EventKind, Layer, SockState, TcpCounts, flag},
    tables::NameKind,
    verdict::Verdict,
};
use underpass_mesh::{Str, plan::Workload};

use super::{Control, RegisteredNames};
use crate::{
    kernel::{
        Netns,
        diag::{self, DiagSocket},
    },
    log,
};

/// Older connections that are followed, at most.
pub const MAX: usize = 4_096;

#[derive(Debug, Default)]
pub struct Before {
    /// By namespace and cookie: the row at the last look, if the socket has one of its own.
    sockets: BTreeMap<u64, HashMap<u64, Option<SockState>>>,
    /// Ports on which somebody listened, to tell who dialed.
    listening: HashSet<(u64, u16)>,
}

impl Control {
    /// Looks for them; called when namespaces or workloads changed.
    pub(super) fn find_older_connections(&mut self) {
        let Ok(mut known) = self.kernel.sockets() else {
            return;
        };
        let owners = self.discovery.cgroup_owners();
        let all: Vec<Netns> = self.namespaces.all().cloned().collect();
        let mut found: Vec<(u64, DiagSocket)> = Vec::new();
        let mut before = Before::default();
        for netns in &all {
            for socket in list(netns, diag::Which::Listening) {
                before.listening.insert((netns.cookie, socket.local_port));
            }
            let sockets = list(netns, diag::Which::Connected);
            let here = sockets
                .into_iter()
                .filter(|s| s.state == 1 && s.cookie != 0);
            let touching = here.filter(|s| self.touches(s, netns, &owners));
            found.extend(touching.map(|s| (netns.cookie, s)));
        }
        // Those that opened while the lists were read have state by now.
        let Ok(later) = self.kernel.sockets() else {
            return;
        };
        known.extend(later);
        let unknown = unknown(found, &known);
        self.counts.older_left_out += unknown.len().saturating_sub(MAX) as u64;
        for (netns, socket) in unknown.into_iter().take(MAX) {
            let last = self
                .before
                .sockets
                .get(&netns)
                .and_then(|m| m.get(&socket.cookie).copied());
            before
                .sockets
                .entry(netns)
                .or_default()
                .insert(socket.cookie, last.flatten());
        }
        self.before = before;
    }

    /// Their state now. Those that ended become ended rows.
    pub(super) fn older_connections(&mut self) -> Vec<SockState> {
        if self.before.sockets.is_empty() {
            return Vec::new();
        }
        let owners = self.discovery.cgroup_owners();
        let mut now: Vec<(SockState, u64)> = Vec::new();
        let mut ended: Vec<SockState> = Vec::new();
        for (cookie, wanted) in &mut self.before.sockets {
            let sockets = match self.namespaces.get(*cookie) {
                Some(netns) => list(netns, diag::Which::Connected),
                None => Vec::new(),
            };
            let here: HashMap<u64, &DiagSocket> = sockets.iter().map(|s| (s.cookie, s)).collect();
            wanted.retain(|cookie, last| {
                let still = here.contains_key(cookie);
                ended.extend(last.filter(|_| !still));
                still
            });
            let listening = &self.before.listening;
            let still = wanted.keys().filter_map(|w| here.get(w));
            now.extend(still.map(|s| (shape(s, *cookie, listening), s.cgroup)));
        }
        self.before.sockets.retain(|_, wanted| !wanted.is_empty());
        let rows = self.rows_of(now, &owners);
        for row in &rows {
            if let Some(wanted) = self.before.sockets.get_mut(&row.netns) {
                wanted.insert(row.cookie, Some(*row));
            }
        }
        self.end_older(ended);
        rows
    }

    /// One row for each connection, with the workloads at its ends.
    fn rows_of(&self, now: Vec<(SockState, u64)>, owners: &HashMap<u64, Str>) -> Vec<SockState> {
        let own = |(s, cgroup): &(SockState, u64)| self.index(self.owner(s, owners.get(cgroup)));
        let ends: HashMap<Tuple, u16> = now
            .iter()
            .map(|end| {
                (
                    (
                        end.0.local,
                        end.0.local_port,
                        end.0.remote,
                        end.0.remote_port,
                    ),
                    own(end),
                )
            })
            .collect();
        let far_end = |s: &SockState| ends.get(&(s.remote, s.remote_port, s.local, s.local_port));
        let mut rows = Vec::new();
        for end in now {
            let mut s = end.0;
            let (far, dialed) = (far_end(&s).copied(), s.flags & flag::ACTIVE != 0);
            // Both ends on this node: the one that dialed is the row.
            if !dialed && far.is_some() {
                continue;
            }
            let near = own(&end);
            let far = far.unwrap_or_else(|| self.index(self.plan.workload_at(s.remote.into())));
            (s.source, s.destination) = if dialed { (near, far) } else { (far, near) };
            rows.push(s);
        }
        rows
    }

    /// Nobody told how they ended.
    fn end_older(&mut self, ended: Vec<SockState>) {
        let at_ns = self.now();
        let names = RegisteredNames(self.tables.names());
        for last in ended {
            let sock = SockState {
                closed_ns: at_ns,
                flags: last.flags | flag::RELEASED | flag::CLOSED,
                reason: code::NOT_OBSERVED,
                ..last
            };
            let event = Event {
                kind: EventKind::Closed as u32,
                pid: 0,
                at_ns,
                sock,
            };
            self.table.take(&event, &names, &self.node);
        }
    }

    /// Whether a workload of the mesh is at either end.
    fn touches(&self, s: &DiagSocket, netns: &Netns, owners: &HashMap<u64, Str>) -> bool {
        let state = shape(s, netns.cookie, &HashSet::new());
        let near = self.owner(&state, owners.get(&s.cgroup));
        let far = self.plan.workload_at(s.remote.into());
        near.into_iter().chain(far).any(Workload::enrolled)
    }

    /// Whose socket it is: by cgroup, by a namespace of its own, by address.
    fn owner(&self, s: &SockState, by_cgroup: Option<&Str>) -> Option<&Workload> {
        if let Some(workload) = by_cgroup.and_then(|n| self.plan.workload(n)) {
            return Some(workload);
        }
        if s.netns != self.host.cookie {
            let mut there = self
                .plan
                .workloads()
                .iter()
                .filter(|w| w.netns() == s.netns);
            // Several share it: the namespace tells nothing.
            if let (Some(only), None) = (there.next(), there.next()) {
                return Some(only);
            }
        }
        self.plan.workload_at(s.local.into())
    }

    fn index(&self, workload: Option<&Workload>) -> u16 {
        let name = workload.map(|w| format!("{} {}", w.full_name, w.identity));
        name.and_then(|n| self.tables.names().find(NameKind::Workload, &n))
            .and_then(|index| index.try_into().ok())
            .unwrap_or(0)
    }
}

/// Local and remote end.
type Tuple = (Ip, u16, Ip, u16);

/// Those of which the programs keep no state, neither at this end nor (for accepted sockets whose
/// source is on this node) at the other.
fn unknown(found: Vec<(u64, DiagSocket)>, known: &[SockState]) -> Vec<(u64, DiagSocket)> {
    let cookies: HashSet<u64> = known.iter().map(|s| s.cookie).collect();
    let sources: HashSet<Tuple> = known
        .iter()
        .map(|s| (s.local, s.local_port, s.remote, s.remote_port))
        .collect();
    let is_known = |s: &DiagSocket| {
        cookies.contains(&s.cookie)
            || sources.contains(&(s.remote, s.remote_port, s.local, s.local_port))
    };
    found.into_iter().filter(|(_, s)| !is_known(s)).collect()
}

fn list(netns: &Netns, which: diag::Which) -> Vec<DiagSocket> {
    diag::sockets(netns, which).unwrap_or_else(|error| {
        log::warn(error.code, &error.to_string());
        Vec::new()
    })
}

/// As the programs would keep it. Times are unknown.
fn shape(s: &DiagSocket, netns: u64, listening: &HashSet<(u64, u16)>) -> SockState {
    let active = !listening.contains(&(netns, s.local_port));
    let tcp = s.tcp.unwrap_or_default();
    SockState {
        cookie: s.cookie,
        netns,
        local: s.local,
        remote: s.remote,
        dialed: if active { s.remote } else { s.local },
        local_port: s.local_port,
        remote_port: s.remote_port,
        dialed_port: if active { s.remote_port } else { s.local_port },
        proto: s.proto,
        layer: Layer::BeforeMesh as u8,
        verdict: Verdict::Allowed as u8,
        tcp_state: s.state,
        flags: flag::OPENED | if active { flag::ACTIVE } else { 0 },
        tcp: TcpCounts {
            sent: tcp.bytes_sent,
            received: tcp.bytes_received,
            // The SYN of the end that dialed counts as one byte.
            delivered: tcp.bytes_acked.saturating_sub(u64::from(active)),
            segments_out: tcp.segments_out,
            retransmits: tcp.retransmits,
            srtt_us: tcp.srtt_us,
            error: 0,
            ..TcpCounts::default()
        },
        ..SockState::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> Ip {
        std::net::IpAddr::from([10, 0, 0, last]).into()
    }

    fn socket(cookie: u64, local: (u8, u16), remote: (u8, u16)) -> DiagSocket {
        let mut s = DiagSocket::default();
        s.cookie = cookie;
        (s.local, s.local_port) = (ip(local.0), local.1);
        (s.remote, s.remote_port) = (ip(remote.0), remote.1);
        s.state = 1;
        s
    }

    #[test]
    fn the_accepted_end_of_a_known_connection_is_not_older() {
        let dialed = SockState {
            cookie: 1,
            local: ip(1),
            local_port: 4000,
            remote: ip(2),
            remote_port: 80,
            ..SockState::default()
        };
        let found = vec![
            (7, socket(1, (1, 4000), (2, 80))),
            (7, socket(2, (2, 80), (1, 4000))),
            (7, socket(3, (2, 80), (1, 4001))),
        ];
        let unknown: Vec<u64> = unknown(found, &[dialed])
            .iter()
            .map(|(_, s)| s.cookie)
            .collect();
        assert_eq!(unknown, [3]);
    }

    #[test]
    fn who_listened_did_not_dial() {
        let listening = HashSet::from([(7, 80)]);
        let accepted = shape(&socket(2, (2, 80), (1, 4000)), 7, &listening);
        assert_eq!(accepted.flags & flag::ACTIVE, 0);
        let dialed = shape(&socket(1, (1, 4000), (2, 80)), 7, &listening);
        assert_ne!(dialed.flags & flag::ACTIVE, 0);
        assert_eq!((dialed.dialed, dialed.dialed_port), (ip(2), 80));
    }
}
