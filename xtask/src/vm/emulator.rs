//! QEMU: one machine at a time, no disk, no network, two serial lines. The first is the kernel's, the
//! second the results'.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use super::{kernels::Kernel, results::Results};
use crate::{
    Result,
    process::{output, step, step_lines},
    workspace,
};

const PROGRAM: &str = "qemu-system-x86_64";
/// On a busy machine the emulated timer is too slow for the kernel's test of it, which then panics.
const BARE: &str = "console=ttyS0 panic=-1 no_timer_check";

/// `kvm` where guests run by it; the device alone proves nothing inside another machine.
pub fn accelerator(kernel: &Kernel) -> &'static str {
    if !Path::new("/dev/kvm").exists() {
        return "tcg";
    }
    let log = console(kernel);
    let mut trial = qemu(kernel, &log, "kvm");
    // Without a disk the kernel panics, which ends the machine.
    trial.args(["-append", BARE]).stderr(Stdio::null());
    let ended = step("KVM trial", &mut trial, Duration::from_secs(20));
    let said = fs::read(&log).unwrap_or_default();
    if ended.is_ok() && String::from_utf8_lossy(&said).contains("Linux version") {
        return "kvm";
    }
    println!("/dev/kvm is there, but guests do not run by it; emulating in software");
    "tcg"
}

pub fn boot(
    kernel: &Kernel,
    image: &Path,
    accelerator: &str,
    append: &str,
    limit: Duration,
) -> Result<Results> {
    let log = console(kernel);
    let mut qemu = qemu(kernel, &log, accelerator);
    // Emulated processors are slow, not stuck.
    let words = format!(
        "{BARE} loglevel=5 rdinit=/up/underpass-vm nowatchdog rcupdate.rcu_cpu_stall_suppress=1 {append}"
    );
    qemu.args(["-serial", "stdio", "-append", &words])
        .arg("-initrd")
        .arg(image);
    let mut results = Results::new(&kernel.release);
    let mut line = |line: &str| results.line(line);
    let ended = step_lines(
        &format!("{} ({accelerator})", kernel.release),
        &mut qemu,
        limit,
        Some(&mut line),
    );
    let said = fs::read(&log).map_err(|e| format!("{}: {e}", log.display()))?;
    results.console(&String::from_utf8_lossy(&said), ended);
    Ok(results)
}

fn console(kernel: &Kernel) -> PathBuf {
    workspace::target()
        .join("vm")
        .join(format!("{}.log", kernel.release))
}

fn qemu(kernel: &Kernel, log: &Path, accelerator: &str) -> Command {
    let _ = fs::create_dir_all(workspace::target().join("vm"));
    let _ = fs::remove_file(log);
    // Emulation takes every processor that it can get; others come first.
    let nice = output("nice", &["true"]).is_some();
    let mut qemu = Command::new(if nice { "nice" } else { PROGRAM });
    if nice {
        qemu.args(["-n", "10", PROGRAM]);
    }
    // One thread for both processors: the kernel patches its own code while the other one runs, and
    // emulated threads of their own now and then execute the breakpoint without its handler (int3 panic).
    let accelerator = match accelerator {
        "tcg" => "tcg,thread=single",
        other => other,
    };
    qemu.args(["-accel", accelerator, "-cpu", "max", "-machine", "q35"])
        .args(["-smp", "2", "-m", "2048", "-nodefaults", "-display", "none"])
        .args(["-no-reboot", "-serial"])
        .arg(format!("file:{}", log.display()))
        .arg("-kernel")
        .arg(&kernel.image);
    qemu
}
