//! The verdict about one source and one destination, from the policy tables.

use aya_ebpf::btf_maps::lpm_trie::Key;
use underpass_abi::{
    Ip,
    tables::{AddressWord, BlockKey, IdentityPair},
    verdict::{Decision, PolicyHeader, RuleWord, Subjects, Verdict, decide, subject},
};

use crate::{
    maps::{ADDRESSES, BLOCKS, IDENTITIES, POLICIES, RULES, WORKLOADS, entry, entry_word, word},
    workload::{ip_words, words_ip},
};

/// Who is asking, as far as it is proven. Numbers alone, all of them always set: of an enum, LLVM reads
/// words that only another variant has, which the verifier refuses.
#[derive(Clone, Copy)]
pub struct Source {
    /// A workload index, or one of the kinds below.
    number: u64,
    /// Of a source off this node that is no workload: the address may match an IP block.
    high: u64,
    low: u64,
}

/// A process of this node outside the mesh.
const HOST: u64 = 1 << 32;
/// On this node, but no connect of it was seen.
const UNKNOWN_LOCAL: u64 = 2 << 32;
/// Off this node and no workload.
const OUTSIDE: u64 = 3 << 32;

impl Source {
    #[inline(always)]
    const fn plain(number: u64) -> Self {
        Self {
            number,
            high: 0,
            low: 0,
        }
    }

    /// A source on this node: its workload, or the node itself.
    #[inline(always)]
    pub fn local(workload: u32) -> Self {
        if workload == 0 {
            Self::plain(HOST)
        } else {
            Self::plain(u64::from(workload))
        }
    }

    /// A source that no connect on this node explains, by the address it claims.
    #[inline(always)]
    pub fn by_address(ip: &Ip, to: &Ip) -> Self {
        if ip.is_loopback() || ip == to {
            return Self::plain(UNKNOWN_LOCAL);
        }
        match entry_word!(ADDRESSES, ip).map(AddressWord) {
            Some(a) if a.flags() & AddressWord::LOCAL != 0 => Self::plain(UNKNOWN_LOCAL),
            Some(a) if a.workload() != 0 => Self::plain(u64::from(a.workload())),
            _ => {
                let (high, low) = ip_words(ip);
                Self {
                    number: OUTSIDE,
                    high,
                    low,
                }
            }
        }
    }

    /// 0 for what is none.
    #[inline(always)]
    pub fn workload(&self) -> u32 {
        self.number as u32
    }

    #[inline(always)]
    pub fn is_unknown_local(&self) -> bool {
        self.number == UNKNOWN_LOCAL
    }

    #[inline(always)]
    pub fn is_outside(&self) -> bool {
        self.number == OUTSIDE
    }
}

#[inline(always)]
fn subjects(source: u64, ip: &Ip, block_set: u8) -> Subjects {
    match source & 3 << 32 {
        HOST => [subject::HOST, 0],
        OUTSIDE => [block(block_set, ip), subject::OUTSIDE],
        UNKNOWN_LOCAL => [subject::UNKNOWN_LOCAL, 0],
        _ => match IDENTITIES.get(source as u32) {
            Some(&IdentityPair {
                identity,
                namespace,
            }) => [identity, namespace],
            None => [subject::UNKNOWN_LOCAL, 0],
        },
    }
}

#[inline(always)]
fn block(set: u8, ip: &Ip) -> u32 {
    if set == 0 {
        return 0;
    }
    let key = BlockKey {
        set_be: u32::from(set).to_be(),
        ip: *ip,
        pad: 0,
    };
    BLOCKS
        .get(&Key::new(32 + 128, key))
        .map_or(0, |s| *s as u32)
}

pub const ALLOWED: Decision = Decision {
    verdict: Verdict::Allowed,
    policy: 0,
};

/// By the table that a service names (0: no policy).
#[inline(always)]
pub fn by_table(table: u32, source: &Source, port: u16, proto: u8) -> Decision {
    if table == 0 {
        return ALLOWED;
    }
    let question = u64::from(table) | u64::from(port) << 32 | u64::from(proto) << 48;
    let answer = up_ask(question, source.number, source.high, source.low);
    let verdict = match answer >> 32 {
        2 => Verdict::Denied,
        3 => Verdict::Audited,
        _ => Verdict::Allowed,
    };
    Decision {
        verdict,
        policy: answer as u32,
    }
}

/// `verdict << 32 | policy` for `table | port << 32 | proto << 48` and a source's number and
/// address. A global function (see `workload.rs`).
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn up_ask(question: u64, source: u64, high: u64, low: u64) -> u64 {
    let (table, port, proto) = (
        question as u32,
        (question >> 32) as u16,
        (question >> 48) as u8,
    );
    let header = PolicyHeader(word!(POLICIES, table));
    if header.flags() & (PolicyHeader::DENY | PolicyHeader::AUDIT) == 0 {
        return u64::from(Verdict::Allowed as u8) << 32;
    }
    let subjects = subjects(source, &words_ip(high, low), header.block_set());
    let decision = decide(header, table, subjects, port, proto, |key| {
        entry!(RULES, key).map(RuleWord)
    });
    u64::from(decision.verdict as u8) << 32 | u64::from(decision.policy)
}

/// By the destination workload's own policies.
#[inline(always)]
pub fn by_workload(destination: u32, source: &Source, port: u16, proto: u8) -> Decision {
    if destination == 0 || source.workload() == destination {
        return ALLOWED;
    }
    by_table(word!(WORKLOADS, destination) as u32, source, port, proto)
}

/// The stricter of two decisions.
#[inline(always)]
pub fn stricter(a: Decision, b: Decision) -> Decision {
    if a.verdict as u8 == Verdict::Denied as u8 {
        a
    } else if b.verdict as u8 == Verdict::Denied as u8 {
        b
    } else if a.verdict as u8 == Verdict::Audited as u8 {
        a
    } else if b.verdict as u8 == Verdict::Audited as u8 || b.policy != 0 {
        b
    } else {
        a
    }
}
