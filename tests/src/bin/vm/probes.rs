//! What this kernel is and lets BPF do: our own programs, and the tracing hooks that later parts of
//! the mesh would use.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
};

use rustix::{
    io::Errno,
    pipe::{SpliceFlags, pipe, splice},
};
use underpass_agent::{
    kernel::{
        KernelOptions,
        btf::{Btf, VMLINUX},
        checks,
    },
    sys::tracing::{Tracing, attach, load},
};
use underpass_api::check::Mark;

use super::report::Report;

pub fn facts(report: &mut Report) {
    let read = |path: &str| fs::read_to_string(path).map_or("–".into(), |t| t.trim().to_owned());
    // The active one is in brackets.
    let lockdown = read("/sys/kernel/security/lockdown");
    let active = lockdown.split(['[', ']']).nth(1).unwrap_or(&lockdown);
    report.fact(
        "JIT",
        match read("/proc/sys/net/core/bpf_jit_enable").as_str() {
            "0" => "off",
            "–" => "–",
            _ => "on",
        },
    );
    report.fact("lockdown", active);
    report.fact(
        "security modules",
        &read("/sys/kernel/security/lsm").replace(',', ", "),
    );
}

/// `underpass check` of this machine; it loads each program, into maps of its own. What the kernel
/// provably lacks is no failure of ours.
pub fn programs(report: &mut Report) {
    let lsm = security_hook().is_ok();
    let options = KernelOptions {
        pin_dir: PathBuf::from("/sys/fs/bpf/underpass-vm"),
        ..KernelOptions::default()
    };
    for check in checks(&options) {
        let excused = match check.name.as_str() {
            "program splice_guard" | "splice-guard" => !lsm || !capable(),
            "program sk_msg" => !capable(),
            _ => false,
        };
        let result = match check.mark {
            Mark::Ok => Ok(check.detail.replace(" instructions verified", "")),
            Mark::Warning if excused => {
                report.lacks(&check.name, &check.detail);
                continue;
            }
            Mark::Warning | Mark::Error => Err(check.detail),
        };
        match check.name.strip_prefix("program ") {
            Some(hook) => report.program(&format!("up_{hook}"), result),
            None => report.check(&check.name, || result),
        }
    }
}

/// `return 0;`
const NOTHING: [[u8; 8]; 2] = [
    [0xb7, 0x00, 0, 0, 0, 0, 0, 0], // r0 = 0
    EXIT,
];
const EXIT: [u8; 8] = [0x95, 0x00, 0, 0, 0, 0, 0, 0];
/// `return current's system call is splice ? -EINVAL : 0;` (x86-64)
const NO_SPLICE: [[u8; 8]; 8] = [
    [0x85, 0x00, 0, 0, 158, 0, 0, 0],  // call bpf_get_current_task_btf
    [0xbf, 0x01, 0, 0, 0, 0, 0, 0],    // r1 = r0
    [0x85, 0x00, 0, 0, 175, 0, 0, 0],  // call bpf_task_pt_regs
    [0x79, 0x01, 120, 0, 0, 0, 0, 0],  // r1 = r0->orig_ax
    [0xb7, 0x00, 0, 0, 0, 0, 0, 0],    // r0 = 0
    [0x55, 0x01, 1, 0, 0x13, 1, 0, 0], // if r1 != 275, skip one
    [0xb7, 0x00, 0, 0, 0xea, 0xff, 0xff, 0xff], // r0 = -22
    EXIT,
];

pub fn tracing(report: &mut Report) {
    let btf = Btf::read(Path::new(VMLINUX)).ok();
    let function = |name: &str| btf.as_ref().and_then(|b| b.function(name));
    let file_permission = function("security_file_permission");
    let tracepoint = btf
        .as_ref()
        .and_then(|b| b.tracepoint("tcp_rcv_space_adjust"));
    report.probe(
        "tp_btf tcp_rcv_space_adjust",
        attached(Tracing::Tracepoint, tracepoint, &NOTHING).map(|_| String::new()),
    );
    report.probe(
        "fentry",
        attached(Tracing::Entry, file_permission, &NOTHING).map(|_| String::new()),
    );
    report.probe(
        "fmod_ret turns splice into EINVAL",
        guards_splice(Tracing::ModifyReturn, file_permission),
    );
    report.probe("LSM turns splice into EINVAL", security_hook());
}

/// Whether programs at the kernel's security hooks are called.
pub fn security_hook() -> Result<String, String> {
    let btf = Btf::read(Path::new(VMLINUX)).map_err(|e| e.to_string())?;
    guards_splice(Tracing::Lsm, btf.function("bpf_lsm_file_permission"))
}

/// Whether the kernel has what the shortcut cannot do without, which 6.1 lacks.
pub fn capable() -> bool {
    Btf::read(Path::new(VMLINUX)).is_ok_and(|b| {
        b.function("bpf_rdonly_cast").is_some() && b.offset("sk_psock", "msg_tot_len").is_ok()
    })
}

/// The link of a program; it is attached while that lives.
fn attached(how: Tracing, hook: Option<u32>, code: &[[u8; 8]]) -> Result<OwnedFd, String> {
    let hook = hook.ok_or("not in the kernel's BTF")?;
    let program = load(how, hook, code).map_err(|e| format!("load: {e}"))?;
    attach(program).map_err(|e| format!("attach: {e}"))
}

/// With the program, splice from a socket fails and read does not; before and after, both work.
fn guards_splice(how: Tracing, hook: Option<u32>) -> Result<String, String> {
    let text = |e: io::Error| e.to_string();
    if spliced().map_err(text)?.is_err() {
        return Err("splice fails by itself".into());
    }
    let link = attached(how, hook, &NO_SPLICE)?;
    let during = spliced().map_err(text)?;
    drop(link);
    match (during, spliced().map_err(text)?) {
        (Err(Errno::INVAL), Ok(_)) => Ok(String::new()),
        (during, after) => Err(format!("attached: {during:?}, then: {after:?}")),
    }
}

/// The result of splicing from a socket with data; an error of its own if that cannot be read.
fn spliced() -> io::Result<Result<usize, Errno>> {
    let (mut near, mut far) = UnixStream::pair()?;
    near.write_all(b"data")?;
    far.read_exact(&mut [0; 1])?;
    let (_out, into) = pipe()?;
    Ok(splice(&far, None, &into, None, 3, SpliceFlags::empty()))
}
