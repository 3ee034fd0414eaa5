//! Streams that cost more past TCP than over it are recognized by what they send. Such a connection
//! leaves the shortcut, and the next ones between the same two workloads stay out for a while. So do those
//! of a pair whose connections end before they have earned what entering cost.
//! Measured: `docs/explanation/shortcut.md`.

use underpass_abi::{
    reason::code,
    shortcut::{End, PairKey, end, learn},
    sock::SockState,
    tables::setting,
};

use super::guard;
use crate::{
    kernel::zeroed,
    maps::{LEARNT, PAIRS, SETTINGS, entry, word},
    record,
};

/// Takes note of one message of this end, which was decided: `why` it stays on TCP, or 0. The last
/// thing done for a message: what is learnt counts from the next one on.
#[inline(always)]
pub fn sent(e: &mut End, size: u32, why: u32, write_seq: u32) {
    if word!(SETTINGS, setting::SHORTCUT_KEEP_OUT) == 0 {
        return;
    }
    match why as u16 {
        0 => {}
        code::SHORTCUT_UNREAD | code::SHORTCUT_QUEUE_FULL => e.by_tcp += 1,
        code::SHORTCUT_SMALL_WRITES => {
            guard::up_waiting(e, write_seq);
        }
        _ => return,
    }
    e.messages += 1;
    e.bytes = e.bytes.saturating_add(size);
    if e.waiting != 0 {
        e.behind += 1;
    }
    if e.messages >= learn::WINDOW {
        up_judge(e);
    }
}

/// A window is full: learns from it, and perhaps leaves or comes back. A global function (see
/// `workload.rs`).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn up_judge(e: *mut End) -> u32 {
    // SAFETY: the sending socket's own element.
    let Some(e) = (unsafe { e.as_mut() }) else {
        return 0;
    };
    let (behind, bytes) = (e.behind, e.bytes);
    (e.messages, e.behind, e.bytes) = (0, 0, 0);
    if e.flags & end::LEARNT != 0 {
        if behind <= learn::WINDOW / 2 {
            e.flags &= !(end::LEARNT | end::OUT);
        }
        return 0;
    }
    e.windows += 1;
    let by_tcp = e.by_tcp;
    if e.windows >= learn::WINDOWS {
        (e.windows, e.by_tcp) = (0, 0);
    }
    if behind < learn::BEHIND && by_tcp < learn::BY_TCP {
        return 0;
    }
    let cookie = e.pair;
    let Some(p) = PAIRS.get_ptr_mut(&cookie) else {
        return 0;
    };
    zeroed!(key: PairKey);
    // SAFETY: elements stay readable and writable for the run; an element of another connection is told
    // by the cookie.
    unsafe {
        if (*p).active_cookie != cookie {
            return 0;
        }
        *key = (*p).key;
    }
    let near = key.near != 0;
    let small = if near {
        learn::SMALL_NEAR
    } else {
        learn::SMALL
    };
    if behind >= learn::BEHIND && bytes < learn::WINDOW * small {
        keep_out(key, code::SHORTCUT_SMALL_WRITES);
        // The price of one who is in the map, on loopback: 1.7 times TCP's, or 2.3 if it stays.
        if near && behind >= learn::WINDOW && bytes < learn::WINDOW * learn::SMALL {
            e.flags |= end::LEARNT | end::OUT;
            e.why = code::SHORTCUT_SMALL_WRITES.into();
            // SAFETY: as above.
            unsafe { (*p).why = code::SHORTCUT_SMALL_WRITES };
        }
    } else if near && by_tcp >= learn::BY_TCP {
        keep_out(key, code::SHORTCUT_OVERFLOWS);
    }
    0
}

/// The next connections of these two stay on TCP.
#[inline(always)]
fn keep_out(key: &PairKey, why: u16) {
    let until = record::now() / learn::TICK_NS + word!(SETTINGS, setting::SHORTCUT_KEEP_OUT);
    let _ = LEARNT.insert(key, &(until << 32 | u64::from(why)), 0);
}

/// A connection's last close was counted: the next ones of the pair are kept out if it was one of many in
/// a row that were short. Also one that was reset or sent nothing at all. CPUs that count at the same time
/// may lose one. A global function (see `workload.rs`).
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn up_ended(pair: u64) -> u32 {
    if word!(SETTINGS, setting::SHORTCUT_KEEP_OUT) == 0 {
        return 0;
    }
    let cookie = pair;
    let Some(p) = PAIRS.get_ptr(&cookie) else {
        return 0;
    };
    zeroed!(key: PairKey);
    // SAFETY: elements stay readable for the run; an element of another connection is told by the cookie.
    let (messages, bytes, why) = unsafe {
        if (*p).active_cookie != pair {
            return 0;
        }
        *key = (*p).key;
        let messages = u32::from((*p).messages_to_passive) + u32::from((*p).messages_to_active);
        (messages, (*p).to_passive + (*p).to_active, (*p).why)
    };
    if !learn::is_short(key.near != 0, messages, bytes) {
        forgive(key);
    } else if why != code::SHORTCUT_OFF {
        // Else redirection was off, which says nothing of the pair.
        add_short(key);
    }
    0
}

/// What is known of a pair that nothing keeps out now: the number of short connections in a row.
#[inline(always)]
fn shorts(learnt: u64) -> Option<u64> {
    let until = learnt >> 32;
    if until == 0 {
        Some(learnt >> learn::SHORTS_SHIFT)
    } else if until > record::now() / learn::TICK_NS {
        None
    } else {
        Some(0)
    }
}

#[inline(always)]
fn add_short(key: &PairKey) {
    // The first one makes the entry.
    let Some(number) = shorts(entry!(LEARNT, key).unwrap_or(0)) else {
        return;
    };
    if number + 1 >= learn::SHORTS {
        keep_out(key, code::SHORTCUT_SHORT);
    } else {
        let _ = LEARNT.insert(key, &((number + 1) << learn::SHORTS_SHIFT), 0);
    }
}

/// A connection that was not short: the count begins anew.
#[inline(always)]
fn forgive(key: &PairKey) {
    let Some(learnt) = entry!(LEARNT, key) else {
        return;
    };
    if shorts(learnt).is_some_and(|number| number != 0) {
        let _ = LEARNT.insert(key, &0, 0);
    }
}

/// The two ends of a connection that was dialed here, as they are learnt.
#[inline(always)]
pub fn key(s: &SockState) -> PairKey {
    PairKey {
        source: s.source.into(),
        destination: s.destination.into(),
        port: s.remote_port,
        near: u16::from(crate::flow::arrives_in(s) == s.netns),
    }
}

/// A code, if connections between these two stay on TCP for now, else 0.
#[inline(always)]
pub fn kept_out(s: &SockState) -> u16 {
    if word!(SETTINGS, setting::SHORTCUT_KEEP_OUT) == 0 {
        return 0;
    }
    zeroed!(at: PairKey);
    *at = key(s);
    match entry!(LEARNT, &*at) {
        Some(learnt) if learnt >> 32 > record::now() / learn::TICK_NS => learnt as u16,
        _ => 0,
    }
}
