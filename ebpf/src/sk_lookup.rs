//! `sk_lookup`, one program per namespace of meshed workloads: refuses what no connect hook of this
//! node has judged for the workload that answers here.

use aya_ebpf::{bindings::bpf_sk_lookup, macros::sk_lookup, programs::SkLookupContext};
use underpass_abi::{
    Ip,
    reason::code,
    sock::{EventKind, Layer, TotalKey, counter, flag},
    tables::{FlowKey, door, setting, workload as bits},
    verdict::Verdict,
};

use crate::{
    authorize::{Source, by_workload},
    connect::denial,
    door as doors, flow,
    kernel::{TCP, ip6},
    maps::{DOORS, NETNS_COOKIE, SETTINGS, WORKLOADS, count, word},
    record, workload,
};

const SK_DROP: u32 = 0;
const SK_PASS: u32 = 1;

#[sk_lookup]
pub fn up_sk_lookup(ctx: SkLookupContext) -> u32 {
    let c = ctx.lookup;
    // SAFETY: context field.
    if unsafe { core::ptr::read_volatile(&raw const (*c).protocol) } != u32::from(TCP) {
        return SK_PASS;
    }
    let netns = NETNS_COOKIE.load();
    let (local, local_port, remote, remote_port) = ends(c);
    let owner = workload::of_port(&local, local_port, TCP, netns);
    if owner == 0 {
        return SK_PASS;
    }
    let key = FlowKey {
        netns,
        source: remote,
        destination: local,
        source_port: remote_port,
        destination_port: local_port,
        pad: 0,
    };
    let uninvited = (local_port == door::OUTBOUND || local_port == door::INBOUND)
        && word!(WORKLOADS, owner) & bits::DOOR != 0
        && (local_port == door::INBOUND || !doors::expected(&key));
    let flow = flow::of(&key);
    let mut judged = false;
    let mut passes = false;
    let source = match flow {
        Some(word) => {
            // The connect hook has judged this very source, destination and port.
            judged = word.destination() == owner;
            passes = doors::passes(word, owner);
            Source::local(word.source())
        }
        None => Source::by_address(&remote, &local),
    };
    let kind = match source.workload() {
        0 if source.is_outside() => flag::SOURCE_OUTSIDE,
        0 => flag::SOURCE_HOST,
        _ => 0,
    };
    let ends = Ends {
        source: source.workload(),
        kind,
        owner,
    };
    if uninvited {
        return refuse(&key, &ends, Verdict::Refused as u8, 0, code::NOT_INVITED);
    }
    if !judged {
        let decision = by_workload(owner, &source, local_port, TCP);
        if decision.verdict as u8 == Verdict::Denied as u8 {
            let verdict = decision.verdict as u8;
            return refuse(&key, &ends, verdict, decision.policy, denial(decision));
        }
    }
    if passes || !doors::is_steered(owner, local_port) || to_door(&ctx, netns) {
        return SK_PASS;
    }
    // What the worker would have to judge is not let in unjudged.
    refuse(&key, &ends, Verdict::Refused as u8, 0, code::DOOR_CLOSED)
}

/// Gives the connection to the worker's listener. False if there is none.
#[inline(always)]
fn to_door(ctx: &SkLookupContext, netns: u64) -> bool {
    let key = netns;
    DOORS.redirect_sk_lookup(ctx, &key, 0).is_ok()
}

struct Ends {
    source: u32,
    /// [`TotalKey::source_kind`]
    kind: u32,
    owner: u32,
}

/// Answers a SYN with a reset, and tells of it.
#[inline(never)]
fn refuse(key: &FlowKey, ends: &Ends, verdict: u8, policy: u32, reason: u16) -> u32 {
    if word!(SETTINGS, setting::RESET_FLOW) == u64::from(key.check()) {
        return SK_DROP;
    }
    // The kernel looks for a listener too when a segment meets a socket that is just being replaced by
    // its TIME_WAIT (before Linux 6.19), or comes after that. Nobody is refused, so no row says so.
    if flow::has_ended(key) {
        count(counter::LATE_SEGMENTS);
        return SK_DROP;
    }
    let about = TotalKey {
        source: ends.source,
        destination: ends.owner,
        service: 0,
        proto: TCP,
        direction: TotalKey::INBOUND,
        layer: Layer::Kernel as u8,
        verdict,
        source_kind: ends.kind,
    };
    record::refused(EventKind::Refused, 0, &about, |s| {
        s.netns = key.netns;
        s.local = key.destination;
        s.local_port = key.destination_port;
        s.remote = key.source;
        s.remote_port = key.source_port;
        s.dialed = key.destination;
        s.dialed_port = key.destination_port;
        s.policy = policy as u16;
        s.reason = reason;
    });
    SK_DROP
}

#[inline(always)]
fn ends(c: *mut bpf_sk_lookup) -> (Ip, u16, Ip, u16) {
    // Both families are read at once: a choice of field before the load would become pointer
    // arithmetic on the context, which the verifier refuses.
    // SAFETY: context fields, one read each in their own width.
    unsafe {
        let local_port = core::ptr::read_volatile(&raw const (*c).local_port) as u16;
        let remote_port = u16::from_be(core::ptr::read_volatile(&raw const (*c).remote_port));
        let family = core::ptr::read_volatile(&raw const (*c).family);
        let local4 = core::ptr::read_volatile(&raw const (*c).local_ip4);
        let remote4 = core::ptr::read_volatile(&raw const (*c).remote_ip4);
        let local6 = ip6!(c, local_ip6);
        let remote6 = ip6!(c, remote_ip6);
        let local = if family == 2 { Ip::v4(local4) } else { local6 };
        let remote = if family == 2 {
            Ip::v4(remote4)
        } else {
            remote6
        };
        (local, local_port, remote, remote_port)
    }
}
