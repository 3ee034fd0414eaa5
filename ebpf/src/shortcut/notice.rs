//! What the shortcut tells the agent: a listener that needs the splice watch, a connection that must end.

use aya_ebpf::bindings::BPF_RB_FORCE_WAKEUP;
use underpass_abi::{
    shortcut::{Notice, NoticeKind},
    sock::counter,
};

use crate::{
    kernel::zero,
    maps::{EVENTS, count},
};

/// The splice watch is wanted.
#[inline(always)]
pub fn candidate() {
    tell(NoticeKind::Candidate, |_| {});
}

/// False if the ring was full; that is counted. `fill` writes into the zeroed notice. The agent is
/// woken: somebody waits for what it does.
#[inline(always)]
pub fn tell(kind: NoticeKind, fill: impl FnOnce(&mut Notice)) -> bool {
    let Some(mut entry) = EVENTS.reserve_untyped::<Notice>(0) else {
        count(counter::EVENTS_LOST);
        return false;
    };
    let notice = entry.as_mut_ptr();
    // SAFETY: the reservation is as large as a `Notice`; zeros are a valid one.
    unsafe {
        zero(notice);
        (*notice).kind = kind as u32;
        fill(&mut *notice);
    }
    entry.submit(BPF_RB_FORCE_WAKEUP.into());
    true
}
