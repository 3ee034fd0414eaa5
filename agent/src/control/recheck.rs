//! After a change of plan: established connections that it denies are ended.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use underpass_abi::{
    reason::code,
    sock::{SockState, flag},
    tables::NameKind,
    verdict::Verdict,
};
use underpass_mesh::{Decision, DestRef, Names, Plan, SourceRef, plan::Workload};

use super::Control;
use crate::{
    kernel::{KernelError, Netns, diag},
    log,
    telemetry::row::{service_name, workload_name},
};

/// What a verdict depends on.
type Question = (u16, u32, underpass_abi::Ip, u16, u16, u16, u16);

impl Control {
    /// Ends what the plan in force denies.
    pub(super) fn recheck(&mut self) {
        if self.keep_denied {
            return;
        }
        let sockets = match self.kernel.sockets() {
            Ok(sockets) => sockets,
            Err(error) => return log::warn(error.code, &error.to_string()),
        };
        let mut answers: HashMap<Question, Option<Decision>> = HashMap::new();
        for socket in sockets
            .iter()
            .filter(|s| s.flags & (flag::CLOSED | flag::FAILED) == 0)
        {
            let denial = answers
                .entry(question(socket))
                .or_insert_with(|| denial(socket, &self.plan, self.tables.names()))
                .clone();
            let Some(denial) = denial else { continue };
            let policy = match &*denial.policy {
                "default" | "" => "default".to_owned(),
                name => format!("AuthorizationPolicy {name}"),
            };
            let why = code::POLICY_CHANGED;
            self.table.destroying(socket.cookie, why, Some(&policy));
            match self.destroy(socket) {
                Ok(()) => self.counts.destroyed += 1,
                Err(error) => {
                    self.counts.not_destroyed += 1;
                    log::warn(error.code, &error.to_string());
                }
            }
        }
    }

    /// Resets a connection at this end, or at its other end if that one cannot be reached.
    fn destroy(&mut self, s: &SockState) -> Result<(), KernelError> {
        let here = end_of(s);
        if let Some(netns) = self.locate(s.netns) {
            return diag::destroy(&netns, &here).map(drop);
        }
        let far = self
            .workload_netns(s.destination)
            .and_then(|cookie| self.locate(cookie));
        let Some(netns) = far else {
            let text = format!("no path to the namespace of {}:{}", s.local, s.local_port);
            return Err(KernelError::new(code::NETNS_UNREACHABLE, text));
        };
        let mut there = far_end(&here);
        // INET_DIAG_NOCOOKIE: that end's cookie is not known.
        there.cookie = u64::MAX;
        diag::destroy(&netns, &there).map(drop)
    }

    /// A namespace by its cookie; unmeshed ones are found by a process in them.
    pub(super) fn locate(&mut self, cookie: u64) -> Option<Netns> {
        if let Some(known) = self.namespaces.get(cookie) {
            // The process by which it was found may have ended.
            if known.path.exists() {
                return Some(known.clone());
            }
        }
        let mut seen = Vec::new();
        for entry in std::fs::read_dir("/proc").ok()?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
                continue;
            };
            let Ok(link) = std::fs::read_link(format!("/proc/{pid}/ns/net")) else {
                continue;
            };
            if seen.contains(&link) {
                continue;
            }
            seen.push(link);
            if let Ok(netns) = Netns::of_process(pid)
                && netns.cookie == cookie
            {
                self.namespaces.add(netns.clone());
                return Some(netns);
            }
        }
        None
    }

    pub(super) fn workload_netns(&self, index: u16) -> Option<u64> {
        let name = self.tables.names().get(NameKind::Workload, index)?;
        self.plan
            .workload(workload_name(name).0)
            .map(Workload::netns)
            .filter(|n| *n != 0)
    }
}

/// A connection's end as sock_diag names it.
pub(super) fn end_of(s: &SockState) -> diag::DiagSocket {
    let mut end = diag::DiagSocket::default();
    end.proto = s.proto;
    end.family = if s.local.is_v4() { 2 } else { 10 };
    end.local = s.local;
    end.local_port = s.local_port;
    end.remote = s.remote;
    end.remote_port = s.remote_port;
    end.cookie = s.cookie;
    end
}

/// The other end, but for its cookie.
pub(super) fn far_end(end: &diag::DiagSocket) -> diag::DiagSocket {
    let mut far = *end;
    (far.local, far.remote) = (end.remote, end.local);
    (far.local_port, far.remote_port) = (end.remote_port, end.local_port);
    far
}

fn question(s: &SockState) -> Question {
    let kind = s.flags & (flag::SOURCE_HOST | flag::SOURCE_OUTSIDE | flag::ACTIVE);
    let remote = if kind & flag::ACTIVE == 0 {
        s.remote
    } else {
        underpass_abi::Ip::ANY
    };
    let port = if kind & flag::ACTIVE == 0 {
        s.local_port
    } else {
        s.remote_port
    };
    (
        s.source,
        kind,
        remote,
        s.service,
        s.dialed_port,
        s.destination,
        port,
    )
}

