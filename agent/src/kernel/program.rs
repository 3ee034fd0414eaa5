//! The programs by name: where each is attached, and which part of the mesh is off without it.

use super::feature;
use crate::sys::bpf::Attach;

/// One program at the cgroup root.
pub struct Hook {
    pub program: &'static str,
    pub attach: Attach,
    /// The feature that is off without it; `None`: the agent does not start.
    pub feature: Option<&'static str>,
}

const fn hook(program: &'static str, attach: Attach, feature: Option<&'static str>) -> Hook {
    Hook {
        program,
        attach,
        feature,
    }
}

/// In the order of attaching: connect comes last, when all that it relies on is in place.
pub const HOOKS: [Hook; 10] = [
    hook(
        "up_sock_release",
        Attach::SOCK_RELEASE,
        Some(feature::CLOSE_RECORDS),
    ),
    hook("up_sock_ops", Attach::SOCK_OPS, None),
    hook("up_getpeername4", Attach::GETPEERNAME4, None),
    hook("up_getpeername6", Attach::GETPEERNAME6, None),
    hook("up_recvmsg4", Attach::RECVMSG4, Some(feature::UDP)),
    hook("up_recvmsg6", Attach::RECVMSG6, Some(feature::UDP)),
    hook("up_sendmsg4", Attach::SENDMSG4, Some(feature::UDP)),
    hook("up_sendmsg6", Attach::SENDMSG6, Some(feature::UDP)),
    hook("up_connect4", Attach::CONNECT4, None),
    hook("up_connect6", Attach::CONNECT6, None),
];

/// One for each namespace of meshed workloads.
pub const SK_LOOKUP: &str = "up_sk_lookup";
/// At the vendor's cgroup: tells a worker what was dialed.
pub const GETSOCKOPT: &str = "up_getsockopt";
/// Lists the open sockets.
pub const ITER_SOCKS: &str = "up_iter_socks";

/// Of the shortcut.
pub const SK_MSG: &str = "up_sk_msg";
pub const SK_SKB: &str = "up_sk_skb";
/// Of its self-test.
pub const ITER_ENDS: &str = "up_iter_ends";
/// The watch for splice.
pub const SPLICE: &str = "up_splice";
/// Lists the listeners whose connections could enter the map.
pub const ITER_CANDIDATES: &str = "up_iter_candidates";
pub const SPLICE_GUARD: &str = "up_splice_guard";
pub const OF_SHORTCUT: [&str; 6] = [
    SK_SKB,
    SK_MSG,
    ITER_ENDS,
    SPLICE,
    ITER_CANDIDATES,
    SPLICE_GUARD,
];

/// True for the name of one of our programs.
pub fn is_ours(program: &str) -> bool {
    [SK_LOOKUP, GETSOCKOPT, ITER_SOCKS].contains(&program)
        || OF_SHORTCUT.contains(&program)
        || HOOKS.iter().any(|h| h.program == program)
}

/// The feature that is off without this program; `None`: the agent does not start without it.
pub fn feature(program: &str) -> Option<&'static str> {
    match program {
        SK_LOOKUP => Some(feature::INBOUND),
        GETSOCKOPT => Some(feature::WORKERS),
        ITER_SOCKS => Some(feature::OPEN_SOCKETS),
        SPLICE_GUARD => Some(feature::SPLICE_GUARD),
        _ if OF_SHORTCUT.contains(&program) => Some(feature::SHORTCUT),
        _ => HOOKS.iter().find(|h| h.program == program)?.feature,
    }
}

/// Programs and attach points, for `--check`.
pub fn hooks() -> impl Iterator<Item = (&'static str, Attach)> {
    HOOKS.iter().map(|h| (h.program, h.attach))
}
