//! What is told about a connection: exact per-CPU sums, and an event for its row.

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::generated as h,
};
use underpass_abi::{
    sock::{Event, EventKind, Layer, SockState, Total, TotalKey, counter},
    tables::limits,
};

use crate::{
    kernel::{zero, zeroed},
    maps::{EVENTS, TOTALS, count},
};

#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: plain helper call.
    unsafe { h::bpf_ktime_get_boot_ns() }
}

/// This CPU's sums under a key.
#[inline(never)]
pub fn total(key: &TotalKey) -> Option<&'static mut Total> {
    if let Some(p) = TOTALS.get_ptr_mut(key) {
        // SAFETY: this CPU's element; keys are only removed by user space long after they are idle.
        return Some(unsafe { &mut *p });
    }
    zeroed!(none: Total);
    // NOEXIST: another CPU may have made it meanwhile, with counts in it.
    let _ = TOTALS.insert(key, none, 1);
    match TOTALS.get_ptr_mut(key) {
        // SAFETY: as above.
        Some(p) => Some(unsafe { &mut *p }),
        None => {
            count(counter::TOTALS_FULL);
            None
        }
    }
}

/// Tells about a connection that was refused before it had any state: sum, then event. `fill`
/// writes into the zeroed event; there is no room for a `SockState` on the stack.
#[inline(always)]
pub fn refused(kind: EventKind, pid: u32, key: &TotalKey, fill: impl FnOnce(&mut SockState)) {
    if matches!(kind, EventKind::Refused)
        && let Some(t) = total(key)
    {
        t.refused += 1;
    }
    let Some(mut entry) = EVENTS.reserve_untyped::<Event>(0) else {
        count(counter::EVENTS_LOST);
        return;
    };
    let event = entry.as_mut_ptr();
    // SAFETY: the reservation is as large as an `Event`; zeros are a valid one.
    unsafe {
        zero(event);
        (*event).kind = kind as u32;
        (*event).pid = pid;
        (*event).at_ns = now();
        let s = &mut (*event).sock;
        s.opened_ns = (*event).at_ns;
        s.layer = Layer::Kernel as u8;
        s.source = key.source as u16;
        s.destination = key.destination as u16;
        s.service = key.service as u16;
        s.proto = key.proto;
        s.verdict = key.verdict;
        s.flags = key.source_kind;
        fill(s);
    }
    entry.submit(wakeup(kind as u32));
}

/// Sends a copy of the socket's state. Rows can wait for the agent's next look unless the ring
/// fills up; refusals wake it.
#[inline(always)]
pub fn emit(kind: EventKind, s: &SockState) {
    up_emit(kind as u32, s);
}

/// A global function (see `workload.rs`), so the pointer may be null to the verifier.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn up_emit(kind: u32, s: *const SockState) -> u32 {
    if s.is_null() {
        return 0;
    }
    let Some(mut entry) = EVENTS.reserve_untyped::<Event>(0) else {
        count(counter::EVENTS_LOST);
        return 0;
    };
    let event = entry.as_mut_ptr();
    // SAFETY: the reservation is as large as an `Event`.
    unsafe {
        (*event).kind = kind;
        (*event).pid = 0;
        (*event).at_ns = if (*s).closed_ns != 0 {
            (*s).closed_ns
        } else {
            now()
        };
        core::ptr::copy_nonoverlapping(s, &raw mut (*event).sock, 1);
        (*event).sock.tcp_sock = 0;
    }
    entry.submit(wakeup(kind));
    0
}

/// Fill of the ring, in bytes, at which the agent is woken; between, it looks several times a second.
const WAKE_AT: u64 = limits::EVENTS_BYTES as u64 / 4;
/// A few events wide, since CPUs may pass the mark together.
const WAKE_WINDOW: u64 = 4 * size_of::<Event>() as u64;

#[inline(always)]
fn wakeup(kind: u32) -> u64 {
    const ROUTINE: u32 = 1 << EventKind::Released as u32
        | 1 << EventKind::Closed as u32
        | 1 << EventKind::Failed as u32;
    if 1 << kind & ROUTINE == 0 {
        return BPF_RB_FORCE_WAKEUP.into();
    }
    // SAFETY: plain helper call on a live map.
    let waiting = unsafe {
        h::bpf_ringbuf_query(
            (&raw const EVENTS).cast_mut().cast(),
            BPF_RB_AVAIL_DATA.into(),
        )
    };
    // Only where the fill crosses the mark: a wake-up is an interrupt to this very CPU (measured:
    // 4 µs), and an agent that does not answer the first will not answer the next.
    if waiting.wrapping_sub(WAKE_AT) < WAKE_WINDOW {
        BPF_RB_FORCE_WAKEUP.into()
    } else {
        BPF_RB_NO_WAKEUP.into()
    }
}
