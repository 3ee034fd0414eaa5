//! Objects of one kind, by name. An object that several files hold counts once, from the first file
//! by name.

use std::{collections::BTreeMap, sync::Arc};

use crate::Str;

/// (namespace, name).
pub(super) type Name = (Str, Str);

#[derive(Clone, Debug)]
pub(super) struct Held<T> {
    pub file: Str,
    pub line: u32,
    pub object: Arc<T>,
}

#[derive(Debug)]
struct Slot<T> {
    first: Held<T>,
    /// In other files, sorted by file name.
    others: Vec<Held<T>>,
}

#[derive(Debug)]
pub(super) struct Store<T>(BTreeMap<Name, Slot<T>>);

impl<T> Default for Store<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

/// The object that counts, before and after; not equal.
pub(super) struct Changed<T> {
    pub before: Option<Arc<T>>,
    pub after: Option<Arc<T>>,
}

impl<T: PartialEq> Store<T> {
    pub fn get(&self, name: &Name) -> Option<&Held<T>> {
        self.0.get(name).map(|slot| &slot.first)
    }

    /// Those that count, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &Held<T>)> {
        self.0.iter().map(|(name, slot)| (name, &slot.first))
    }

    /// Those that do not count, each with the one that does.
    pub fn duplicates(&self) -> impl Iterator<Item = (&Name, &Held<T>, &Held<T>)> {
        self.0.iter().flat_map(|(name, slot)| {
            slot.others
                .iter()
                .map(move |other| (name, &slot.first, other))
        })
    }

    /// The object as a file holds it.
    pub fn put(&mut self, name: Name, held: Held<T>) -> Option<Changed<T>> {
        let before = self.take_out(&name, &held.file);
        let held = match before.mine {
            // The same as before: keep the shared object, so that nothing looks changed.
            Some(mine) if mine == held.object => Held {
                object: mine,
                ..held
            },
            _ => held,
        };
        let slot = match self.0.remove(&name) {
            None => Slot {
                first: held,
                others: Vec::new(),
            },
            Some(mut slot) => {
                if held.file < slot.first.file {
                    let second = std::mem::replace(&mut slot.first, held);
                    slot.others.insert(0, second);
                } else {
                    let at = slot.others.partition_point(|o| o.file < held.file);
                    slot.others.insert(at, held);
                }
                slot
            }
        };
        let after = slot.first.object.clone();
        self.0.insert(name, slot);
        changed(before.counted, Some(after))
    }

    /// A file holds the object no more.
    pub fn remove(&mut self, name: &Name, file: &str) -> Option<Changed<T>> {
        let before = self.take_out(name, file);
        changed(before.counted, self.get(name).map(|h| h.object.clone()))
    }

    fn take_out(&mut self, name: &Name, file: &str) -> Before<T> {
        let Some(slot) = self.0.get_mut(name) else {
            return Before {
                counted: None,
                mine: None,
            };
        };
        let counted = Some(slot.first.object.clone());
        let mine = if &*slot.first.file == file {
            let first = if slot.others.is_empty() {
                self.0.remove(name).map(|s| s.first)
            } else {
                let second = slot.others.remove(0);
                Some(std::mem::replace(&mut slot.first, second))
            };
            first.map(|h| h.object)
        } else {
            let at = slot.others.iter().position(|o| &*o.file == file);
            at.map(|at| slot.others.remove(at).object)
        };
        Before { counted, mine }
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
