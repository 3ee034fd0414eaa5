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
            Object::Namespace(o) => self.edit(o, |s, o| s.labels(&mut o.metadata)),
            Object::AuthorizationPolicy(o) => self.edit(o, |s, o| s.labels(&mut o.metadata)),
            Object::Pod(o) => self.edit(o, |s, o| {
                s.text(&mut o.metadata.full_name);
                s.labels(&mut o.metadata);
                s.optional(&mut o.service_account_name);
            }),
            Object::Workload(o) => self.edit(o, |s, o| {
                s.text(&mut o.metadata.full_name);
                s.labels(&mut o.metadata);
                s.optional(&mut o.spec.service_account_name);
            }),
            Object::Service(o) => self.edit(o, |s, o| {
                s.text(&mut o.metadata.full_name);
                s.labels(&mut o.metadata);
                for port in &mut o.spec.ports {
                    s.text(&mut port.name);
                }
            }),
            Object::HttpRoute(o) => self.edit(o, |s, o| {
                s.text(&mut o.full_name);
                o.parents.iter_mut().for_each(|p| s.text(&mut p.service));
                let backends = o.rules.iter_mut().flat_map(|r| &mut r.backends);
                backends.for_each(|b| s.text(&mut b.service));
            }),
            Object::EndpointSlice(o) => self.edit(o, |s, o| {
                s.labels(&mut o.metadata);
                for port in &mut o.ports {
                    s.text(&mut port.name);
                }
                for endpoint in &mut o.endpoints {
                    s.optional(&mut endpoint.target);
                }
            }),
        }
    }

    fn edit<T>(&mut self, object: &mut Arc<T>, edit: impl FnOnce(&mut Self, &mut T)) {
        if let Some(object) = Arc::get_mut(object) {
            edit(self, object);
        }
    }

    fn labels(&mut self, meta: &mut Meta) {
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
            self.all
                .retain(|text| Str::strong_count(text).is_some_and(|n| n > 1));
            self.swept = self.all.len() + self.labels.len();
        }
    }
}
