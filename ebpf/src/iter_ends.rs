//! `iter/bpf_sk_storage_map` over `ENDS`: fills in what only the kernel knows of sockets that user space
//! puts into the map. For the agent's self-test, which has no `sock_ops`.

use underpass_abi::shortcut::End;

use crate::kernel::{self, offset, read};

/// `struct bpf_iter__bpf_sk_storage_map` (net/core/bpf_sk_storage.c).
#[repr(C)]
pub struct Context {
    meta: *mut core::ffi::c_void,
    map: *mut core::ffi::c_void,
    sk: *mut core::ffi::c_void,
    value: *mut End,
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
fn up_iter_ends(ctx: *mut Context) -> i32 {
    // SAFETY: the kernel's iterator context; `value` is null at the end of the walk, else as large as
    // an `End`.
    let (sk, value) = unsafe { ((*ctx).sk, (*ctx).value.as_mut()) };
    let Some(e) = value else { return 0 };
    let sk = kernel::address(sk);
    e.sk = sk;
    e.peer_write_seq = read(sk + offset!(tcp_rcv_nxt));
    e.peer_copied_seq = read(sk + offset!(tcp_snd_una));
    0
}