/// The decision, if the plan denies this connection now.
fn denial(s: &SockState, plan: &Arc<Plan>, names: &Names) -> Option<Decision> {
    let workload = |index: u16| {
        let name = names.get(NameKind::Workload, index)?;
        plan.workload(workload_name(name).0)
    };
    let active = s.flags & flag::ACTIVE != 0;
    let source = match workload(s.source) {
        Some(workload) => SourceRef::Workload(workload.full_name.clone()),
        None if active => SourceRef::Host,
        None => SourceRef::Address(IpAddr::from(s.remote)),
    };
    let denied = |decision: Decision| (decision.verdict == Verdict::Denied).then_some(decision);
    if let Some(name) = names.get(NameKind::Service, s.service).and_then(service) {
        let service = DestRef::Service(name.into());
        let explained = plan.explain(&source, &service, s.dialed_port, s.proto);
        if let Some(decision) = explained.service_decision.and_then(denied) {
            return Some(decision);
        }
    }
    let port = if active { s.remote_port } else { s.local_port };
    let destination = DestRef::Workload(workload(s.destination)?.full_name.clone());
    denied(plan.verdict(&source, &destination, port, s.proto))
}

/// `ns/name` of `ns/name:port/tcp`.
fn service(registered: &str) -> Option<&str> {
    Some(service_name(registered).rsplit_once(':')?.0)
}

#[cfg(test)]
mod tests {
    use underpass_mesh::{Facts, Model, Tables};

    use super::*;

    const MESH: &str = "
apiVersion: v1
kind: Namespace
metadata: { name: shop, labels: { underpass.dev/mesh: enabled } }
---
apiVersion: underpass.dev/v1alpha1
kind: Workload
metadata: { name: web, namespace: shop }
spec: { serviceAccountName: web, cgroup: web }
---
apiVersion: underpass.dev/v1alpha1
kind: Workload
metadata: { name: ledger, namespace: shop, labels: { app: ledger } }
spec: { serviceAccountName: ledger, cgroup: ledger }
---
apiVersion: underpass.dev/v1alpha1
kind: AuthorizationPolicy
metadata: { name: callers, namespace: shop }
spec:
  targetRefs: [{ kind: Workload, labelSelector: { matchLabels: { app: ledger } } }]
  rules: [{ sources: [{ serviceAccounts: [{ name: web }] }], ports: [{ port: 80 }] }]
";

    /// The plan for `text` after the one for [`MESH`], and the register of both.
    fn after(text: &str) -> (Arc<Plan>, Tables) {
        let (mut model, mut tables) = (Model::default(), Tables::empty());
        for text in [MESH, text] {
            model.set_file("mesh.yaml", text);
            assert_eq!(model.problems(), []);
            tables.lay_out(&model.compile(&Facts::default())).unwrap();
        }
        (model.compile(&Facts::default()), tables)
    }

    fn connection(tables: &Tables, port: u16) -> SockState {
        let index = |name: &str| {
            let registered = format!("shop/{name} spiffe://cluster.local/ns/shop/sa/{name}");
            tables
                .names()
                .find(NameKind::Workload, &registered)
                .unwrap() as u16
        };
        SockState {
            source: index("web"),
            destination: index("ledger"),
            proto: 6,
            remote_port: port,
            flags: flag::ACTIVE | flag::OPENED,
            ..SockState::default()
        }
    }

    fn policy(s: &SockState, plan: &Arc<Plan>, tables: &Tables) -> Option<String> {
        denial(s, plan, tables.names()).map(|d| d.policy.to_string())
    }

    #[test]
    fn what_is_still_allowed_stays() {
        let (plan, tables) = after(MESH);
        assert_eq!(policy(&connection(&tables, 80), &plan, &tables), None);
        let to_another_port = connection(&tables, 81);
        assert_eq!(
            policy(&to_another_port, &plan, &tables).unwrap(),
            "shop/callers"
        );
    }

    #[test]
    fn what_is_no_longer_allowed_is_denied_by_name() {
        let (plan, tables) = after(&MESH.replace("{ name: web }]", "{ name: other }]"));
        assert_eq!(
            policy(&connection(&tables, 80), &plan, &tables).unwrap(),
            "shop/callers"
        );
    }

    #[test]
    fn a_source_that_left_the_mesh_is_a_process_of_the_node() {
        let web = "kind: Workload\nmetadata: { name: web, namespace: shop }\n";
        let gone = MESH.replace(
            web,
            "kind: Workload\nmetadata: { name: new, namespace: shop }\n",
        );
        let (plan, tables) = after(&gone);
        // Removed objects keep their name in the register for a while.
        let (_, before) = after(MESH);
        let mut s = connection(&before, 80);
        assert_eq!(policy(&s, &plan, &tables).unwrap(), "shop/callers");
        s.destination = 0;
        assert_eq!(
            policy(&s, &plan, &tables),
            None,
            "nothing is known of the destination"
        );
    }
}
