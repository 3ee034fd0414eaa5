//! `Explain`: the verdict and both layers for one pair, from the plan in force.

use std::{collections::BTreeSet, net::IpAddr};

use underpass_abi::{
    reason::{self, code},
    verdict::Verdict,
};
use underpass_api::v1alpha1 as api;
use underpass_mesh::{
    Choice, Decision, DestRef, Explained, Plan, SourceRef, plan::ExplainedEndpoint, split_name,
};

use crate::problem::Problem;

pub fn explain(
    plan: &Plan,
    request: &api::ExplainRequest,
) -> Result<api::ExplainResponse, Problem> {
    let proto = match request.protocol.as_str() {
        "" | "tcp" => 6,
        "udp" => 17,
        other => return Err(bad(format!("protocol \"{other}\", expected tcp or udp"))),
    };
    let port = u16::try_from(request.port).ok().filter(|p| *p != 0);
    let port = port.ok_or_else(|| bad(format!("port {}, expected 1 to 65535", request.port)))?;
    let source = source(plan, &request.source)?;
    let destination = destination(plan, &request.destination, (port, proto))?;
    let explained = plan.explain(&source, &destination, port, proto);
    Ok(api::ExplainResponse {
        source: source_name(&source, &explained),
        destination: destination_name(&destination, &explained, port),
        items: items(&explained),
    })
}

fn source(plan: &Plan, text: &str) -> Result<SourceRef, Problem> {
    match text {
        "host" => return Ok(SourceRef::Host),
        "" => return Err(bad("an empty source".into())),
        _ => {}
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(match plan.workload_at(ip.to_canonical()) {
            Some(workload) => SourceRef::Workload(workload.full_name.clone()),
            None => SourceRef::Address(ip.to_canonical()),
        });
    }
    let name = one(text, workloads(plan, text), "workload")?;
    Ok(SourceRef::Workload(name.into()))
}

fn destination(plan: &Plan, text: &str, port: (u16, u8)) -> Result<DestRef, Problem> {
    if text.is_empty() {
        return Err(bad("an empty destination".into()));
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(DestRef::Address(ip.to_canonical()));
    }
    // A headless service has no address to dial: its workloads are meant.
    let services: Vec<_> = plan
        .services()
        .filter(|s| !s.ports.is_empty() && is_called(&s.full_name, text))
        .collect();
    if !services.is_empty() {
        let names = services.iter().map(|s| s.full_name.to_string()).collect();
        one(text, names, "service")?;
        let service = services[0];
        let ports = service.ports.iter().map(|p| (p.port, p.proto));
        if ports.clone().any(|p| p == port) {
            return Ok(DestRef::Service(service.full_name.clone()));
        }
        if workloads(plan, text).is_empty() {
            // One for each family.
            let known: BTreeSet<String> = ports.map(port_name).collect();
            let known = Vec::from_iter(known).join(", ");
            return Err(missing(format!(
                "service {text} has no port {}, it has {known}",
                port_name(port)
            )));
        }
    }
    let name = one(text, workloads(plan, text), "service or workload")?;
    Ok(DestRef::Workload(name.into()))
}

fn port_name((port, proto): (u16, u8)) -> String {
    format!("{port}/{}", if proto == 17 { "udp" } else { "tcp" })
}

fn workloads(plan: &Plan, text: &str) -> Vec<String> {
    let all = plan
        .workloads()
        .iter()
        .filter(|w| is_called(&w.full_name, text));
    all.map(|w| w.full_name.to_string()).collect()
}

/// `text` is `namespace/name` or `name`.
fn is_called(full_name: &str, text: &str) -> bool {
    full_name == text || split_name(full_name).1 == text
}

fn one(text: &str, found: Vec<String>, kind: &str) -> Result<String, Problem> {
    match &found[..] {
        [only] => Ok(only.clone()),
        [] => Err(missing(format!("no {kind} \"{text}\""))),
        several => Err(bad(format!(
            "\"{text}\" is ambiguous: {}",
            several.join(", ")
        ))),
    }
}

fn source_name(source: &SourceRef, explained: &Explained) -> String {
    match source {
        SourceRef::Workload(name) => {
            let identity = explained.source_identity.as_deref().unwrap_or_default();
            format!("{name} {identity}").trim_end().to_owned()
        }
        SourceRef::Host => "host".into(),
        SourceRef::UnknownLocal => "unknown".into(),
        SourceRef::Address(ip) => ip.to_string(),
    }
}

