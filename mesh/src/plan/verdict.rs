//! What the kernel will decide, from the plan alone: rules are evaluated over names and addresses,
//! independently of the compiled tables (a property test compares the two).

use std::net::{IpAddr, SocketAddr};

use underpass_abi::{Ip, reason::code, verdict::Verdict};

use super::{
    Decision, DestRef, Endpoint, Explained, ExplainedEndpoint, Plan, PolicySet, Service,
    ServicePort, SourceRef, Workload, World, layer::plain, spiffe,
};
use crate::{
    Str,
    facts::DefaultPolicy,
    k8s::{self, Rule},
};

/// A source as rules see it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Who<'a> {
    Workload(&'a Workload),
    Host,
    UnknownLocal,
    Outside(IpAddr),
}

impl<'a> Who<'a> {
    pub(super) fn workload(&self) -> Option<&'a Workload> {
        match self {
            Self::Workload(w) => Some(w),
            _ => None,
        }
    }
}

impl Plan {
    /// What will be decided about a connection, by which policy, and on which layer of either side.
    pub fn explain(&self, source: &SourceRef, dest: &DestRef, port: u16, proto: u8) -> Explained {
        let who = self.world.who(source);
        let (service, endpoints, destination) = self.resolve(dest, port, proto);
        let service_decision =
            service.map(|(s, _)| self.world.decide_service(s, &who, port, proto));
        let endpoints: Vec<ExplainedEndpoint> = endpoints
            .iter()
            .map(|e| self.world.explain_endpoint(&who, e, proto))
            .collect();
        let decision = overall(service.is_some(), &service_decision, &endpoints);
        let reason = match (decision.verdict, &*decision.policy) {
            (Verdict::Refused, _) => code::NO_ENDPOINTS,
            (Verdict::Denied, "default") => code::DEFAULT_DENY,
            (Verdict::Denied, _) => code::POLICY_DENIED,
            (Verdict::Audited, _) => code::WOULD_DENY,
            _ => 0,
        };
        let source = who.workload();
        let inbound = endpoints.first().map(|e| e.inbound.clone());
        Explained {
            source: source.map(|w| w.full_name.clone()),
            source_identity: source.map(|w| w.identity.clone()),
            destination: destination.map(|w| w.full_name.clone()),
            service: service.map(|(s, p)| s.port_name(p)),
            decision,
            reason,
            service_decision,
            endpoints,
            outbound: match service {
                Some((service, port)) => self.world.outbound(&who, service, port),
                None => plain(source),
            },
            inbound: inbound.unwrap_or_else(|| plain(None)),
        }
    }

    /// Only the decision.
    pub fn verdict(&self, source: &SourceRef, dest: &DestRef, port: u16, proto: u8) -> Decision {
        self.explain(source, dest, port, proto).decision
    }

    /// The dialed service, where connections can end, and the workload if it is one.
    fn resolve(
        &self,
        dest: &DestRef,
        port: u16,
        proto: u8,
    ) -> (
        Option<(&Service, &ServicePort)>,
        Vec<Endpoint>,
        Option<&Workload>,
    ) {
        let one = |ip: Ip, workload| {
            vec![Endpoint {
                ip,
                port,
                workload,
                weight: 1,
            }]
        };
        let of_service = |s: &std::sync::Arc<Service>, ip: Option<Ip>| {
            let found = s
                .ports
                .iter()
                .position(|p| (p.port, p.proto) == (port, proto) && ip.is_none_or(|ip| ip == p.ip));
            found.is_some()
        };
        let named = match dest {
            DestRef::Workload(name) => {
                let position = self.world.position(name);
                let workload = position.map(|i| &self.world.workloads[i as usize]);
                let ip = workload
                    .and_then(|w| w.addresses.first().copied())
                    .unwrap_or(Ip::ANY);
                return (None, one(ip, position), workload);
            }
            DestRef::Service(name) => {
                let service = self.services.get(name);
                service.filter(|s| of_service(s, None)).map(|s| (s, None))
            }
            DestRef::Address(ip) => {
                let ip = Ip::from(*ip);
                let service = self.services.values().find(|s| of_service(s, Some(ip)));
                match service {
                    Some(s) => Some((s, Some(ip))),
                    None => {
                        let owner = self.world.owner(ip).and_then(|o| o.workload);
                        let workload = owner.map(|i| &self.world.workloads[i as usize]);
                        return (None, one(ip, owner), workload);
                    }
                }
            }
        };
        let Some((service, ip)) = named else {
            return (None, Vec::new(), None);
        };
        let mut ports = service
            .ports
            .iter()
            .filter(|p| (p.port, p.proto) == (port, proto) && ip.is_none_or(|ip| ip == p.ip));
        let first = ports.next().map(|p| (&**service, p));
        (
            first,
            first.map(|(_, p)| p.endpoints.to_vec()).unwrap_or_default(),
            None,
        )
    }
}

/// The strictest: the service's before the endpoints', a denial before an audit.
fn overall(
    is_service: bool,
    service: &Option<Decision>,
    endpoints: &[ExplainedEndpoint],
) -> Decision {
    let all = || service.iter().chain(endpoints.iter().map(|e| &e.decision));
    for verdict in [Verdict::Denied, Verdict::Audited] {
        if let Some(d) = all().find(|d| d.verdict == verdict) {
            return d.clone();
        }
    }
    if is_service && endpoints.is_empty() {
        return Decision {
            verdict: Verdict::Refused,
            policy: "".into(),
        };
    }
    // The policy of the endpoint before that of the service.
    let mut allowed = endpoints.iter().map(|e| &e.decision).chain(service);
    let named = allowed
        .clone()
        .find(|d| !matches!(&*d.policy, "" | "default"));
    named
        .or_else(|| allowed.next())
        .cloned()
        .unwrap_or_else(undecided)
}

