//! Which programs mode `auto` takes: those of the tested list; where splice is guarded, every one that
//! was not seen with an io_uring, whose splice looks like its reads.

use aya_ebpf::helpers::generated as h;
use underpass_abi::{
    shortcut::{programs, switch},
    tables::setting,
};

use super::at;
use crate::{
    kernel::read,
    maps::{SETTINGS, word},
    splice::learn,
};

/// From what is known of it.
#[inline(always)]
pub fn qualifies(program: u64) -> bool {
    program & programs::LISTED != 0
        || (word!(SETTINGS, setting::SHORTCUT) & switch::GUARDED != 0
            && program & programs::RING == 0)
}

/// Notes that the calling task has an io_uring; of interest only where splice is guarded.
#[inline(always)]
pub fn learn_ring() {
    let at = at!(task_io_uring);
    if at == 0 || word!(SETTINGS, setting::SHORTCUT) & switch::GUARDED == 0 {
        return;
    }
    // SAFETY: plain helper call.
    let task = unsafe { h::bpf_get_current_task() };
    if read::<u64>(task + at) != 0 {
        learn(programs::RING);
    }
}
