//! `sk_msg`: each send of a socket in the map, before TCP sees it.

use aya_ebpf::{
    bindings::BPF_F_INGRESS, helpers::generated as h, macros::sk_msg, programs::SkMsgContext,
};
use underpass_abi::{
    reason::code,
    shortcut::{End, end, switch},
    sock::counter,
    tables::setting,
};

use crate::{
    kernel::{self, offset},
    maps::{ENDS, PAIRS, SETTINGS, SHORTCUT, count, word},
    shortcut::{count_why, guard, learn, stayed},
};

/// TCP takes the message, unless it was redirected. It is never refused.
const SK_PASS: u32 = 1;

#[sk_msg]
pub fn up_sk_msg(ctx: SkMsgContext) -> u32 {
    // SAFETY: helper calls on a live map and the context's socket.
    let (state, tp) = unsafe {
        let sk = (*ctx.msg).__bindgen_anon_3.sk;
        if sk.is_null() {
            return SK_PASS;
        }
        let map = (&raw const ENDS).cast_mut().cast();
        let state = h::bpf_sk_storage_get(map, sk.cast(), core::ptr::null_mut(), 0).cast::<End>();
        (state, h::bpf_skc_to_tcp_sock(sk.cast()).cast::<u8>())
    };
    // SAFETY: the socket's own element, alive for the run.
    let Some(e) = (unsafe { state.as_mut() }) else {
        count_why(code::SHORTCUT_UNPAIRED.into());
        return SK_PASS;
    };
    if tp.is_null() {
        return SK_PASS;
    }
    let mut why = u32::from(code::SHORTCUT_OFF);
    // SAFETY: context field.
    let size = unsafe { core::ptr::read_volatile(&raw const (*ctx.msg).size) };
    let write_seq = kernel::field(tp, offset!(tcp_write_seq));
    if word!(SETTINGS, setting::SHORTCUT) & switch::REDIRECT != 0 {
        why = guard::sender(e, tp);
        if why == 0 {
            why = guard::up_reader(e, size, write_seq);
        }
        if why == 0 && !redirect(&ctx, e.peer_cookie) {
            why = code::SHORTCUT_CLOSING.into();
        }
    }
    if why == 0 {
        count(counter::SHORTCUT_TAKEN);
        taken(e, size);
    } else {
        count_why(why);
        stayed(e, why);
    }
    learn::sent(e, size, why, write_seq);
    SK_PASS
}

#[inline(always)]
fn redirect(ctx: &SkMsgContext, peer: u64) -> bool {
    let mut key = peer;
    // SAFETY: helper call on a live map, with a key on the stack. If it fails it changes nothing.
    unsafe {
        let map = (&raw const SHORTCUT).cast_mut().cast();
        let to = (&raw mut key).cast();
        h::bpf_msg_redirect_hash(ctx.msg, map, to, BPF_F_INGRESS.into()) == SK_PASS.into()
    }
}

#[inline(always)]
fn taken(e: &End, size: u32) {
    if let Some(p) = PAIRS.get_ptr_mut(&e.pair) {
        // SAFETY: elements stay writable for the run; each direction has one writer, which holds its
        // socket's lock. An element of another connection is told by the cookie.
        unsafe {
            if (*p).active_cookie == e.pair {
                if e.flags & end::ACTIVE != 0 {
                    (*p).to_passive += u64::from(size);
                    (*p).messages_to_passive = (*p).messages_to_passive.saturating_add(1);
                } else {
                    (*p).to_active += u64::from(size);
                    (*p).messages_to_active = (*p).messages_to_active.saturating_add(1);
                }
            }
        }
    }
}