fn undecided() -> Decision {
    Decision {
        verdict: Verdict::Allowed,
        policy: "".into(),
    }
}

impl World {
    pub(crate) fn who(&self, source: &SourceRef) -> Who<'_> {
        let named = |i: u32| Who::Workload(&self.workloads[i as usize]);
        match source {
            SourceRef::Workload(name) => self.position(name).map_or(Who::UnknownLocal, named),
            SourceRef::Host => Who::Host,
            SourceRef::UnknownLocal => Who::UnknownLocal,
            SourceRef::Address(ip) if ip.to_canonical().is_loopback() => Who::UnknownLocal,
            SourceRef::Address(ip) => match self.owner(Ip::from(*ip)) {
                Some(owner) if owner.local => Who::UnknownLocal,
                Some(owner) => owner
                    .workload
                    .map_or(Who::Outside(ip.to_canonical()), named),
                None => Who::Outside(ip.to_canonical()),
            },
        }
    }

    fn explain_endpoint(&self, who: &Who, endpoint: &Endpoint, proto: u8) -> ExplainedEndpoint {
        let workload = endpoint.workload.map(|i| &self.workloads[i as usize]);
        ExplainedEndpoint {
            address: SocketAddr::new(endpoint.ip.into(), endpoint.port),
            workload: workload.map(|w| w.full_name.clone()),
            weight: endpoint.weight,
            decision: match workload {
                Some(w) => self.decide_workload(w, who, endpoint.port, proto),
                None => undecided(),
            },
            inbound: self.inbound(endpoint, proto),
        }
    }

    /// By the destination workload's own policies.
    pub(crate) fn decide_workload(
        &self,
        to: &Workload,
        who: &Who,
        port: u16,
        proto: u8,
    ) -> Decision {
        let same = matches!(who, Who::Workload(w) if w.full_name == to.full_name);
        if same || !to.enrolled() {
            return undecided();
        }
        self.decide(&self.policy_sets[to.policies as usize], who, port, proto)
    }

    /// By the policies that name a service.
    pub(crate) fn decide_service(
        &self,
        service: &Service,
        who: &Who,
        port: u16,
        proto: u8,
    ) -> Decision {
        match service.policies {
            Some(set) => self.decide(&self.policy_sets[set as usize], who, port, proto),
            None => undecided(),
        }
    }

    fn decide(&self, set: &PolicySet, who: &Who, port: u16, proto: u8) -> Decision {
        let decision = |verdict, policy: &Str| Decision {
            verdict,
            policy: policy.clone(),
        };
        if set.policies.is_empty() {
            let verdict = match self.default_policy {
                DefaultPolicy::Allow => Verdict::Allowed,
                DefaultPolicy::Deny => Verdict::Denied,
                DefaultPolicy::Audit => Verdict::Audited,
            };
            return decision(verdict, &"default".into());
        }
        let enforced: Vec<_> = set
            .policies
            .iter()
            .filter(|p| !p.object.spec.audit)
            .collect();
        let Some(first) = enforced.first() else {
            // Audit only: nothing is refused.
            let fits = |r: &Rule, ns: &str| fit(r, ns, who, port, proto).is_some();
            let allows = set.policies.iter().any(|p| {
                p.object
                    .spec
                    .rules
                    .iter()
                    .any(|r| fits(r, p.object.metadata.namespace()))
            });
            return if allows {
                undecided()
            } else {
                decision(Verdict::Audited, &set.policies[0].name)
            };
        };
        // Of the policies that allow, the one with the narrowest rule is named.
        let best = enforced.iter().filter_map(|p| {
            let rules = p.object.spec.rules.iter();
            let fits =
                rules.filter_map(|r| fit(r, p.object.metadata.namespace(), who, port, proto));
            Some((fits.min()?, &p.name))
        });
        match best.min() {
            Some((_, name)) => decision(Verdict::Allowed, name),
            None => decision(Verdict::Denied, &first.name),
        }
    }
}

/// How narrowly a rule names a source: an identity, this node or an address block; a namespace or
/// the outside; everybody. For each, every port comes before a named port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    Narrow { by_port: bool },
    Wide { by_port: bool },
    Anybody { by_port: bool },
}

fn fit(rule: &Rule, namespace: &str, who: &Who, port: u16, proto: u8) -> Option<Fit> {
    let by_port = !rule.ports.is_empty();
    if by_port
        && !rule
            .ports
            .iter()
            .any(|p| p.port == port && p.protocol.number() == proto)
    {
        return None;
    }
    if rule.sources.is_empty() {
        return Some(Fit::Anybody { by_port });
    }
    let narrow = |s: &k8s::Source| match who {
        Who::Workload(w) => {
            let accounts = s
                .service_accounts
                .iter()
                .map(|a| spiffe(a.namespace.as_deref().unwrap_or(namespace), &a.name));
            accounts
                .chain(s.spiffe.iter().cloned())
                .any(|id| id == w.identity)
        }
        Who::Host => s.host,
        Who::UnknownLocal => false,
        Who::Outside(ip) => s
            .ip_blocks
            .iter()
            .any(|b| b.cidr.contains(*ip) && !b.except.iter().any(|e| e.contains(*ip))),
    };
    let wide = |s: &k8s::Source| match who {
        Who::Workload(w) => s.namespaces.iter().any(|ns| *ns == w.namespace()),
        Who::Outside(_) => s.outside,
        _ => false,
    };
    if rule.sources.iter().any(narrow) {
        return Some(Fit::Narrow { by_port });
    }
    rule.sources
        .iter()
        .any(wide)
        .then_some(Fit::Wide { by_port })
}
