//! The verdict: one function, run by the programs over maps and by the model over its own tables.
//!
//! A destination's policies are compiled to one table: a [`PolicyHeader`] and a set of rules keyed
//! by (table, subject, port). There are allow rules only (GEP-3779): a source is allowed if any
//! enforced rule names it; else it is denied if any enforced policy selects the destination; else
//! the node's default policy decides, which is a table without rules.

/// Who a source is in a rule: a kind in the top four bits, an index below.
pub mod subject {
    /// Matches every source.
    pub const ANY: u32 = 0;
    /// A process of this node that belongs to no workload.
    pub const HOST: u32 = 0x4000_0001;
    /// A source off this node that is no workload.
    pub const OUTSIDE: u32 = 0x4000_0002;
    /// A source on this node whose identity could not be told (no entry in `FLOWS`). No rule names
    /// it, so only a rule for everyone lets it in.
    pub const UNKNOWN_LOCAL: u32 = 0x4000_0003;

    pub const fn identity(index: u32) -> u32 {
        0x1000_0000 | index
    }
    pub const fn namespace(index: u32) -> u32 {
        0x2000_0000 | index
    }
    /// An IP block (one CIDR that some policy mentions).
    pub const fn block(index: u32) -> u32 {
        0x3000_0000 | index
    }
    /// The index below the kind.
    pub const fn index(subject: u32) -> u32 {
        subject & 0x0fff_ffff
    }
    /// The kind: 1 identity, 2 namespace, 3 block, 4 special, 0 any.
    pub const fn kind(subject: u32) -> u32 {
        subject >> 28
    }
}

/// The subjects of one source, from narrow to wide; a zero in the first two is skipped.
/// Workload: `[identity, namespace]`. This node: `[HOST, 0]`. Elsewhere: `[block, OUTSIDE]`.
pub type Subjects = [u32; 2];

/// Key of `RULES`. `port` 0 means every port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleKey {
    pub table: u32,
    pub subject: u32,
    /// Host byte order.
    pub port: u16,
    /// 6, 17, or 0 with port 0.
    pub proto: u8,
    pub pad: u8,
}

/// Value of `RULES`: which kinds of policy allow, and the first policy that does.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleWord(pub u64);

impl RuleWord {
    /// A policy in force allows it.
    pub const ENFORCED: u32 = 1;
    /// A policy in audit mode allows it.
    pub const AUDITED: u32 = 2;

    pub const fn new(flags: u32, policy: u32) -> Self {
        Self((flags as u64) << 32 | policy as u64)
    }
    #[inline(always)]
    pub const fn flags(self) -> u32 {
        (self.0 >> 32) as u32
    }
    #[inline(always)]
    pub const fn policy(self) -> u32 {
        self.0 as u32
    }
}

/// Value of `POLICIES`: the head of a policy table.
/// `flags: 8 | block set: 8 | policy named by a denial: 24 | policy named by an audit: 24`.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PolicyHeader(pub u64);

impl PolicyHeader {
    /// Not allowed by an enforced rule ⇒ denied (an enforced policy selects it, or default deny).
    pub const DENY: u8 = 1;
    /// Not allowed by any rule ⇒ would be denied (an audited policy selects it, or default audit).
    pub const AUDIT: u8 = 2;
    /// Some rule of the table names an identity, HOST, or an IP block: look the first subject up.
    pub const BY_NARROW: u8 = 4;
    /// Some rule names a namespace or OUTSIDE: look the second subject up.
    pub const BY_WIDE: u8 = 8;
    /// Some rule allows everyone.
    pub const BY_ANY: u8 = 16;
    /// Some rule names a port.
    pub const BY_PORT: u8 = 32;
    /// Some rule allows every port.
    pub const ALL_PORTS: u8 = 64;

    pub const fn new(flags: u8, block_set: u8, deny_policy: u32, audit_policy: u32) -> Self {
        Self(
            flags as u64
                | (block_set as u64) << 8
                | (deny_policy as u64 & 0xff_ffff) << 16
                | (audit_policy as u64 & 0xff_ffff) << 40,
        )
    }
    #[inline(always)]
    pub const fn flags(self) -> u8 {
        self.0 as u8
    }
    /// The set in `BLOCKS` against which an outside source's address is looked up; 0 = none.
    #[inline(always)]
    pub const fn block_set(self) -> u8 {
        (self.0 >> 8) as u8
    }
    #[inline(always)]
    pub const fn deny_policy(self) -> u32 {
        (self.0 >> 16 & 0xff_ffff) as u32
    }
    #[inline(always)]
    pub const fn audit_policy(self) -> u32 {
        (self.0 >> 40 & 0xff_ffff) as u32
    }
    #[inline(always)]
    pub const fn has(self, flag: u8) -> bool {
        self.flags() & flag != 0
    }
}

/// What was decided about a connection.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    #[default]
    None = 0,
    Allowed = 1,
    /// By a policy: EPERM at connect, a reset inbound.
    Denied = 2,
    /// Allowed, and would be denied if the policies in audit mode were in force.
    Audited = 3,
    /// Not by a policy (no endpoint, no memory): the reason says which.
    Refused = 4,
}

