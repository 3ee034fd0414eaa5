//! From the objects to a plan; of services only those that changed, if nothing else did.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use underpass_abi::{reason::code, shortcut::Mode};

use super::Model;
use crate::{
    Str, compile,
    facts::Facts,
    k8s::{Annotations, EndpointSlice, Meta, Pod, Workload},
    plan::{self, Cause, EnrolledBy, Plan},
    split_name,
};

impl Model {
    /// The plan for these objects and facts. Without a change since the last call, the same plan.
    pub fn compile(&mut self, facts: &Facts) -> Arc<Plan> {
        let dirty = std::mem::take(&mut self.dirty);
        let last = self.last.take().filter(|(_, seen)| seen == facts);
        let plan = match last {
            Some((last, _)) if !dirty.world => {
                if dirty.services.is_empty() {
                    self.last = Some((last.clone(), facts.clone()));
                    return last;
                }
                self.compile_services(&last, dirty.services)
                    .unwrap_or_else(|| self.compile_all(facts))
            }
            _ => self.compile_all(facts),
        };
        let plan = Arc::new(plan);
        self.last = Some((plan.clone(), facts.clone()));
        plan
    }

    /// `None` if what changed goes further: ports of workloads that are steered.
    fn compile_services(&self, last: &Plan, dirty: BTreeSet<Str>) -> Option<Plan> {
        let mut services = (*last.services).clone();
        for name in dirty {
            let before = last.services.get(&name).map(|s| &**s);
            let after = self.service(&last.world, &name);
            if compile::leads(&last.world, before) != compile::leads(&last.world, after.as_ref()) {
                return None;
            }
            match after {
                Some(service) => services.insert(name, Arc::new(service)),
                None => services.remove(&name),
            };
        }
        Some(Plan {
            world: last.world.clone(),
            services: Arc::new(services),
        })
    }

    fn compile_all(&self, facts: &Facts) -> Plan {
        let mut world = compile::World::new(facts);
        for (_, held) in self.policies.iter() {
            world.policy(&held.object);
        }
        let mut pods = self.pods.iter().peekable();
        let mut workloads = self.workloads.iter().peekable();
        loop {
            // Both are sorted; a Pod and a Workload of one name are one workload.
            let name = match (pods.peek(), workloads.peek()) {
                (Some((a, _)), Some((b, _))) => std::cmp::min(*a, *b),
                (Some((a, _)), None) => *a,
                (None, Some((b, _))) => *b,
                (None, None) => break,
            };
            let pod = pods.next_if(|(n, _)| *n == name).map(|(_, h)| &*h.object);
            let workload = workloads
                .next_if(|(n, _)| *n == name)
                .map(|(_, h)| &*h.object);
            let enrolled = self.enrolled(name, pod, workload);
            let words = compile::Words {
                enrolled,
                shortcut: self.shortcut(name, pod, workload),
                observed: enrolled.and_then(|_| self.observed(name, pod, workload)),
            };
            world.workload(name, pod, workload, words);
        }
        for (name, _) in self.services.iter() {
            world.service(name);
        }
        let mut world = world.finish();
        let all = self.services.iter();
        let services =
            all.filter_map(|(name, _)| Some((name.clone(), Arc::new(self.service(&world, name)?))));
        let services: BTreeMap<_, _> = services.collect();
        compile::steer(&mut world, services.values().map(|s| &**s));
        Plan {
            world: Arc::new(world),
            services: Arc::new(services),
        }
    }

    fn service(&self, world: &plan::World, name: &str) -> Option<plan::Service> {
        let service = self.services.get(name)?;
        let slices: Vec<&EndpointSlice> = self.slices_of(name).map(|held| &*held.object).collect();
        let routes = self.routes_of.get(name).into_iter().flatten();
        let routes = routes.filter_map(|route| Some(&self.routes.get(route)?.object));
        let observed = observed("Service", &service.object.metadata);
        let observed = observed.unwrap_or_else(|| self.namespace_observed(name));
        let (service, routes) = (&service.object, routes.collect());
        Some(compile::service(world, service, &slices, routes, observed))
    }

    /// Whose label joins a workload to the mesh.
    pub(super) fn enrolled(
        &self,
        name: &str,
        pod: Option<&Pod>,
        workload: Option<&Workload>,
    ) -> Option<EnrolledBy> {
        let own = workload.and_then(|w| w.metadata.mesh());
        let of_pod = pod.and_then(|p| p.metadata.mesh());
        let (by, joined) = match (own, of_pod) {
            (Some(joined), _) => (EnrolledBy::Workload, joined),
            (None, Some(joined)) => (EnrolledBy::Pod, joined),
            (None, None) => {
                let namespace = self.namespaces.get(split_name(name).0)?;
                let joined = namespace.object.metadata.mesh() == Some(true);
                (EnrolledBy::Namespace, joined)
            }
        };
        joined.then_some(by)
    }

    /// What the annotations of a workload, or of its namespace, say of the shortcut.
    fn shortcut(&self, name: &str, pod: Option<&Pod>, workload: Option<&Workload>) -> Option<Mode> {
        let own = workload.and_then(|w| w.metadata.annotations.shortcut);
        own.or_else(|| pod?.metadata.annotations.shortcut)
            .or_else(|| {
                let namespace = self.namespaces.get(split_name(name).0)?;
                namespace.object.metadata.annotations.shortcut
            })
    }

    /// What asks for the layer Http of all that a workload dials and serves.
    fn observed(
        &self,
        name: &str,
        pod: Option<&Pod>,
        workload: Option<&Workload>,
    ) -> Option<Cause> {
        let own = workload.and_then(|w| observed("Workload", &w.metadata));
        own.or_else(|| observed("Pod", &pod?.metadata))
            .unwrap_or_else(|| self.namespace_observed(name))
    }

    fn namespace_observed(&self, name: &str) -> Option<Cause> {
        let namespace = self.namespaces.get(split_name(name).0)?;
        observed("Namespace", &namespace.object.metadata)?
    }
}

/// What an object's own annotation says, if it has one.
fn observed(kind: &str, meta: &Meta) -> Option<Option<Cause>> {
    let Annotations { observe, .. } = meta.annotations;
    Some(observe?.then(|| Cause {
        reason: code::OBSERVED,
        object: arcstr::format!("{kind} {}", meta.full_name),
    }))
}
