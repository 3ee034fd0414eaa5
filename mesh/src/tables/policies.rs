//! Policy tables: `POLICIES`, `RULES` and `BLOCKS`. Equal tables are kept once.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use underpass_abi::{
    Ip,
    plain::bytes,
    tables::{BlockKey, limits, maps},
    verdict::{PolicyHeader, RuleKey, RuleWord, subject},
};

use super::{TablesError, change::Writer, indexes::Indexes, names::Names};
use crate::{
    facts::DefaultPolicy,
    k8s::{Cidr, Rule, Source},
    plan::{PolicySet, World, spiffe},
};

/// Ids of block sets are one byte of a table's header.
const BLOCK_SETS: usize = 256;

/// A table's contents, in indexes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Content {
    pub header: u64,
    /// Sorted by subject, port and protocol; `table` is 0.
    pub rules: Box<[(RuleKey, u64)]>,
}

/// Prefix length and address of a CIDR as the trie has them.
pub(super) type Prefix = (u32, Ip);

#[derive(Clone, Debug)]
pub(super) struct Policies {
    pub tables: BTreeMap<u32, Arc<Content>>,
    by_content: HashMap<Arc<Content>, u32>,
    pub indexes: Indexes,
    rules: usize,
    /// Block sets by id: the class of each prefix.
    pub sets: BTreeMap<u32, BTreeMap<Prefix, u64>>,
    pub set_ids: Indexes,
}

impl Policies {
    pub(super) fn empty() -> Self {
        Self {
            tables: BTreeMap::new(),
            by_content: HashMap::new(),
            indexes: Indexes::new("POLICIES", limits::POLICIES),
            rules: 0,
            sets: BTreeMap::new(),
            set_ids: Indexes::new("block sets", BLOCK_SETS),
        }
    }

    pub(super) fn adopt_table(&mut self, id: u32, content: Content) {
        let content = Arc::new(content);
        self.rules += content.rules.len();
        self.by_content.insert(content.clone(), id);
        self.tables.insert(id, content);
    }

    /// Tables of a world's policy sets, by position. New ones are written.
    pub(super) fn lay_out(
        &mut self,
        world: &World,
        names: &mut Names,
        out: &mut Writer,
    ) -> Result<Box<[u32]>, TablesError> {
        let block_set = self.block_set(&world.blocks, out)?;
        names.identities.begin_pass();
        names.namespaces.begin_pass();
        names.policies.begin_pass();
        let compile = |set| compile(world, set, block_set, names);
        let contents: Result<Vec<Content>, _> = world.policy_sets.iter().map(compile).collect();
        contents?.into_iter().map(|c| self.table(c, out)).collect()
    }

    fn table(&mut self, content: Content, out: &mut Writer) -> Result<u32, TablesError> {
        if let Some(id) = self.by_content.get(&content) {
            return Ok(*id);
        }
        let need = self.rules + content.rules.len();
        if need > limits::RULES {
            return Err(TablesError::Limit {
                what: "RULES",
                need,
                limit: limits::RULES,
            });
        }
        let id = self.indexes.take()?;
        for (key, word) in &content.rules {
            out.fresh(maps::RULES, &RuleKey { table: id, ..*key }, word);
        }
        out.fresh(maps::POLICIES, &id, &content.header);
        self.adopt_table(id, content);
        Ok(id)
    }

