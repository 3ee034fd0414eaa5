//! Which layer serves a side of a connection, and why. Chosen here and nowhere else.

use underpass_abi::{reason::code, sock::Layer};

use super::{Cause, Choice, Endpoint, Service, ServicePort, Workload, World, verdict::Who};

impl World {
    /// Of a source that dials a service. The kernel balances for every process of the node.
    pub(super) fn outbound(&self, who: &Who, service: &Service, port: &ServicePort) -> Choice {
        let source = who.workload();
        let observed = source.and_then(|w| w.observed.clone());
        // An observed workload dials whatever speaks TCP through the worker, which passes on what is no HTTP.
        let dialed = port.http.clone().or(observed.filter(|_| port.proto == 6));
        let Some(cause) = dialed.clone().or_else(|| service.asks(port.port)) else {
            return Choice {
                layer: Layer::Kernel,
                reason: code::NO_L7_NEEDED,
                ..plain(source)
            };
        };
        let reason = match source {
            None => code::NOT_A_WORKLOAD,
            Some(w) if !w.enrolled() => code::NOT_ENROLLED,
            _ if dialed.is_none() => code::NOT_HTTP_PORT,
            Some(w) => match self.no_door(w) {
                None => return http(&cause),
                Some(reason) => reason,
            },
        };
        kernel(reason, &cause)
    }

    /// Of a workload's own port.
    pub(super) fn inbound(&self, endpoint: &Endpoint, proto: u8) -> Choice {
        let workload = endpoint.workload.map(|i| &self.workloads[i as usize]);
        let (Some(position), Some(to), 6) = (endpoint.workload, workload, proto) else {
            return plain(workload);
        };
        if let Some(wanted) = self.wanted_at(position, endpoint.port) {
            return match self.no_door(to) {
                None => http(&wanted.cause),
                Some(reason) => kernel(reason, &wanted.cause),
            };
        }
        let judged = match to.local {
            true => None,
            false => self.judged_elsewhere(to, endpoint.port),
        };
        judged.map_or_else(
            || plain(workload),
            |cause| kernel(code::ON_OTHER_NODE, &cause),
        )
    }

    /// A policy that judges requests at a port of another node's workload.
    fn judged_elsewhere(&self, to: &Workload, port: u16) -> Option<Cause> {
        let policies = &self.policy_sets[to.policies as usize].policies;
        let here = policies.iter().find(|p| {
            let mut rules = p.object.spec.rules.iter();
            rules.any(|r| r.of_requests() && r.ports.iter().any(|p| p.port == port))
        })?;
        Some(Cause {
            reason: code::REQUEST_RULES,
            object: arcstr::format!("AuthorizationPolicy {}", here.name),
        })
    }

    /// Why no worker serves an enrolled workload; `None`: one does.
    fn no_door(&self, workload: &Workload) -> Option<u16> {
        match workload {
            w if w.door => None,
            w if !w.local => Some(code::ON_OTHER_NODE),
            w if w.netns() != 0 && !self.alone(w) => Some(code::SHARED_NAMESPACE_NO_HTTP),
            _ => Some(code::NO_DOOR),
        }
    }
}

fn http(cause: &Cause) -> Choice {
    Choice {
        layer: Layer::Http,
        reason: cause.reason,
        object: cause.object.clone(),
    }
}

/// Although something asks for more.
fn kernel(reason: u16, cause: &Cause) -> Choice {
    Choice {
        layer: Layer::Kernel,
        reason,
        object: cause.object.clone(),
    }
}

/// Where nothing asks for more than the kernel.
pub(super) fn plain(workload: Option<&Workload>) -> Choice {
    match workload.map(Workload::enrolled_object) {
        Some(Some(by)) => Choice {
            layer: Layer::Kernel,
            reason: code::NO_L7_NEEDED,
            object: by,
        },
        Some(None) => Choice {
            layer: Layer::None,
            reason: code::NOT_ENROLLED,
            object: "".into(),
        },
        None => Choice {
            layer: Layer::None,
            reason: code::NOT_A_WORKLOAD,
            object: "".into(),
        },
    }
}
