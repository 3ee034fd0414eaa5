//! The names of recent kinds of connection. Thousands of rows a second differ in little more than
//! their ports; resolving four names for each cost more than all the rest of a row.

use std::{collections::HashMap, sync::Arc};

use underpass_abi::sock::{SockState, flag};

use super::{Interner, Names, Node, row::Labels};

/// Kinds kept at most; then all are forgotten.
const MAX: usize = 4_096;

/// Everything that labels depend on, if no address is among it.
type Kind = [u32; 6];

#[derive(Debug, Default)]
pub struct LabelCache {
    known: HashMap<Kind, Labels>,
    strings: Interner,
}

impl LabelCache {
    pub fn of(&mut self, s: &SockState, names: &dyn Names, node: &Node) -> Labels {
        let Some(kind) = kind(s) else {
            return Labels::of(s, names, node, &mut self.strings);
        };
        if let Some(labels) = self.known.get(&kind) {
            return labels.clone();
        }
        if self.known.len() >= MAX {
            self.known.clear();
        }
        let labels = Labels::of(s, names, node, &mut self.strings);
        self.known.insert(kind, labels.clone());
        labels
    }

    /// Indexes may mean other objects from now on.
    pub fn names_changed(&mut self) {
        self.known.clear();
    }

    pub fn string(&mut self, text: &str) -> Arc<str> {
        self.strings.get(text)
    }
}

/// `None` if an end is named after its address.
fn kind(s: &SockState) -> Option<Kind> {
    const SOURCE: u32 = flag::ACTIVE | flag::SOURCE_HOST | flag::SOURCE_OUTSIDE;
    if s.destination == 0 || (s.source == 0 && s.flags & SOURCE == 0) {
        return None;
    }
    let decided = u32::from(s.verdict) | u32::from(s.layer) << 8;
    Some([
        s.source,
        s.destination,
        s.service,
        s.policy,
        s.flags & SOURCE,
        decided,
    ])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use underpass_abi::tables::NameKind;

    use super::*;

    fn named(workload: &str) -> BTreeMap<(NameKind, u32), String> {
        BTreeMap::from([((NameKind::Workload, 1), workload.to_owned())])
    }

    #[test]
    fn a_reused_index_is_named_anew_after_a_change() {
        let mut cache = LabelCache::default();
        let s = SockState {
            destination: 1,
            flags: flag::ACTIVE,
            ..SockState::default()
        };
        let node = Node::default();
        assert_eq!(
            &*cache.of(&s, &named("shop/old"), &node).destination,
            "shop/old"
        );
        assert_eq!(
            &*cache.of(&s, &named("shop/new"), &node).destination,
            "shop/old"
        );
        cache.names_changed();
        assert_eq!(
            &*cache.of(&s, &named("shop/new"), &node).destination,
            "shop/new"
        );
    }

    #[test]
    fn ends_that_only_an_address_names_are_not_remembered() {
        let s = SockState {
            source: 1,
            flags: flag::ACTIVE,
            ..SockState::default()
        };
        assert_eq!(kind(&s), None);
    }
}
