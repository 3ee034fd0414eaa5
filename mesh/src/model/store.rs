//! Objects of one kind, by name. An object that several files hold counts once, from the first file
//! by name.

use std::{collections::BTreeMap, sync::Arc};

use crate::Str;

#[derive(Clone, Debug)]
pub(super) struct Held<T> {
    pub file: Str,
    pub line: u32,
    pub object: Arc<T>,
}

/// By full name.
#[derive(Debug)]
pub(super) struct Store<T> {
    /// Those that count.
    first: BTreeMap<Str, Held<T>>,
    /// In other files, sorted by file name; never empty.
    others: BTreeMap<Str, Vec<Held<T>>>,
}

impl<T> Default for Store<T> {
    fn default() -> Self {
        Self {
            first: BTreeMap::new(),
            others: BTreeMap::new(),
        }
    }
}

/// The object that counts, before and after; not equal.
pub(super) struct Changed<T> {
    pub before: Option<Arc<T>>,
    pub after: Option<Arc<T>>,
}

impl<T: PartialEq> Store<T> {
    pub fn get(&self, name: &str) -> Option<&Held<T>> {
        self.first.get(name)
    }

    /// Those that count, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Str, &Held<T>)> {
        self.first.iter()
    }

    /// Those that do not count, each with the one that does.
    pub fn duplicates(&self) -> impl Iterator<Item = (&Str, &Held<T>, &Held<T>)> {
        self.others.iter().flat_map(|(name, others)| {
            let first = &self.first[name];
            others.iter().map(move |other| (name, first, other))
        })
    }

    /// The object as a file holds it.
    pub fn put(&mut self, name: Str, held: Held<T>) -> Option<Changed<T>> {
        let before = self.take_out(&name, &held.file);
        let held = match before.mine {
            // The same as before: keep the shared object, so that nothing looks changed.
            Some(mine) if mine == held.object => Held {
                object: mine,
                ..held
            },
            _ => held,
        };
        let other = match self.first.get_mut(&name) {
            Some(first) if first.file < held.file => Some(held),
            Some(first) => Some(std::mem::replace(first, held)),
            None => {
                self.first.insert(name.clone(), held);
                None
            }
        };
        if let Some(other) = other {
            let others = self.others.entry(name.clone()).or_default();
            let at = others.partition_point(|o| o.file < other.file);
            others.insert(at, other);
        }
        changed(before.counted, self.object(&name))
    }

    /// A file holds the object no more.
    pub fn remove(&mut self, name: &str, file: &str) -> Option<Changed<T>> {
        let before = self.take_out(name, file);
        changed(before.counted, self.object(name))
    }

    fn object(&self, name: &str) -> Option<Arc<T>> {
        self.get(name).map(|h| h.object.clone())
    }

    fn take_out(&mut self, name: &str, file: &str) -> Before<T> {
        let counted = self.object(name);
        let mut others = self.others.remove(name).unwrap_or_default();
        let mine = match self.first.get_mut(name) {
            Some(first) if *first.file == *file => {
                if others.is_empty() {
                    self.first.remove(name)
                } else {
                    Some(std::mem::replace(first, others.remove(0)))
                }
            }
            _ => {
                let at = others.iter().position(|o| *o.file == *file);
                at.map(|at| others.remove(at))
            }
        };
        if !others.is_empty() {
            self.others.insert(name.into(), others);
        }
        Before {
            counted,
            mine: mine.map(|h| h.object),
        }
    }
}

struct Before<T> {
    counted: Option<Arc<T>>,
    mine: Option<Arc<T>>,
}

fn changed<T: PartialEq>(before: Option<Arc<T>>, after: Option<Arc<T>>) -> Option<Changed<T>> {
    let same = match (&before, &after) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a == b,
        (None, None) => true,
        _ => false,
    };
    if same {
        None
    } else {
        Some(Changed { before, after })
    }
}
