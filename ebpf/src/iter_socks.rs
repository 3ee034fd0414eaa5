//! `iter/bpf_sk_storage_map`: the agent's list of open connections, of all namespaces at once.

use aya_ebpf::{bindings::seq_file, helpers::generated as h};
use underpass_abi::sock::{SockState, TcpCounts, flag};

use crate::{
    door,
    kernel::{TCP, offset, read, tcp_counts, zeroed},
    shortcut,
};

#[repr(C)]
pub struct Meta {
    pub seq: *mut seq_file,
    session_id: u64,
    seq_num: u64,
}

/// `struct bpf_iter__bpf_sk_storage_map` (net/core/bpf_sk_storage.c).
#[repr(C)]
pub struct Context {
    meta: *mut Meta,
    map: *mut core::ffi::c_void,
    sk: *mut core::ffi::c_void,
    value: *mut SockState,
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
fn up_iter_socks(ctx: *mut Context) -> i32 {
    // SAFETY: the kernel's iterator context; `value` is null at the end of the walk.
    let value = unsafe { (*ctx).value };
    if value.is_null() {
        return 0;
    }
    // SAFETY: checked for null; the element is as large as a `SockState`.
    let mut s = unsafe { *value };
    if s.proto != TCP || s.flags & flag::FAILED != 0 || door::is_record(&s) {
        return 0;
    }
    if s.tcp_sock != 0 && s.flags & flag::OPENED != 0 {
        if s.flags & flag::RELEASED == 0 {
            zeroed!(counts: TcpCounts);
            tcp_counts(&s, counts);
            s.tcp = *counts;
            shortcut::add(&mut s);
        }
        s.tcp_state = read(s.tcp_sock + offset!(sk_state));
    }
    s.tcp_sock = 0;
    // SAFETY: helper call with the context's own seq file and a live stack value.
    unsafe {
        let size = size_of::<SockState>() as u32;
        h::bpf_seq_write((*(*ctx).meta).seq, (&raw const s).cast(), size);
    }
    0
}
