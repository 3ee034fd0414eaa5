//! `tp_btf/tcp_rcv_space_adjust`: fires when a task splices from a TCP socket, also from one in the
//! map, where splice finds nothing. The program is no candidate any more, and the agent resets the
//! connection of a socket in the map.

use aya_ebpf::{helpers::generated as h, macros::btf_tracepoint, programs::BtfTracePointContext};
use underpass_abi::{
    reason::code,
    shortcut::{End, NoticeKind, end, programs},
};

use crate::{
    kernel::field,
    maps::ENDS,
    shortcut::{at, notice, program, stayed},
};

#[btf_tracepoint(function = "tcp_rcv_space_adjust")]
pub fn up_splice(ctx: BtfTracePointContext) -> i32 {
    if !splices() {
        return 0;
    }
    program::learn(programs::SPLICES);
    // SAFETY: the tracepoint's argument, and a helper call on a live map.
    let state = unsafe {
        let sk: *mut core::ffi::c_void = ctx.arg(0);
        let map = (&raw const ENDS).cast_mut().cast();
        h::bpf_sk_storage_get(map, sk, core::ptr::null_mut(), 0).cast::<End>()
    };
    // SAFETY: the socket's own element, alive for the run.
    if let Some(e) = unsafe { state.as_mut() } {
        give_up(e);
    }
    0
}

/// The socket will give splice `EAGAIN` for ever, whatever comes: its connection must end.
#[inline(always)]
fn give_up(e: &mut End) {
    e.flags |= end::OUT;
    stayed(e, code::SHORTCUT_SPLICES.into());
    if e.flags & end::TOLD != 0 {
        return;
    }
    let told = notice::tell(NoticeKind::Spliced, |n| {
        // SAFETY: plain helper call.
        n.pid = (unsafe { h::bpf_get_current_pid_tgid() } >> 32) as u32;
        n.cookie = e.cookie;
        n.pair = e.pair;
    });
    if told {
        e.flags |= end::TOLD;
    }
}

/// True if the current task is in splice(2).
#[inline(always)]
pub fn splices() -> bool {
    // SAFETY: plain helper calls.
    let regs = unsafe { h::bpf_task_pt_regs(h::bpf_get_current_task_btf()) } as *const u8;
    field::<u64>(regs, at!(regs_syscall)) as u32 == at!(splice) as u32
}
