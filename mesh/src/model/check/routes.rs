//! What is wrong with routes and rate limits: parents and backends that do not exist, parts that no request
//! meets.

use underpass_abi::reason::{self, code};

use super::{Findings, Held, Model};
use crate::{
    k8s::{
        Meta, Protocol, RATE_LIMIT_ANNOTATION, Service, ServicePort,
        route::{HttpRoute, Parent},
    },
    path, snapshot,
};

impl Model {
    pub(super) fn check_routes(&self, found: &mut Findings) {
        for (_, held) in self.routes.iter() {
            for parent in &held.object.parents {
                self.check_parent(parent, held, found);
            }
            for (r, rule) in held.object.rules.iter().enumerate() {
                for (m, condition) in rule.matches.iter().enumerate() {
                    let given = condition.path.text();
                    if let Err(why) = path::normalize(given.as_bytes()) {
                        let field = format!("spec.rules[{r}].matches[{m}].path.value");
                        let why = reason::name(why.code());
                        let message = format!("no request has the path `{given}` ({why})");
                        found.add(code::NEVER_MATCHES, held, &field, message);
                    }
                }
                for (b, backend) in rule.backends.iter().enumerate() {
                    let at = format!("spec.rules[{r}].backendRefs[{b}]");
                    let (code, field, message) = match self.backend(&backend.service, backend.port)
                    {
                        Ok(()) => continue,
                        Err(what) => what,
                    };
                    let message =
                        format!("{message}: its share of the requests is answered with 500");
                    found.add(code, held, &format!("{at}.{field}"), message);
                }
            }
        }
    }

    fn check_parent(&self, parent: &Parent, held: &Held<HttpRoute>, found: &mut Findings) {
        let name = &parent.service;
        let mut add = |code, message| found.add(code, held, "spec.parentRefs", message);
        let Some(service) = self.services.get(name) else {
            return add(
                code::DANGLING_REFERENCE,
                format!("there is no Service {name}"),
            );
        };
        if service.object.spec.headless() {
            let message =
                format!("Service {name} is headless: its callers dial endpoints themselves");
            return add(code::NEVER_MATCHES, message);
        }
        let ports = || {
            let tcp = tcp(&service.object);
            tcp.filter(|p| parent.port.is_none_or(|port| port == p.port))
        };
        if ports().next().is_none() {
            let port = parent.port.map(|p| format!(" {p}")).unwrap_or_default();
            let message = format!("Service {name} has no TCP port{port}");
            add(code::DANGLING_REFERENCE, message);
        } else if ports().all(|p| p.app_protocol == snapshot::Protocol::Opaque) {
            let message = format!("by its `appProtocol` Service {name} speaks no plain HTTP there");
            add(code::NOT_HTTP_PORT, message);
        }
    }

    /// Code, field and message, if a route can not send requests there.
    fn backend(&self, name: &str, port: u16) -> Result<(), (u16, &'static str, String)> {
        let Some(service) = self.services.get(name) else {
            let message = format!("there is no Service {name}");
            return Err((code::DANGLING_REFERENCE, "name", message));
        };
        if service.object.spec.addresses().is_empty() {
            let message = format!("Service {name} is headless, which is not built for a backend");
            return Err((code::NOT_IMPLEMENTED, "name", message));
        }
        if !tcp(&service.object).any(|p| p.port == port) {
            let message = format!("Service {name} has no TCP port {port}");
            return Err((code::DANGLING_REFERENCE, "port", message));
        }
        Ok(())
    }

    pub(super) fn check_rate_limits(&self, found: &mut Findings) {
        for (name, held) in self.services.iter() {
            let spec = &held.object.spec;
            let http = |p: &ServicePort| p.app_protocol != snapshot::Protocol::Opaque;
            let met = !spec.addresses().is_empty() && tcp(&held.object).any(http);
            if !met {
                let message = format!("no port of Service {name} has requests that can be counted");
                useless(
                    &held.object.metadata,
                    code::NOT_HTTP_PORT,
                    held,
                    message,
                    found,
                );
            }
        }
        fn of_services_only<T>(meta: &Meta, held: &Held<T>, found: &mut Findings) {
            let message = "only a Service's is read".into();
            useless(meta, code::BAD_FIELD, held, message, found);
        }
        for (_, held) in self.namespaces.iter() {
            of_services_only(&held.object.metadata, held, found);
        }
        for (_, held) in self.pods.iter() {
            of_services_only(&held.object.metadata, held, found);
        }
        for (_, held) in self.workloads.iter() {
            of_services_only(&held.object.metadata, held, found);
        }
    }
}

/// Reports a rate limit, if the object has one.
fn useless<T>(meta: &Meta, code: u16, held: &Held<T>, message: String, found: &mut Findings) {
    if meta.annotations.rate_limit.is_some() {
        let field = format!("metadata.annotations[{RATE_LIMIT_ANNOTATION}]");
        found.add(code, held, &field, message);
    }
}

fn tcp(service: &Service) -> impl Iterator<Item = &ServicePort> {
    let ports = service.spec.ports.iter();
    ports.filter(|p| p.protocol == Protocol::TCP)
}
