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

/// Who is asking, as far as it is proven.
#[derive(Clone, Copy)]
pub enum Source {
    Workload(u32),
    /// A process of this node outside the mesh.
    Host,
    /// On this node, but no connect of it was seen.
    UnknownLocal,
    /// Off this node and no workload; the address may match an IP block.
    Outside(Ip),
}

impl Source {
    /// A source on this node: its workload, or the node itself.
    #[inline(always)]
    pub fn local(workload: u32) -> Self {
        if workload == 0 {
            Self::Host
        } else {
            Self::Workload(workload)
        }
    }

    /// A source that no connect on this node explains, by the address it claims.
    #[inline(always)]
    pub fn by_address(ip: &Ip, to: &Ip) -> Self {
        if ip.is_loopback() || ip == to {
            return Self::UnknownLocal;
        }
        match entry_word!(ADDRESSES, ip).map(AddressWord) {
            Some(a) if a.flags() & AddressWord::LOCAL != 0 => Self::UnknownLocal,
            Some(a) if a.workload() != 0 => Self::Workload(a.workload()),
            _ => Self::Outside(*ip),
        }
    }

    #[inline(always)]
    pub fn workload(&self) -> u32 {
        if let Self::Workload(w) = self { *w } else { 0 }
    }

    /// Kind and workload as one number, for [`up_ask`].
    #[inline(always)]
    fn number(&self) -> u64 {
        match self {
            Self::Workload(w) => u64::from(*w),
            Self::Host => HOST,
            Self::UnknownLocal => UNKNOWN_LOCAL,
            Self::Outside(_) => OUTSIDE,
        }
    }
}

const HOST: u64 = 1 << 32;
const UNKNOWN_LOCAL: u64 = 2 << 32;
const OUTSIDE: u64 = 3 << 32;

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
    let (high, low) = match source {
        Source::Outside(ip) => ip_words(ip),
        _ => (0, 0),
    };
    let question = u64::from(table) | u64::from(port) << 32 | u64::from(proto) << 48;
    let answer = up_ask(question, source.number(), high, low);
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
