//! One copy of each string that many objects repeat: names, labels, accounts.

use std::{collections::HashSet, sync::Arc};

use crate::{
    Str,
    k8s::{Labels, Meta, Object},
};

#[derive(Debug, Default)]
pub(super) struct Shared {
    all: HashSet<Str>,
    labels: HashSet<Arc<[(Str, Str)]>>,
    /// Size after the last sweep.
    swept: usize,
}

impl Shared {
    pub fn text(&mut self, text: &mut Str) {
        match self.all.get(text) {
            Some(known) => *text = known.clone(),
            None => {
                self.all.insert(text.clone());
            }
        }
    }

    /// Shares the strings of an object that was just parsed.
    pub fn object(&mut self, object: &mut Object) {
        match object {
            Object::Namespace(o) => self.edit(o, |s, o| s.meta(&mut o.metadata)),
            Object::AuthorizationPolicy(o) => self.edit(o, |s, o| s.meta(&mut o.metadata)),
            Object::Pod(o) => self.edit(o, |s, o| {
                s.meta(&mut o.metadata);
                s.optional(&mut o.spec.service_account_name);
                s.optional(&mut o.spec.node_name);
            }),
            Object::Workload(o) => self.edit(o, |s, o| {
                s.meta(&mut o.metadata);
                s.optional(&mut o.spec.service_account_name);
            }),
            Object::Service(o) => self.edit(o, |s, o| {
                s.meta(&mut o.metadata);
                for port in &mut o.spec.ports {
                    s.text(&mut port.name);
                    s.optional(&mut port.app_protocol);
                }
            }),
            Object::EndpointSlice(o) => self.edit(o, |s, o| {
                s.meta(&mut o.metadata);
                for port in &mut o.ports {
                    s.text(&mut port.name);
                }
                for target in o.endpoints.iter_mut().filter_map(|e| e.target_ref.as_mut()) {
                    s.optional(&mut target.kind);
                    s.optional(&mut target.namespace);
                    s.optional(&mut target.name);
                }
            }),
        }
    }

    fn edit<T>(&mut self, object: &mut Arc<T>, edit: impl FnOnce(&mut Self, &mut T)) {
        if let Some(object) = Arc::get_mut(object) {
            edit(self, object);
        }
    }

    fn meta(&mut self, meta: &mut Meta) {
        self.text(&mut meta.name);
        self.text(&mut meta.namespace);
        let Labels(labels) = &mut meta.labels;
        match self.labels.get(&*labels) {
            Some(known) => *labels = known.clone(),
            None => {
                for (key, value) in Arc::get_mut(labels).into_iter().flatten() {
                    self.text(key);
                    self.text(value);
                }
                self.labels.insert(labels.clone());
            }
        }
    }

    fn optional(&mut self, text: &mut Option<Str>) {
        if let Some(text) = text {
            self.text(text);
        }
    }

    /// Forgets what nobody uses any more, once that may be much.
    pub fn sweep(&mut self) {
        if self.all.len() + self.labels.len() > 2 * self.swept + 1024 {
            self.labels.retain(|labels| Arc::strong_count(labels) > 1);
            self.all.retain(|text| Arc::strong_count(text) > 1);
            self.swept = self.all.len() + self.labels.len();
        }
    }
}