fn destination_name(destination: &DestRef, explained: &Explained, port: u16) -> String {
    match (&explained.service, destination) {
        (Some(service), _) => service.to_string(),
        (None, DestRef::Service(name) | DestRef::Workload(name)) => format!("{name}:{port}"),
        (None, DestRef::Address(ip)) => std::net::SocketAddr::new(*ip, port).to_string(),
    }
}

/// One line for all endpoints if they do not differ, else one for each kind of answer.
fn items(explained: &Explained) -> Vec<api::Explanation> {
    let first = explained.endpoints.first();
    let alike = |e: &ExplainedEndpoint| {
        first.is_some_and(|f| (&f.decision, &f.inbound) == (&e.decision, &e.inbound))
    };
    if explained.endpoints.iter().all(alike) {
        return vec![item(
            "",
            &explained.decision,
            explained.reason,
            explained,
            &explained.inbound,
        )];
    }
    let each = explained.endpoints.iter().map(|e| {
        let name = match &e.workload {
            Some(workload) => format!("{workload} {}", e.address),
            None => e.address.to_string(),
        };
        let decision = stricter(explained.service_decision.as_ref(), &e.decision);
        item(&name, decision, reason_of(decision), explained, &e.inbound)
    });
    each.collect()
}

fn item(
    endpoint: &str,
    decision: &Decision,
    reason: u16,
    explained: &Explained,
    inbound: &Choice,
) -> api::Explanation {
    api::Explanation {
        endpoint: endpoint.into(),
        verdict: decision.verdict.name().into(),
        policy: match &*decision.policy {
            "" | "default" => decision.policy.to_string(),
            name => format!("AuthorizationPolicy {name}"),
        },
        reason: reason::name(reason).into(),
        outbound_layer: explained.outbound.layer.name().into(),
        outbound_reason: why(&explained.outbound),
        inbound_layer: inbound.layer.name().into(),
        inbound_reason: why(inbound),
    }
}

fn why(choice: &Choice) -> String {
    match (reason::name(choice.reason), &*choice.object) {
        (reason, "") => reason.to_owned(),
        ("", object) => object.to_owned(),
        (reason, object) => format!("{reason} ({object})"),
    }
}

fn stricter<'a>(service: Option<&'a Decision>, own: &'a Decision) -> &'a Decision {
    let rank = |d: &Decision| match d.verdict {
        Verdict::None | Verdict::Allowed => 0,
        Verdict::Audited => 1,
        Verdict::Denied | Verdict::Refused => 2,
    };
    service
        .filter(|s| rank(s) >= rank(own) && rank(s) > 0)
        .unwrap_or(own)
}

fn reason_of(decision: &Decision) -> u16 {
    match (decision.verdict, &*decision.policy) {
        (Verdict::Denied, "default") => code::DEFAULT_DENY,
        (Verdict::Denied, _) => code::POLICY_DENIED,
        (Verdict::Audited, _) => code::WOULD_DENY,
        _ => 0,
    }
}

fn bad(text: String) -> Problem {
    Problem::error(code::BAD_ARGUMENT, text, "")
}

fn missing(text: String) -> Problem {
    Problem::error(code::NOT_FOUND, text, "")
}

#[cfg(test)]
mod tests {
    use underpass_mesh::{Facts, Model};

    use super::*;

    const MESH: &str = "
apiVersion: v1
kind: Namespace
metadata: { name: shop, labels: { underpass.dev/mesh: enabled } }
---
apiVersion: underpass.dev/v1alpha1
kind: Workload
metadata: { name: web, namespace: shop }
spec: { serviceAccountName: web, cgroup: shop/web }
---
apiVersion: underpass.dev/v1alpha1
kind: Workload
metadata: { name: ledger, namespace: shop, labels: { app: ledger } }
spec: { serviceAccountName: ledger, netns: /run/netns/ledger, addresses: [10.1.0.3] }
---
apiVersion: v1
kind: Service
metadata: { name: ledger, namespace: shop }
spec: { clusterIP: 10.96.0.7, ports: [{ port: 80, targetPort: 8080 }] }
---
apiVersion: v1
kind: Service
metadata: { name: names, namespace: shop }
spec: { clusterIPs: [10.96.0.8, 'fd00:96::8'], ports: [{ port: 53, protocol: UDP }] }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: ledger-1, namespace: shop, labels: { kubernetes.io/service-name: ledger } }
addressType: IPv4
ports: [{ port: 8080 }]
endpoints:
- { addresses: [10.1.0.3] }
- { addresses: [10.9.9.9] }
---
apiVersion: underpass.dev/v1alpha1
kind: AuthorizationPolicy
metadata: { name: callers, namespace: shop }
spec:
  targetRefs: [{ kind: Workload, labelSelector: { matchLabels: { app: ledger } } }]
  rules: [{ sources: [{ serviceAccounts: [{ name: web }] }] }]
