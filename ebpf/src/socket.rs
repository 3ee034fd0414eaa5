//! A socket as the kernel keeps it, before it dials.

use aya_ebpf::{bindings::bpf_sock_addr, helpers::generated as h};

use crate::{
    kernel::{self, TCP, Typed, load, offset, read},
    workload,
};

/// The socket behind the context, as a kernel address.
#[inline(always)]
pub fn sk_of(a: *mut bpf_sock_addr) -> *mut core::ffi::c_void {
    // SAFETY: context field.
    unsafe { (*a).__bindgen_anon_1.sk.cast() }
}

/// What the kernel keeps of a socket before it dials.
#[derive(Clone, Copy)]
pub struct Socket {
    pub sk: *mut core::ffi::c_void,
    /// No file refers to it: the kernel made it for itself (NFS, CIFS, …).
    pub by_kernel: bool,
    /// Id of the cgroup in which it was made.
    pub cgroup_id: u64,
}

impl Socket {
    #[inline(always)]
    pub fn of(a: *mut bpf_sock_addr, proto: u8) -> Self {
        let sk = sk_of(a);
        if proto != TCP {
            let address = kernel::address(sk);
            return Self {
                sk,
                by_kernel: kernel::is_kernel_socket(address),
                cgroup_id: workload::cgroup_id(read(address + offset!(sk_cgroup))),
            };
        }
        // SAFETY: helper call on the context's socket.
        let tp: Typed = unsafe { h::bpf_skc_to_tcp_sock(sk) }.cast();
        if tp.is_null() {
            return Self {
                sk,
                by_kernel: true,
                cgroup_id: 0,
            };
        }
        let socket = load!(tp, Typed, sk_socket);
        let node = load!(load!(tp, Typed, sk_cgroup), Typed, cgroup_kn);
        Self {
            sk,
            by_kernel: !socket.is_null() && load!(socket, Typed, socket_file).is_null(),
            cgroup_id: load!(node, u64, kn_id),
        }
    }
}
