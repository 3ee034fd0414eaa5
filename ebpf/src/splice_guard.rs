//! `lsm/file_permission`: splice(2) from a socket in the map would find nothing, whatever has come.
//! EINVAL tells the program at once that splice does not work here, and it reads instead.

use aya_ebpf::{helpers::generated as h, macros::lsm, programs::LsmContext};
use underpass_abi::shortcut::programs;

use crate::{
    kernel::field,
    maps::ENDS,
    shortcut::{at, program},
    splice::splices,
};

const MAY_READ: i32 = 4;
const EINVAL: i32 = 22;

#[lsm(hook = "file_permission")]
pub fn up_splice_guard(ctx: LsmContext) -> i32 {
    // Every read and write of the node comes here: the system call tells most of them apart.
    if !splices() || ctx.arg::<i32>(1) & MAY_READ == 0 {
        return 0;
    }
    // SAFETY: a helper call on the hook's argument.
    let socket = unsafe { h::bpf_sock_from_file(ctx.arg(0)) };
    if socket.is_null() {
        return 0;
    }
    let sk: *mut core::ffi::c_void = field(socket.cast(), at!(socket_sk));
    if sk.is_null() {
        return 0;
    }
    let map = (&raw const ENDS).cast_mut().cast();
    // SAFETY: a helper call on a live map and the file's socket.
    let state = unsafe { h::bpf_sk_storage_get(map, sk, core::ptr::null_mut(), 0) };
    if state.is_null() {
        return 0;
    }
    // Its next connections stay on TCP, where splice works.
    program::learn(programs::SPLICES);
    -EINVAL
}
