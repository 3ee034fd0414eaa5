//! `iter/bpf_sk_storage_map`: the agent's list of open connections, of all namespaces at once.

use aya_ebpf::{bindings::seq_file, helpers::generated as h};
use underpass_abi::sock::{SockState, flag};

use crate::{
    connect::TCP,
    kernel::{offset, read, tcp_counts},
};

#[repr(C)]
struct Meta {
    seq: *mut seq_file,
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
    unsafe {
        let value = (*ctx).value;
        if value.is_null() {
            return 0;
        }
        if (*value).proto != TCP || (*value).flags & flag::FAILED != 0 {
            return 0;
        }
        let mut s = *value;
        if s.tcp_sock != 0 && s.flags & flag::OPENED != 0 {
            if s.flags & flag::RELEASED == 0 {
                s.tcp = tcp_counts(&s);
            }
            s.tcp_state = read(s.tcp_sock + offset!(sk_state));
        }
        s.tcp_sock = 0;
        h::bpf_seq_write(
            (*(*ctx).meta).seq,
            (&raw const s).cast(),
            size_of::<SockState>() as u32,
        );
    }
    0
}
