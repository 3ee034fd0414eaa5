//! Objects by file, and the way from them to a plan. Only what changed is compiled again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use underpass_abi::reason::code;

pub use crate::k8s::{Locator, NetnsRef};
use crate::{
    Str,
    facts::Facts,
    k8s::{
        AuthorizationPolicy, EndpointSlice, Kind, Namespace, Object, Pod, SERVICE_LABEL, Service,
        Workload, route::HttpRoute,
    },
    parse::{Parsed, parse},
    plan::Plan,
    problem::{Problem, Severity},
};
use share::Shared;
use store::{Held, Store};

mod check;
mod compile;
mod share;
mod store;

/// What reading a file did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The same objects as before.
    Unchanged,
    Changed,
    /// Not usable: the file's last good version stays; [`Model::problems`] tells why.
    Rejected,
}

/// Kind and full name.
type ObjectKey = (Kind, Str);

#[derive(Debug, Default)]
struct File {
    /// Sorted.
    keys: Box<[ObjectKey]>,
    problems: Vec<Problem>,
}

/// All objects, by the file that they are in.
#[derive(Debug, Default)]
pub struct Model {
    files: BTreeMap<Str, File>,
    namespaces: Store<Namespace>,
    pods: Store<Pod>,
    workloads: Store<Workload>,
    services: Store<Service>,
    slices: Store<EndpointSlice>,
    policies: Store<AuthorizationPolicy>,
    routes: Store<HttpRoute>,
    /// Names of the slices that a service has, sorted.
    slices_of: HashMap<Str, Vec<Str>>,
    /// Names of the routes that are attached to a service, sorted.
    routes_of: HashMap<Str, Vec<Str>>,
    shared: Shared,
    dirty: Dirty,
    last: Option<(Arc<Plan>, Facts)>,
}

/// A workload that the agent must find on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// `namespace/name`; the key of [`Facts::places`].
    pub full_name: Str,
    pub locator: Locator,
    /// In the mesh: its namespace needs a guard.
    pub enrolled: bool,
}

/// What must be compiled again.
#[derive(Debug, Default)]
struct Dirty {
    world: bool,
    services: BTreeSet<Str>,
}

impl Model {
    /// Reads a file's new text. A file that cannot be used keeps its last good version.
    pub fn set_file(&mut self, name: &str, text: &str) -> Outcome {
        match parse(name, text) {
            Ok(parsed) => match self.install(name.into(), parsed) {
                true => Outcome::Changed,
                false => Outcome::Unchanged,
            },
            Err(problems) => {
                self.files.entry(name.into()).or_default().problems = problems;
                Outcome::Rejected
            }
        }
    }

    /// Notes that a file could not be read (`code`: UNREADABLE or TOO_LARGE); its last good version
    /// stays.
    pub fn unreadable(&mut self, name: &str, code: u16, message: String) {
        let file: Str = name.into();
        let problem = Problem {
            severity: Severity::Error,
            code,
            file: file.clone(),
            line: 0,
            field: String::new(),
            message,
        };
        self.files.entry(file).or_default().problems = vec![problem];
    }

    /// True if the file was known.
    pub fn remove_file(&mut self, name: &str) -> bool {
        let Some((file, old)) = self.files.remove_entry(name) else {
            return false;
        };
        for key in &old.keys {
            self.take(&file, key);
        }
        true
    }

