//! What is known of programs, by the file name of their executable: those of the tested list, those that
//! were seen to do what the shortcut does not bear.

use aya_ebpf::helpers::generated as h;
use underpass_abi::{
    reason::code,
    shortcut::{ProgramKey, programs, switch},
    tables::setting,
};

use super::at;
use crate::{
    kernel::{read, zeroed},
    maps::{PROGRAMS, SETTINGS, entry, word},
};

/// Why a program of which this is known takes no part, 0 if it may.
#[inline(always)]
pub fn keeps_out(known: u64, auto: bool) -> u16 {
    if known & programs::SPLICES != 0 {
        code::SHORTCUT_SPLICES
    } else if known & programs::BLOCKS != 0 && known & programs::LISTED == 0 {
        // One of the list may block on the side: redis-benchmark does while it asks for the server's settings.
        code::SHORTCUT_BLOCKING
    } else if auto && !qualifies(known) {
        code::SHORTCUT_NOT_LISTED
    } else {
        0
    }
}

/// Whether mode `auto` takes it: a program of the list; where splice is guarded, every one that was not
/// seen with an io_uring, whose splice looks like its reads.
#[inline(always)]
fn qualifies(known: u64) -> bool {
    known & programs::LISTED != 0 || (is_guarded() && known & programs::RING == 0)
}

#[inline(always)]
fn is_guarded() -> bool {
    word!(SETTINGS, setting::SHORTCUT) & switch::GUARDED != 0
}

/// The name of the calling task's executable.
#[inline(always)]
pub fn current(key: &mut ProgramKey) {
    // SAFETY: plain helper call.
    let task = unsafe { h::bpf_get_current_task() };
    let mm: u64 = read(task + at!(task_mm));
    let exe: u64 = read(mm + at!(mm_exe_file));
    let dentry: u64 = read(exe + at!(file_dentry));
    let name: u64 = read(dentry + at!(dentry_name));
    // SAFETY: the helper checks the address and writes at most the key's bytes.
    unsafe {
        let to = (&raw mut key.name).cast();
        h::bpf_probe_read_kernel_str(to, size_of::<ProgramKey>() as u32, name as *const _);
    }
}

/// What is known of the calling task's program. A global function (see `workload.rs`).
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn up_program_flags() -> u64 {
    learn_ring();
    zeroed!(key: ProgramKey);
    current(key);
    entry!(PROGRAMS, &*key).unwrap_or(0)
}

/// Notes a bit of [`programs`] for the calling task's program.
#[inline(never)]
pub fn learn(bit: u64) {
    zeroed!(key: ProgramKey);
    current(key);
    let known = entry!(PROGRAMS, &*key).unwrap_or(0);
    if known & bit == 0 {
        let _ = PROGRAMS.insert(&*key, &(known | bit), 0);
    }
}

/// Notes that the calling task has an io_uring; of interest only where splice is guarded.
#[inline(always)]
pub fn learn_ring() {
    let at = at!(task_io_uring);
    if at == 0 || !is_guarded() {
        return;
    }
    // SAFETY: plain helper call.
    let task = unsafe { h::bpf_get_current_task() };
    if read::<u64>(task + at) != 0 {
        learn(programs::RING);
    }
}
