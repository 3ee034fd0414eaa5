//! Loads each program of a BPF object, as the agent would but attached nowhere, and prints what the
//! kernel says of it: `program NAME verified-instructions jit-bytes`, `map NAME bytes`. For
//! `cargo xtask verify`.
#![forbid(unsafe_code)]

use std::{
    borrow::Cow,
    error::Error,
    fs,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    path::{Path, PathBuf},
    process::ExitCode,
};

use underpass_abi::tables::maps;
use underpass_agent::{
    kernel::{
        KernelOptions, btf,
        loader::{self, Source},
        pins::Pins,
        program,
    },
    sys::{bpf::obj_get, info::prog_info},
};

const PER_CPU: [&str; 2] = [maps::TOTALS, maps::COUNTERS];

fn main() -> ExitCode {
    let Some(object) = std::env::args_os().nth(1) else {
        eprintln!("Usage: verify_bpf OBJECT");
        return ExitCode::from(2);
    };
    match print_costs(Path::new(&object)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

fn print_costs(object: &Path) -> Result<(), Box<dyn Error>> {
    let dir = PinDir(PathBuf::from(format!(
        "/sys/fs/bpf/underpass-verify-{}",
        std::process::id()
    )));
    let options = KernelOptions {
        pin_dir: dir.0.clone(),
        ..KernelOptions::default()
    };
    let kernel = btf::Btf::read(Path::new(btf::VMLINUX))?;
    let source = Source {
        object: Cow::Owned(fs::read(object)?),
        offsets: btf::offsets(&kernel)?,
        shortcut: btf::shortcut_offsets(&kernel)?,
        pins: Pins::make(&options)?,
    };
    let mut ebpf = source.parse(0)?;
    for name in program::hooks()
        .map(|(name, _)| name)
        .chain([program::SK_LOOKUP, program::GETSOCKOPT, program::ITER_SOCKS])
        .chain(program::OF_SHORTCUT)
        // The baseline's machine refuses it; docs/reference/kernels.md has its costs.
        .filter(|name| *name != program::SPLICE_GUARD)
    {
        let info = prog_info(loader::load(&mut ebpf, name, &kernel)?.as_fd())?;
        println!(
            "program {name} {} {}",
            info.verified_instructions, info.jited_len
        );
    }
    for name in maps::ALL {
        let map = obj_get(&source.pins.map(name))?;
        // Comparable between machines: bytes for each CPU.
        let share = if PER_CPU.contains(&name) {
            possible_cpus()?
        } else {
            1
        };
        println!("map {name} {}", memory(map.as_fd())? / share);
    }
    Ok(())
}

/// Kernel memory of a map, as /proc shows it.
fn memory(map: BorrowedFd) -> Result<u64, Box<dyn Error>> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd()))?;
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix("memlock:"))
        .ok_or("no memlock in fdinfo")?;
    Ok(line.trim().parse()?)
}

/// From a list as `0-3`; the kernel sizes per-CPU maps by it.
fn possible_cpus() -> Result<u64, Box<dyn Error>> {
    let text = fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = text.trim().rsplit(['-', ',']).next().ok_or("no CPUs")?;
    Ok(last.parse::<u64>()? + 1)
}

/// The pins of this run; gone with it, also after an error.
struct PinDir(PathBuf);

impl Drop for PinDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
