//! `vm`: the same BPF object and the same agent on other kernels, booted in QEMU. What runs inside
//! is `tests/src/bin/underpass-vm.rs`.

use std::{fs, process::Command, time::Duration};

use crate::{
    Result, ebpf,
    flags::{Flag, Flags, Verb},
    process::{self, output, step, step_lines},
    setup, workspace,
};

mod emulator;
mod initramfs;
mod kernels;
mod page;
mod results;

use results::Results;

pub const VERB: Verb = Verb {
    name: "vm",
    about: "boots Debian's kernels in QEMU and checks the mesh in each",
    flags: &[
        Flag {
            name: "--update",
            value: None,
            help: "write docs/reference/kernels.md anew",
        },
        Flag {
            name: "--suite",
            value: Some("NAMES"),
            help: "run these test files too: accounting,udp",
        },
        Flag {
            name: "--append",
            value: Some("WORDS"),
            help: "more of the kernel's command line",
        },
    ],
    rest: Some(
        "6.1, 6.12, a release as 6.1.0-50, `next` (of Debian's next release), `here`; none: the \
         newest of each series in apt",
    ),
    run,
};

const PAGE: &str = "docs/reference/kernels.md";
/// In place of a kernel's name: this machine, without emulation.
const HERE: &str = "here";
/// For one machine; emulated on two busy processors the checks take two minutes.
const LIMIT: Duration = Duration::from_secs(900);
const LIMIT_WITH_SUITE: Duration = Duration::from_secs(7200);

fn run(flags: &Flags) -> Result<()> {
    setup::build_tools()?;
    ebpf::build_default()?;
    step(
        "binaries",
        &mut process::cargo(&["build", "--bins"]),
        Duration::from_secs(1800),
    )?;
    let names = flags.get("--suite").unwrap_or_default();
    let suite = initramfs::suite(names.split(',').filter(|n| !n.is_empty()))?;
    let all = boot_all(
        &flags.rest,
        &suite,
        flags.get("--append").unwrap_or_default(),
    )?;
    print!("\n{}", page::render(&all));
    if flags.has("--update") {
        fs::write(workspace::root().join(PAGE), page::render(&all)).map_err(|e| e.to_string())?;
        println!("{PAGE} is written");
    }
    judge(&all)
}

/// One kernel, with binaries that are built.
pub fn check(kernel: &str) -> Result<()> {
    judge(&boot_all(&[kernel.to_owned()], &[], "")?)
}

fn boot_all(wanted: &[String], suite: &[initramfs::Program], append: &str) -> Result<Vec<Results>> {
    let (here, packaged): (Vec<String>, Vec<String>) =
        wanted.iter().cloned().partition(|w| w == HERE);
    let mut all = Vec::new();
    if !packaged.is_empty() || here.is_empty() {
        setup::emulator()?;
        let kernels = kernels::find(&packaged)?;
        let accelerator = emulator::accelerator(&kernels[0]);
        let limit = if suite.is_empty() {
            LIMIT
        } else {
            LIMIT_WITH_SUITE
        };
        for kernel in &kernels {
            let image = initramfs::build(kernel, suite)?;
            all.push(emulator::boot(kernel, &image, accelerator, append, limit)?);
        }
    }
    if !here.is_empty() {
        all.push(run_here()?);
    }
    Ok(all)
}

/// The same checks on this machine, as it is.
fn run_here() -> Result<Results> {
    let release = output("uname", &["-r"]).ok_or("uname failed")?;
    let mut results = Results::new(release.trim());
    let mut checks = Command::new(workspace::target().join("debug/underpass-vm"));
    let mut line = |line: &str| results.line(line);
    let ended = step_lines(
        "checks on this machine",
        &mut checks,
        LIMIT,
        Some(&mut line),
    );
    if results.took.is_none() {
        ended?;
    }
    Ok(results)
}

fn judge(all: &[Results]) -> Result<()> {
    let problems: Vec<String> = all.iter().flat_map(Results::problems).collect();
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems.join("\n"))
    }
}
