//! `demo` and `bench`: build the binaries of other rooms and run them.

use std::{path::Path, process::Command, time::Duration};

use crate::{
    Result, ebpf,
    flags::{Flag, Flags, Verb},
    process::{self, step},
    setup, workspace,
};

pub const DEMO: Verb = Verb {
    name: "demo",
    about: "a small shop under load in the lab, and what the mesh says about it (needs root)",
    flags: &[
        Flag {
            name: "--keep",
            value: None,
            help: "leave it running for the other commands",
        },
        Flag {
            name: "--summary",
            value: Some("FILE"),
            help: "write what was checked as JSON",
        },
    ],
    rest: None,
    run: demo,
};

pub const BENCH: Verb = Verb {
    name: "bench",
    about: "compares the mesh with none and with other proxies, on release builds (needs root)",
    flags: &[],
    rest: Some(
        "[CASE…] [--quick] [--json FILE] [--html FILE] …, or other benchmarks: connect, shortcut, \
         limits, plan or programs; `-- --help` shows their flags",
    ),
    run: bench,
};

fn demo(flags: &Flags) -> Result<()> {
    setup::build_tools()?;
    setup::servers()?;
    ebpf::build_default()?;
    // A debug build: it is ready sooner, and the demo measures nothing that it would change.
    step(
        "binaries",
        &mut process::cargo(&["build", "--bins"]),
        Duration::from_secs(1800),
    )?;
    let mut driver = Command::new(workspace::target().join("debug/underpass-demo"));
    if flags.has("--keep") {
        driver.arg("--keep");
    }
    if let Some(file) = flags.get("--summary") {
        driver.args(["--summary", file]);
    }
    drive(&mut driver)
}

fn bench(flags: &Flags) -> Result<()> {
    setup::build_tools()?;
    match flags.rest.first().map(String::as_str) {
        // Its rows of Redis and PostgreSQL.
        Some("shortcut") => setup::databases()?,
        Some("connect" | "limits" | "plan" | "programs" | "help") => {}
        _ => setup::peers()?,
    }
    ebpf::build_default()?;
    let mut cargo = process::cargo(&["build", "--release", "--bins"]);
    // The others take longer to link than a short benchmark to run.
    for package in ["bench", "agent", "cli", "vend", "proxy"] {
        cargo.args(["--package", &format!("underpass-{package}")]);
    }
    step("release binaries", &mut cargo, Duration::from_secs(3600))?;
    let mut driver = Command::new(workspace::target().join("release/underpass-bench"));
    drive(driver.args(&flags.rest))
}

/// Runs a driver in the foreground: it talks to the terminal and bounds its own time.
fn drive(driver: &mut Command) -> Result<()> {
    driver.env("UNDERPASS_TOOLS", workspace::tools());
    driver.env("UNDERPASS_BPF_OBJECT", workspace::object());
    let program = Path::new(driver.get_program()).display().to_string();
    let status = driver.status().map_err(|e| format!("{program}: {e}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{program}: {status}"))
    }
}
