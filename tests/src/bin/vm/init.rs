//! Process 1 of the virtual machine: mounts, modules, the checks as a child, the end.

use std::{
    env, fs,
    fs::File,
    io,
    path::Path,
    process::{Command, Stdio, exit},
};

use rustix::{
    mount::{MountFlags, mount},
    process::{WaitOptions, wait},
    system::{RebootCommand, finit_module, reboot},
};

/// The second serial line; the first is the kernel's, whose messages would fall between ours.
const RESULTS: &str = "/dev/ttyS1";
const MODULES: &str = "/modules";
/// Emulation is about twenty times slower than the machine that it runs on, of which others may use
/// a part; waits are bounded for a machine that is not.
const PATIENCE: &str = "5";

const MOUNTS: [(&str, &str); 8] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("tmpfs", "/run"),
    ("tmpfs", "/tmp"),
    ("cgroup2", "/sys/fs/cgroup"),
    ("bpf", "/sys/fs/bpf"),
    ("securityfs", "/sys/kernel/security"),
];

/// Ends with the machine.
pub fn run() -> ! {
    if let Err(e) = machine().and_then(|()| checks()) {
        eprintln!("underpass-vm: {e}");
    }
    // The emulator is told to end instead.
    let _ = reboot(RebootCommand::Restart);
    exit(1)
}

fn machine() -> io::Result<()> {
    for (kind, at) in MOUNTS {
        fs::create_dir_all(at)?;
        mount(kind, at, kind, MountFlags::empty(), None)
            .map_err(|e| io::Error::other(format!("mount of {kind} on {at}: {e}")))?;
    }
    // The self-test's sockets are on it.
    Command::new("/bin/ip")
        .args(["link", "set", "lo", "up"])
        .status()?;
    // Named in the order in which they need each other.
    let mut modules: Vec<_> = fs::read_dir(MODULES)?.flatten().map(|e| e.path()).collect();
    modules.sort();
    for module in modules {
        load(&module).map_err(|e| io::Error::other(format!("{}: {e}", module.display())))?;
    }
    Ok(())
}

fn load(module: &Path) -> io::Result<()> {
    const COMPRESSED_FILE: i32 = 4;
    let flags = match module.extension() {
        Some(end) if end != "ko" => COMPRESSED_FILE,
        _ => 0,
    };
    Ok(finit_module(File::open(module)?, c"", flags)?)
}

/// Runs the checks, and collects every process that ends without a parent.
fn checks() -> io::Result<()> {
    let child = Command::new(env::current_exe()?)
        .stdin(Stdio::null())
        .stdout(File::options().write(true).open(RESULTS)?)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("RUST_BACKTRACE", "0")
        .env("UNDERPASS_PATIENCE", PATIENCE)
        .spawn()?;
    loop {
        match wait(WaitOptions::empty())? {
            Some((pid, status)) if pid.as_raw_nonzero().get() as u32 == child.id() => {
                eprintln!("underpass-vm: the checks ended, {status:?}");
                return Ok(());
            }
            _ => {}
        }
    }
}
