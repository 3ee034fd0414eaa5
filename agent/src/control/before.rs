//! Connections that are older than the mesh: established sockets of guarded namespaces that touch a
//! workload and of which the programs keep no state. sock_diag counts them until they end.

use std::collections::{BTreeMap, HashMap, HashSet};

use underpass_abi::{
    Ip,
    sock::{Layer, SockState, TcpCounts, flag},
    tables::NameKind,
    verdict::Verdict,
};
use underpass_mesh::{Str, plan::Workload};

use super::Control;
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
    /// By namespace: cookies of sockets.
    sockets: BTreeMap<u64, HashSet<u64>>,
    /// Ports on which somebody listened, to tell who dialed.
    listening: HashSet<(u64, u16)>,
    /// Those that did not fit.
    pub left_out: u64,
}

impl Control {
    /// Looks for them; called when namespaces or workloads changed.
    pub(super) fn find_older_connections(&mut self) {
        let Ok(known) = self.kernel.sockets() else {
            return;
        };
        let known: HashSet<u64> = known.iter().map(|s| s.cookie).collect();
        let owners = self.discovery.cgroup_owners();
        let all: Vec<Netns> = self.namespaces.all().cloned().collect();
        let mut found = Before::default();
        let mut count = 0;
        for netns in &all {
            for socket in list(netns, diag::Which::Listening) {
                found.listening.insert((netns.cookie, socket.local_port));
            }
            let older: HashSet<u64> = list(netns, diag::Which::Connected)
                .iter()
                .filter(|s| s.state == 1 && s.cookie != 0 && !known.contains(&s.cookie))
                .filter(|s| self.touches(s, netns, &owners))
                .map(|s| s.cookie)
                .collect();
            if count + older.len() > MAX {
                found.left_out += older.len() as u64;
            } else if !older.is_empty() {
                count += older.len();
                found.sockets.insert(netns.cookie, older);
            }
        }
        // What was accepted while the lists were read is no older connection: it has state by now.
        let Ok(known) = self.kernel.sockets() else {
            return;
        };
        for s in known {
            if let Some(older) = found.sockets.get_mut(&s.netns) {
                older.remove(&s.cookie);
            }
        }
        self.before = found;
    }

    /// Their state now; those that ended are forgotten.
    pub(super) fn older_connections(&mut self) -> Vec<SockState> {
        if self.before.sockets.is_empty() {
            return Vec::new();
        }
        let owners = self.discovery.cgroup_owners();
        let mut now: Vec<(SockState, u64)> = Vec::new();
        for (cookie, wanted) in &mut self.before.sockets {
            let Some(netns) = self.namespaces.get(*cookie) else {
                continue;
            };
            let sockets = list(netns, diag::Which::Connected);
            wanted.retain(|w| sockets.iter().any(|s| s.cookie == *w));
            for socket in sockets.iter().filter(|s| wanted.contains(&s.cookie)) {
                now.push((
                    shape(socket, *cookie, &self.before.listening),
                    socket.cgroup,
                ));
            }
        }
        self.before.sockets.retain(|_, wanted| !wanted.is_empty());
        let own = |(s, cgroup): &(SockState, u64)| self.index(self.owner(s, owners.get(cgroup)));
        let ends: HashMap<Tuple, u32> = now
            .iter()
            .map(|end| ((end.0.local, end.0.local_port, end.0.remote, end.0.remote_port), own(end)))
            .collect();
        let far_end = |s: &SockState| ends.get(&(s.remote, s.remote_port, s.local, s.local_port));
        // Both ends on this node: the one that dialed is the row.
        now.retain(|(s, _)| s.flags & flag::ACTIVE != 0 || far_end(s).is_none());
        let named = |end: (SockState, u64)| {
            let mut s = end.0;
            let near = own(&end);
            let far = far_end(&s).copied();
            let far = far.unwrap_or_else(|| self.index(self.plan.workload_at(s.remote.into())));
            let dialed = s.flags & flag::ACTIVE != 0;
            (s.source, s.destination) = if dialed { (near, far) } else { (far, near) };
            s
        };
        now.into_iter().map(named).collect()
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
            let mut there = self.plan.workloads().iter().filter(|w| w.netns == s.netns);
            // Several share it: the namespace tells nothing.
            if let (Some(only), None) = (there.next(), there.next()) {
                return Some(only);
            }
        }
        self.plan.workload_at(s.local.into())
    }

    fn index(&self, workload: Option<&Workload>) -> u32 {
        let name = workload.map(|w| format!("{} {}", w.full_name, w.identity));
        name.and_then(|n| self.tables.names().find(NameKind::Workload, &n)).unwrap_or(0)
    }
}

/// Local and remote end.
type Tuple = (Ip, u16, Ip, u16);

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
        },
        ..SockState::default()
    }
}