    /// Deletes tables that are not in use, and all block sets but the current one.
    pub(super) fn sweep(&mut self, used: &BTreeSet<u32>, blocks: &[Cidr], out: &mut Writer) {
        let unused: Vec<u32> = self
            .tables
            .keys()
            .filter(|id| !used.contains(id))
            .copied()
            .collect();
        for id in unused {
            let Some(content) = self.tables.remove(&id) else {
                continue;
            };
            for (key, _) in &content.rules {
                out.stale(maps::RULES, bytes(&RuleKey { table: id, ..*key }));
            }
            self.rules -= content.rules.len();
            if self.by_content.get(&content) == Some(&id) {
                self.by_content.remove(&content);
            }
            self.indexes.free(id);
        }
        let current = classes(blocks);
        let mut kept = false;
        let stale: Vec<u32> = self
            .sets
            .iter()
            .filter_map(|(id, set)| {
                let keep = !kept && *set == current;
                kept |= keep;
                (!keep).then_some(*id)
            })
            .collect();
        for id in stale {
            for prefix in self
                .sets
                .remove(&id)
                .into_iter()
                .flat_map(BTreeMap::into_keys)
            {
                out.stale(maps::BLOCKS, &block_key(id, prefix));
            }
            self.set_ids.free(id);
        }
    }

    /// True if `sweep` would do something.
    pub(super) fn wants_sweep(&self, used: &BTreeSet<u32>, blocks: &[Cidr]) -> bool {
        self.tables.len() != used.len() || self.sets.len() != usize::from(!blocks.is_empty())
    }

    /// The set of these blocks, 0 for none. Any other blocks get a fresh id, so that a table and its
    /// classes change together.
    fn block_set(&mut self, blocks: &[Cidr], out: &mut Writer) -> Result<u8, TablesError> {
        if blocks.is_empty() {
            return Ok(0);
        }
        let classes = classes(blocks);
        if let Some((id, _)) = self.sets.iter().find(|(_, set)| **set == classes) {
            return Ok(*id as u8);
        }
        let need = classes.len() + self.sets.values().map(BTreeMap::len).sum::<usize>();
        if need > limits::BLOCKS {
            return Err(TablesError::Limit {
                what: "BLOCKS",
                need,
                limit: limits::BLOCKS,
            });
        }
        let id = self.set_ids.take()?;
        for (prefix, class) in &classes {
            out.fresh_bytes(maps::BLOCKS, &block_key(id, *prefix), bytes(class));
        }
        self.sets.insert(id, classes);
        Ok(id as u8)
    }
}

/// Each known CIDR is a class: an address belongs to the longest that contains it.
fn classes(blocks: &[Cidr]) -> BTreeMap<Prefix, u64> {
    blocks
        .iter()
        .enumerate()
        .map(|(i, b)| (prefix(b), u64::from(class(i))))
        .collect()
}

fn class(position: usize) -> u32 {
    subject::block(position as u32 + 1)
}

fn prefix(block: &Cidr) -> Prefix {
    let before = if block.ip.is_ipv4() { 32 + 96 } else { 32 };
    (before + u32::from(block.prefix), Ip::from(block.ip))
}

fn block_key(set: u32, (len, ip): Prefix) -> Vec<u8> {
    let key = BlockKey {
        set_be: set.to_be(),
        ip,
        pad: 0,
    };
    [bytes(&len), bytes(&key)].concat()
}

/// The inverse, for adoption.
pub(super) fn parse_block_key(key: &[u8]) -> Option<(u32, Prefix)> {
    let (len, key) = key.split_first_chunk::<4>()?;
    let key: BlockKey = underpass_abi::plain::from_bytes(key)?;
    Some((u32::from_be(key.set_be), (u32::from_ne_bytes(*len), key.ip)))
}

