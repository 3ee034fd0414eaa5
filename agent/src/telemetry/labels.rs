//! The names of recent kinds of connection. Thousands of rows a second differ in little more than
//! their ports; resolving four names for each cost more than all the rest of a row.

use std::sync::Arc;

use underpass_abi::sock::SockState;

use super::{
    Interner, Names, Node,
    hash::FastMap,
    row::{Kind, Labels},
};

/// Kinds kept at most; then all are forgotten.
const MAX: usize = 4_096;

#[derive(Debug, Default)]
pub struct LabelCache {
    known: FastMap<Kind, Arc<Labels>>,
    strings: Interner,
}

impl LabelCache {
    pub fn of(&mut self, s: &SockState, names: &dyn Names, node: &Node) -> Arc<Labels> {
        let kind = Kind::of(s, node);
        if let Some(labels) = self.known.get(&kind) {
            return labels.clone();
        }
        if self.known.len() >= MAX {
            self.known.clear();
        }
        let labels = Arc::new(Labels::of(&kind, names, &mut self.strings));
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

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, net::IpAddr};

    use underpass_abi::{sock::flag, tables::NameKind};

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
    fn an_end_that_only_its_address_names_is_named_after_each_address() {
        let mut cache = LabelCache::default();
        let to = |address: [u8; 4]| SockState {
            source: 1,
            flags: flag::ACTIVE,
            remote: IpAddr::from(address).into(),
            ..SockState::default()
        };
        let mut node = Node::default();
        let mut of = |node: &Node, address| {
            let labels = cache.of(&to(address), &named("shop/web"), node);
            labels.destination.to_string()
        };
        assert_eq!(of(&node, [10, 0, 0, 1]), "outside");
        assert_eq!(of(&node, [127, 0, 0, 1]), "host");
        node.addresses.insert([10, 0, 0, 1].into());
        assert_eq!(of(&node, [10, 0, 0, 1]), "host", "no longer another's");
    }
}