";

    fn ask(source: &str, destination: &str, port: u32) -> Result<api::ExplainResponse, Problem> {
        asked(MESH, &Facts::default(), source, destination, port)
    }

    fn asked(
        mesh: &str,
        facts: &Facts,
        source: &str,
        destination: &str,
        port: u32,
    ) -> Result<api::ExplainResponse, Problem> {
        let mut model = Model::default();
        model.set_file("mesh.yaml", mesh);
        assert_eq!(model.problems(), []);
        let request = api::ExplainRequest {
            source: source.into(),
            destination: destination.into(),
            port,
            protocol: String::new(),
        };
        explain(&model.compile(facts), &request)
    }

    #[test]
    fn a_denial_names_its_policy_and_the_endpoint() {
        let answer = ask("host", "shop/ledger", 80).unwrap();
        assert_eq!(
            (answer.source.as_str(), answer.destination.as_str()),
            ("host", "shop/ledger:80/tcp")
        );
        let items: Vec<(&str, &str, &str)> = answer
            .items
            .iter()
            .map(|i| (i.endpoint.as_str(), i.verdict.as_str(), i.policy.as_str()))
            .collect();
        let denied = (
            "shop/ledger 10.1.0.3:8080",
            "denied",
            "AuthorizationPolicy shop/callers",
        );
        assert_eq!(items, [denied, ("10.9.9.9:8080", "allowed", "")]);
        assert_eq!(answer.items[0].reason, "POLICY_DENIED");
        assert_eq!(answer.items[0].inbound_layer, "kernel");
    }

    #[test]
    fn a_worker_is_named_with_what_asks_for_it() {
        let route = "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: split, namespace: shop }
spec: { parentRefs: [{ kind: Service, name: ledger }] }
";
        let rule = "sources: [{ serviceAccounts: [{ name: web }] }]";
        let judged = format!("{rule}, ports: [{{ port: 8080 }}], methods: [GET]");
        let mesh = [&MESH.replace(rule, &judged), route].concat();
        let mut facts = Facts {
            host_netns: 1,
            ..Facts::default()
        };
        for (name, netns) in [("shop/web", 10), ("shop/ledger", 11)] {
            let place = underpass_mesh::Place {
                cgroups: vec![],
                netns: Some(netns),
            };
            facts.places.insert(name.into(), place);
        }
        let closed = asked(&mesh, &facts, "web", "ledger", 80).unwrap();
        let no_door = "NO_DOOR (AuthorizationPolicy shop/callers)";
        assert_eq!(closed.items[0].verdict, "denied");
        assert_eq!(closed.items[0].inbound_reason, no_door);
        facts.doors = facts.places.keys().cloned().collect();
        let item = asked(&mesh, &facts, "web", "ledger", 80)
            .unwrap()
            .items
            .remove(0);
        let told = [
            &item.verdict,
            &item.outbound_layer,
            &item.outbound_reason,
            &item.inbound_layer,
            &item.inbound_reason,
        ];
        let expected = [
            "allowed",
            "http",
            "ROUTE_ATTACHED (HTTPRoute shop/split)",
            "http",
            "REQUEST_RULES (AuthorizationPolicy shop/callers)",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn workloads_are_found_by_name_and_address() {
        for destination in ["ledger", "10.1.0.3", "::ffff:10.1.0.3"] {
            let answer = ask("web", destination, 8080).unwrap();
            assert_eq!(answer.items.len(), 1);
            assert_eq!(answer.items[0].verdict, "allowed", "{destination}");
            assert_eq!(
                answer.source,
                "shop/web spiffe://cluster.local/ns/shop/sa/web"
            );
        }
    }

    #[test]
    fn what_does_not_exist_is_said_so() {
        let code = |r: Result<_, Problem>| r.unwrap_err().code;
        assert_eq!(code(ask("nobody", "ledger", 80)), code::NOT_FOUND);
        assert_eq!(code(ask("web", "nobody", 80)), code::NOT_FOUND);
        let other_protocol = ask("web", "names", 53).unwrap_err();
        assert_eq!(other_protocol.code, code::NOT_FOUND);
        let told = "service names has no port 53/tcp, it has 53/udp";
        assert_eq!(other_protocol.message, told);
        assert_eq!(code(ask("web", "ledger", 0)), code::BAD_ARGUMENT);
        assert_eq!(code(ask("", "ledger", 80)), code::BAD_ARGUMENT);
    }
}