/// One set of policies as a table. Where a policy is in force, those in audit mode grant nothing
/// and refuse nothing, so they leave no trace.
fn compile(
    world: &World,
    set: &PolicySet,
    block_set: u8,
    names: &mut Names,
) -> Result<Content, TablesError> {
    let enforced = set.policies.iter().any(|p| !p.object.spec.audit);
    let in_effect = || {
        set.policies
            .iter()
            .filter(|p| p.object.spec.audit != enforced)
    };
    let Some(first) = in_effect().next() else {
        let flags = match world.default_policy {
            DefaultPolicy::Allow => 0,
            DefaultPolicy::Deny => PolicyHeader::DENY,
            DefaultPolicy::Audit => PolicyHeader::AUDIT,
        };
        return Ok(Content {
            header: PolicyHeader::new(flags, 0, 0, 0).0,
            rules: Box::default(),
        });
    };
    let first = names.policies.ask_shared(&first.name)?;
    let mut rules: BTreeMap<RuleKey, u64> = BTreeMap::new();
    let kind = if enforced {
        RuleWord::ENFORCED
    } else {
        RuleWord::AUDITED
    };
    for policy in in_effect() {
        let index = names.policies.ask_shared(&policy.name)?;
        let word = RuleWord::new(kind, index).0;
        for rule in &policy.object.spec.rules {
            let namespace = policy.object.metadata.namespace();
            let subjects = subjects(world, rule, namespace, names)?;
            let mut ports: Vec<_> = rule
                .ports
                .iter()
                .map(|p| (p.port, p.protocol.number()))
                .collect();
            if ports.is_empty() {
                ports.push((0, 0));
            }
            for subject in subjects {
                for (port, proto) in &ports {
                    let key = RuleKey {
                        table: 0,
                        subject,
                        port: *port,
                        proto: *proto,
                        pad: 0,
                    };
                    // The first policy by name is the one that is named.
                    rules.entry(key).or_insert(word);
                }
            }
        }
    }
    let flags = flags(enforced, rules.keys());
    let by_block = rules.keys().any(|k| subject::kind(k.subject) == 3);
    let (deny, audit) = if enforced { (first, 0) } else { (0, first) };
    let header = PolicyHeader::new(flags, if by_block { block_set } else { 0 }, deny, audit);
    Ok(Content {
        header: header.0,
        rules: rules.into_iter().collect(),
    })
}

/// Which lookups are worth their time.
fn flags<'a>(enforced: bool, rules: impl Iterator<Item = &'a RuleKey>) -> u8 {
    let mut flags = if enforced {
        PolicyHeader::DENY
    } else {
        PolicyHeader::AUDIT
    };
    for rule in rules {
        flags |= match subject::kind(rule.subject) {
            0 => PolicyHeader::BY_ANY,
            2 => PolicyHeader::BY_WIDE,
            _ if rule.subject == subject::OUTSIDE => PolicyHeader::BY_WIDE,
            _ => PolicyHeader::BY_NARROW,
        };
        flags |= if rule.port == 0 {
            PolicyHeader::ALL_PORTS
        } else {
            PolicyHeader::BY_PORT
        };
    }
    flags
}

fn subjects(
    world: &World,
    rule: &Rule,
    namespace: &str,
    names: &mut Names,
) -> Result<BTreeSet<u32>, TablesError> {
    if rule.sources.is_empty() {
        return Ok(BTreeSet::from([subject::ANY]));
    }
    let mut found = BTreeSet::new();
    for source in &rule.sources {
        let Source {
            service_accounts,
            spiffe: ids,
            namespaces,
            ip_blocks,
            host,
            outside,
        } = source;
        let of_accounts = service_accounts
            .iter()
            .map(|a| spiffe(a.namespace.as_deref().unwrap_or(namespace), &a.name));
        for identity in of_accounts.chain(ids.iter().cloned()) {
            found.insert(subject::identity(names.identities.ask(&identity)?));
        }
        for namespace in namespaces {
            found.insert(subject::namespace(names.namespaces.ask(namespace)?));
        }
        for block in ip_blocks {
            // Every class inside the block, without those inside its exceptions.
            let inside = world.blocks.iter().enumerate().filter(|(_, known)| {
                block.cidr.covers(known) && !block.except.iter().any(|e| e.covers(known))
            });
            found.extend(inside.map(|(i, _)| class(i)));
        }
        if *host {
            found.insert(subject::HOST);
        }
        if *outside {
            found.insert(subject::OUTSIDE);
        }
    }
    Ok(found)
}