impl Verdict {
    pub const fn from_u8(v: u8) -> Self {
        match v {
            1 => Self::Allowed,
            2 => Self::Denied,
            3 => Self::Audited,
            4 => Self::Refused,
            _ => Self::None,
        }
    }
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Audited => "audited",
            Self::Refused => "refused",
        }
    }
}

/// A verdict and the policy that caused it (0: none, the default policy).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    pub verdict: Verdict,
    pub policy: u32,
}

/// Decides about one (source, table, port). `lookup` reads `RULES`; at most six calls.
#[inline(always)]
pub fn decide(
    header: PolicyHeader,
    table: u32,
    subjects: Subjects,
    port: u16,
    proto: u8,
    mut lookup: impl FnMut(&RuleKey) -> Option<RuleWord>,
) -> Decision {
    if !header.has(PolicyHeader::DENY) && !header.has(PolicyHeader::AUDIT) {
        return Decision {
            verdict: Verdict::Allowed,
            policy: 0,
        };
    }
    let mut allowed_by = 0;
    let mut flags = 0;
    let mut try_subject = |subject: u32| {
        if header.has(PolicyHeader::ALL_PORTS) {
            let key = RuleKey {
                table,
                subject,
                port: 0,
                proto: 0,
                pad: 0,
            };
            if let Some(word) = lookup(&key) {
                if word.flags() & !flags & RuleWord::ENFORCED != 0 {
                    allowed_by = word.policy();
                }
                flags |= word.flags();
            }
        }
        if header.has(PolicyHeader::BY_PORT) && flags & RuleWord::ENFORCED == 0 {
            let key = RuleKey {
                table,
                subject,
                port,
                proto,
                pad: 0,
            };
            if let Some(word) = lookup(&key) {
                if word.flags() & !flags & RuleWord::ENFORCED != 0 {
                    allowed_by = word.policy();
                }
                flags |= word.flags();
            }
        }
        flags & RuleWord::ENFORCED != 0
    };
    let _ = (header.has(PolicyHeader::BY_NARROW) && subjects[0] != 0 && try_subject(subjects[0]))
        || (header.has(PolicyHeader::BY_WIDE) && subjects[1] != 0 && try_subject(subjects[1]))
        || (header.has(PolicyHeader::BY_ANY) && try_subject(subject::ANY));
    if flags & RuleWord::ENFORCED != 0 {
        return Decision {
            verdict: Verdict::Allowed,
            policy: allowed_by,
        };
    }
    if header.has(PolicyHeader::DENY) {
        return Decision {
            verdict: Verdict::Denied,
            policy: header.deny_policy(),
        };
    }
    if flags & RuleWord::AUDITED != 0 {
        return Decision {
            verdict: Verdict::Allowed,
            policy: 0,
        };
    }
    Decision {
        verdict: Verdict::Audited,
        policy: header.audit_policy(),
    }
}

const _: () = assert!(size_of::<RuleKey>() == 12);

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: u32 = subject::identity(1);
    const SHOP: u32 = subject::namespace(1);

    fn one_rule(subject: u32, port: u16, flags: u32) -> impl FnMut(&RuleKey) -> Option<RuleWord> {
        move |key| (key.subject == subject && key.port == port).then_some(RuleWord::new(flags, 7))
    }

    #[test]
    fn an_enforced_rule_allows_and_names_its_policy() {
        let flags = PolicyHeader::DENY | PolicyHeader::BY_WIDE | PolicyHeader::BY_PORT;
        let header = PolicyHeader::new(flags, 0, 9, 0);
        let rule = || one_rule(SHOP, 80, RuleWord::ENFORCED);
        let allowed = decide(header, 1, [WEB, SHOP], 80, 6, rule());
        assert_eq!(
            allowed,
            Decision {
                verdict: Verdict::Allowed,
                policy: 7
            }
        );
        let denied = decide(header, 1, [WEB, SHOP], 81, 6, rule());
        assert_eq!(
            denied,
            Decision {
                verdict: Verdict::Denied,
                policy: 9
            }
        );
    }

    #[test]
    fn an_audited_rule_grants_nothing_where_a_policy_is_enforced() {
        let flags = PolicyHeader::DENY
            | PolicyHeader::AUDIT
            | PolicyHeader::BY_ANY
            | PolicyHeader::ALL_PORTS;
        let header = PolicyHeader::new(flags, 0, 9, 3);
        let rule = one_rule(subject::ANY, 0, RuleWord::AUDITED);
        assert_eq!(
            decide(header, 1, [WEB, SHOP], 80, 6, rule).verdict,
            Verdict::Denied
        );
    }

    #[test]
    fn audit_alone_refuses_nothing() {
        let flags = PolicyHeader::AUDIT | PolicyHeader::BY_NARROW | PolicyHeader::ALL_PORTS;
        let header = PolicyHeader::new(flags, 0, 0, 3);
        let rule = || one_rule(WEB, 0, RuleWord::AUDITED);
        assert_eq!(
            decide(header, 1, [WEB, SHOP], 80, 6, rule()).verdict,
            Verdict::Allowed
        );
        let would = decide(header, 1, [subject::HOST, 0], 80, 6, rule());
        assert_eq!(
            would,
            Decision {
                verdict: Verdict::Audited,
                policy: 3
            }
        );
    }
}
