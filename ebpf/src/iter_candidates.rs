//! `iter/bpf_map_elem` over `CANDIDATES`: one word for each listener whose connections could enter the
//! shortcut's map now. While there is none the splice watch is not attached.

use aya_ebpf::helpers::generated as h;
use underpass_abi::{
    shortcut::Candidate,
    tables::{ListenKey, unchecked},
};

use crate::{
    iter_socks::Meta,
    maps::{LISTENERS, entry},
    shortcut::candidate::could_enter,
};

/// `struct bpf_iter__bpf_map_elem` (kernel/bpf/map_iter.c).
#[repr(C)]
pub struct Context {
    meta: *mut Meta,
    map: *mut core::ffi::c_void,
    key: *const ListenKey,
    value: *const Candidate,
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_map_elem")]
fn up_iter_candidates(ctx: *mut Context) -> i32 {
    // SAFETY: the kernel's iterator context; both are null at the end of the walk, else as large as
    // their types. Copies: a key must be on the stack.
    let (key, candidate) = unsafe {
        let (Some(key), Some(value)) = ((*ctx).key.as_ref(), (*ctx).value.as_ref()) else {
            return 0;
        };
        (*key, *value)
    };
    let owner = entry!(LISTENERS, &key).and_then(|v| unchecked(v, key.check()));
    let owner = owner.unwrap_or(0);
    if owner != 0 && could_enter(&candidate, owner) {
        let one = 1_u32;
        // SAFETY: helper call with the context's own seq file and a live stack value.
        unsafe {
            h::bpf_seq_write((*(*ctx).meta).seq, (&raw const one).cast(), 4);
        }
    }
    0
}
