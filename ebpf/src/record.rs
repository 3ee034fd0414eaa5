//! What is told about a connection: exact per-CPU sums, and an event for its row.

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::generated as h,
};
use underpass_abi::{
    sock::{Event, EventKind, SockState, Total, TotalKey, counter, flag},
    tables::limits,
};

use crate::maps::{EVENTS, TOTALS, count};

/// `Total::direction`: the source is on this node.
const OUTBOUND: u8 = 1;
/// The source is not on this node.
const INBOUND: u8 = 2;

#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: plain helper call.
    unsafe { h::bpf_ktime_get_boot_ns() }
}

/// The sums of this connection's kind on this CPU.
#[inline(always)]
pub fn total(s: &SockState) -> Option<&'static mut Total> {
    let key = TotalKey {
        source: s.source,
        destination: s.destination,
        service: s.service,
        proto: s.proto,
        direction: if s.flags & flag::SOURCE_OUTSIDE != 0 || s.flags & flag::ACTIVE == 0 {
            INBOUND
        } else {
            OUTBOUND
        },
        layer: s.layer,
        verdict: s.verdict,
        source_kind: s.flags & (flag::SOURCE_HOST | flag::SOURCE_OUTSIDE),
    };
    if let Some(p) = TOTALS.get_ptr_mut(&key) {
        // SAFETY: this CPU's element; keys are only removed by user space long after they are idle.
        return Some(unsafe { &mut *p });
    }
    // NOEXIST: another CPU may have made it meanwhile, with counts in it.
    let _ = TOTALS.insert(&key, &Total::default(), 1);
    match TOTALS.get_ptr_mut(&key) {
        // SAFETY: as above.
        Some(p) => Some(unsafe { &mut *p }),
        None => {
            count(counter::TOTALS_FULL);
            None
        }
    }
}

#[inline(always)]
pub fn count_refused(s: &SockState) {
    if let Some(t) = total(s) {
        t.refused += 1;
    }
}

/// Sends a copy of the socket's state. Rows can wait for the agent's next look unless the ring
/// fills up; refusals wake it.
#[inline(always)]
pub fn emit(kind: EventKind, pid: u32, s: &SockState) {
    let Some(mut entry) = EVENTS.reserve_untyped::<Event>(0) else {
        count(counter::EVENTS_LOST);
        return;
    };
    let event = entry.as_mut_ptr();
    // SAFETY: the reservation is as large as an `Event`.
    unsafe {
        (*event).kind = kind as u32;
        (*event).pid = pid;
        (*event).at_ns = now();
        core::ptr::copy_nonoverlapping(core::ptr::from_ref(s), &raw mut (*event).sock, 1);
        (*event).sock.tcp_sock = 0;
    }
    entry.submit(wakeup(kind));
}

#[inline(always)]
fn wakeup(kind: EventKind) -> u64 {
    if matches!(kind, EventKind::Refused | EventKind::Unguarded | EventKind::Audited) {
        return BPF_RB_FORCE_WAKEUP.into();
    }
    // SAFETY: plain helper call on a live map.
    let waiting = unsafe {
        h::bpf_ringbuf_query((&raw const EVENTS).cast_mut().cast(), BPF_RB_AVAIL_DATA.into())
    };
    if waiting > limits::EVENTS_BYTES as u64 / 4 {
        BPF_RB_FORCE_WAKEUP.into()
    } else {
        BPF_RB_NO_WAKEUP.into()
    }
}