    /// Names of all files.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(|f| &**f)
    }

    /// Workloads to be found on this node.
    pub fn wanted(&self) -> Vec<Wanted> {
        let found = self.workloads.iter().filter_map(|(name, held)| {
            let locator = held.object.spec.locator.clone()?;
            let pod = self.pods.get(name).map(|h| &*h.object);
            let enrolled = self.enrolled(name, pod, Some(&held.object)).is_some();
            Some(Wanted {
                full_name: name.clone(),
                locator,
                enrolled,
            })
        });
        found.collect()
    }

    /// What is wrong with single files, by file and line.
    pub fn problems(&self) -> Vec<Problem> {
        self.files
            .values()
            .flat_map(|f| f.problems.iter().cloned())
            .collect()
    }

    fn slices_of(&self, service: &str) -> impl Iterator<Item = &Held<EndpointSlice>> {
        let names = self.slices_of.get(service).into_iter().flatten();
        names.filter_map(|slice| self.slices.get(slice))
    }

    /// True if anything changed.
    fn install(&mut self, file: Str, parsed: Parsed) -> bool {
        let mut keys = BTreeSet::new();
        let mut problems = parsed.warnings;
        let mut changed = false;
        for (line, mut object) in parsed.objects {
            self.shared.object(&mut object);
            let key = key_of(&object);
            if keys.contains(&key) {
                let kind = key.0.name();
                let message = format!("{kind} {} is in this file before", key.1);
                problems.push(Problem {
                    severity: Severity::Warning,
                    code: code::DUPLICATE_OBJECT,
                    file: file.clone(),
                    line,
                    field: String::new(),
                    message,
                });
                continue;
            }
            changed |= self.put(&file, line, key.1.clone(), object);
            keys.insert(key);
        }
        let keys: Box<[ObjectKey]> = keys.into_iter().collect();
        let old = self.files.insert(file.clone(), File { keys, problems });
        for key in old.into_iter().flat_map(|f| f.keys) {
            if self.files[&file].keys.binary_search(&key).is_err() {
                self.take(&file, &key);
                changed = true;
            }
        }
        self.shared.sweep();
        changed
    }

    fn put(&mut self, file: &Str, line: u32, name: Str, object: Object) -> bool {
        fn held<T>(file: &Str, line: u32, object: Arc<T>) -> Held<T> {
            Held {
                file: file.clone(),
                line,
                object,
            }
        }
        let world = match object {
            Object::Namespace(o) => self.namespaces.put(name, held(file, line, o)).is_some(),
            Object::Pod(o) => self.pods.put(name, held(file, line, o)).is_some(),
            Object::Workload(o) => self.workloads.put(name, held(file, line, o)).is_some(),
            Object::AuthorizationPolicy(o) => {
                self.policies.put(name, held(file, line, o)).is_some()
            }
            Object::Service(o) => {
                let changed = self.services.put(name.clone(), held(file, line, o));
                return self.service_changed(&name, changed);
            }
            Object::EndpointSlice(o) => {
                let changed = self.slices.put(name.clone(), held(file, line, o));
                return self.slice_changed(&name, changed);
            }
            Object::HttpRoute(o) => {
                let changed = self.routes.put(name.clone(), held(file, line, o));
                return self.route_changed(&name, changed);
            }
        };
        self.dirty.world |= world;
        world
    }

    fn take(&mut self, file: &str, (kind, name): &ObjectKey) {
        self.dirty.world |= match kind {
            Kind::Namespace => self.namespaces.remove(name, file).is_some(),
            Kind::Pod => self.pods.remove(name, file).is_some(),
            Kind::Workload => self.workloads.remove(name, file).is_some(),
            Kind::AuthorizationPolicy => self.policies.remove(name, file).is_some(),
            Kind::Service => {
                let changed = self.services.remove(name, file);
                self.service_changed(name, changed);
                false
            }
            Kind::EndpointSlice => {
                let changed = self.slices.remove(name, file);
                self.slice_changed(name, changed);
                false
            }
            Kind::HttpRoute => {
                let changed = self.routes.remove(name, file);
                self.route_changed(name, changed);
                false
            }
        };
    }

    fn service_changed(&mut self, name: &Str, changed: Option<store::Changed<Service>>) -> bool {
        let Some(changed) = changed else { return false };
        // Policies look for services by name: which there are is part of the world.
        self.dirty.world |= changed.before.is_none() || changed.after.is_none();
        self.dirty.services.insert(name.clone());
        true
    }

    fn slice_changed(
        &mut self,
        name: &Str,
        changed: Option<store::Changed<EndpointSlice>>,
    ) -> bool {
        let Some(changed) = changed else { return false };
        if let Some(service) = changed.before.as_deref().and_then(service_of) {
            forget(&mut self.slices_of, &service, name);
            self.dirty.services.insert(service);
        }
        if let Some(mut service) = changed.after.as_deref().and_then(service_of) {
            self.shared.text(&mut service);
            note(&mut self.slices_of, &service, name);
            self.dirty.services.insert(service);
        }
        true
    }

    fn route_changed(&mut self, name: &Str, changed: Option<store::Changed<HttpRoute>>) -> bool {
        let Some(changed) = changed else { return false };
        for parent in changed.before.iter().flat_map(|r| &r.parents) {
            forget(&mut self.routes_of, &parent.service, name);
            self.dirty.services.insert(parent.service.clone());
        }
        for parent in changed.after.iter().flat_map(|r| &r.parents) {
            note(&mut self.routes_of, &parent.service, name);
            self.dirty.services.insert(parent.service.clone());
        }
        true
    }
}

/// Takes a name from those that a service has.
fn forget(of: &mut HashMap<Str, Vec<Str>>, service: &Str, name: &Str) {
    if let Some(names) = of.get_mut(service) {
        names.retain(|known| known != name);
        if names.is_empty() {
            of.remove(service);
        }
    }
}

/// Adds a name to those that a service has, once: a route may name a service for several ports.
fn note(of: &mut HashMap<Str, Vec<Str>>, service: &Str, name: &Str) {
    let names = of.entry(service.clone()).or_default();
    if let Err(at) = names.binary_search(name) {
        names.insert(at, name.clone());
    }
}

/// The full name of the service that a slice belongs to.
fn service_of(slice: &EndpointSlice) -> Option<Str> {
    let service = slice.metadata.labels.get(SERVICE_LABEL)?;
    Some(arcstr::format!("{}/{service}", slice.metadata.namespace()))
}

fn key_of(object: &Object) -> ObjectKey {
    (object.kind(), object.full_name().clone())
}

#[cfg(test)]
mod tests;
