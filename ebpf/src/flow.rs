//! Connections under way between two ends of this node: the dialing end proves who it is before its SYN,
//! the other end reads that under the full tuple.
//!
//! Almost every flow lives in an array slot, where its life costs two atomic instructions; in a hash it
//! costs two locks and four look-ups (measured: 0.7 µs of a connection).

use core::intrinsics::{AtomicOrdering::SeqCst, atomic_cxchg, atomic_xchg};

use underpass_abi::{
    sock::{SockState, counter, flag},
    tables::{FlowKey, FlowSlot, FlowWord, checked, setting, unchecked},
};

use crate::{
    door,
    maps::{FLOW_SLOTS, FLOWS, HOMES, SETTINGS, count, entry, word},
};

/// The namespace in which this source's SYN arrives, if its destination is on this node.
#[inline(always)]
pub fn arrives_in(s: &SockState) -> u64 {
    if s.remote.is_loopback() || s.remote == s.local {
        return s.netns;
    }
    match word!(HOMES, u32::from(s.destination)) {
        0 => word!(SETTINGS, setting::HOST_NETNS),
        home => home,
    }
}

/// The key under which the other end will look for this source.
#[inline(always)]
pub fn key(s: &SockState) -> FlowKey {
    FlowKey {
        netns: arrives_in(s),
        source: s.local,
        destination: s.remote,
        source_port: s.local_port,
        destination_port: s.remote_port,
        pad: 0,
    }
}

/// What the entry proves.
#[inline(always)]
pub fn proof(s: &SockState) -> FlowWord {
    let leg = if s.flags & flag::LEG != 0 {
        FlowWord::LEG
    } else {
        0
    };
    let probe = if s.flags & flag::PROBE != 0 {
        FlowWord::PROBE
    } else {
        0
    };
    FlowWord::new(s.source.into(), s.destination.into(), leg | probe)
}

/// Changes a slot's state from one to another if it is the one; gives what it was. Also the ordered way to
/// read it: compare-and-swap is a barrier on every architecture, a load is not.
///
/// # Safety
/// `slot` points into `FLOW_SLOTS`: elements of arrays are always there, and 8-byte aligned.
#[inline(always)]
unsafe fn swap(slot: *mut FlowSlot, from: u64, to: u64) -> u64 {
    // SAFETY: as above.
    unsafe { atomic_cxchg::<u64, { SeqCst }, { SeqCst }>(&raw mut (*slot).state, from, to).0 }
}

/// Before the SYN: writes who dials.
#[inline(never)]
pub fn begin(s: &mut SockState) {
    let key = key(s);
    let word = proof(s);
    if let Some(slot) = FLOW_SLOTS.get_ptr_mut(key.slot()) {
        // SAFETY: nobody else writes a slot that is claimed, and nobody believes its key.
        unsafe {
            let free = core::ptr::read_volatile(&raw const (*slot).state);
            if FlowSlot::is_free(free) && swap(slot, free, FlowSlot::WRITTEN) == free {
                core::ptr::write(&raw mut (*slot).key, key);
                let held = FlowSlot::held(word, s.cookie);
                atomic_xchg::<u64, { SeqCst }>(&raw mut (*slot).state, held);
                return;
            }
        }
    }
    s.flags |= flag::FLOW_HASHED;
    let value = checked(word.0, key.check());
    if FLOWS.insert(&key, &value, 0).is_err() {
        count(counter::FLOWS_FULL);
        s.flags |= flag::FLOW_FAILED;
    }
}

/// The slot that holds `key`, and its state. That is read before and after the key: it names the dialing
/// socket, so if it is the same the key was complete and its own.
#[inline(always)]
fn held(key: &FlowKey) -> Option<(*mut FlowSlot, u64)> {
    let slot = FLOW_SLOTS.get_ptr_mut(key.slot())?;
    // SAFETY: as in `swap`; a key that is being written is not believed.
    unsafe {
        let state = swap(slot, FlowSlot::FREE, FlowSlot::FREE);
        FlowSlot::word(state)?;
        if !same(&raw const (*slot).key, key) || swap(slot, state, state) != state {
            return None;
        }
        Some((slot, state))
    }
}

/// Word by word: LLVM would call `memcmp`.
///
/// # Safety
/// `at` is readable.
#[inline(always)]
unsafe fn same(at: *const FlowKey, key: &FlowKey) -> bool {
    let (a, b) = (at.cast::<u64>(), (&raw const *key).cast::<u64>());
    let mut i = 0;
    while i < size_of::<FlowKey>() / 8 {
        // SAFETY: within both keys.
        if unsafe { core::ptr::read_volatile(a.add(i)) != core::ptr::read_volatile(b.add(i)) } {
            return false;
        }
        i += 1;
    }
    true
}

/// Who dials, if it is an end of this node.
#[inline(never)]
pub fn of(key: &FlowKey) -> Option<FlowWord> {
    if let Some((_, state)) = held(key) {
        return FlowSlot::word(state);
    }
    let value = entry!(FLOWS, key)?;
    unchecked(value, key.check()).map(FlowWord)
}

/// Both ends know each other: takes the entry away. False if there was none.
#[inline(never)]
pub fn end(key: &FlowKey) -> bool {
    if let Some((slot, state)) = held(key) {
        // SAFETY: as in `swap`.
        return unsafe { swap(slot, state, FlowSlot::ENDED) } == state;
    }
    FLOWS.remove(key).is_ok()
}

/// True if the last connection in this key's slot was its own: then no SYN is expected under it, and
/// what comes is late.
#[inline(never)]
pub fn has_ended(key: &FlowKey) -> bool {
    let Some(slot) = FLOW_SLOTS.get_ptr_mut(key.slot()) else {
        return false;
    };
    // SAFETY: as in `swap`.
    unsafe {
        swap(slot, FlowSlot::ENDED, FlowSlot::ENDED) == FlowSlot::ENDED
            && same(&raw const (*slot).key, key)
    }
}

/// The dialing end is done; usually the other end has taken the entry long ago.
#[inline(never)]
pub fn forget(s: &SockState) {
    let key = key(s);
    if s.flags & flag::DOOR != 0 {
        door::forget(s, &key);
    }
    if s.flags & flag::FLOW_HASHED == 0 {
        let word = proof(s);
        if let Some(slot) = FLOW_SLOTS.get_ptr_mut(key.slot()) {
            // SAFETY: as in `swap`.
            unsafe { swap(slot, FlowSlot::held(word, s.cookie), FlowSlot::ENDED) };
        }
    // A look-up takes no lock.
    } else if FLOWS.get_ptr(&key).is_some() {
        let _ = FLOWS.remove(&key);
    }
}
