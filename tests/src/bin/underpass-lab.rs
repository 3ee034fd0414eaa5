//! The lab's own helper: moves a program into its place, and cleans up after a test process.
#![forbid(unsafe_code)]

use std::{
    ffi::OsString,
    fs::{self, File},
    io::Read as _,
    os::{fd::AsFd as _, unix::process::CommandExt as _},
    process::{Command, ExitCode},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use underpass_tests::{Lab, lab::sweep};

const USAGE: &str =
    "underpass-lab enter CGROUP NETNS PROGRAM [ARGS] | guard PID | hold | sweep | remove ID";

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let verb = args.first().and_then(|v| v.to_str()).unwrap_or_default();
    let done = match (verb, args.len()) {
        ("enter", 4..) => enter(&args[1], &args[2], &args[3], &args[4..]),
        ("guard", 2) => guard(&args[1]),
        ("hold", 1) => hold(),
        ("sweep", 1) => {
            sweep::leftovers();
            Ok(())
        }
        ("remove", 2) => remove(&args[1]),
        _ => Err(USAGE.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("underpass-lab: {why}");
            ExitCode::from(125)
        }
    }
}

/// Becomes the program; returns only on failure.
fn enter(
    cgroup: &OsString,
    netns: &OsString,
    program: &OsString,
    args: &[OsString],
) -> Result<(), String> {
    let name = |path: &OsString| path.to_string_lossy().into_owned();
    let space = File::open(netns).map_err(|e| format!("{}: {e}", name(netns)))?;
    move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|e| format!("{}: {e}", name(netns)))?;
    let procs = std::path::Path::new(cgroup).join("cgroup.procs");
    fs::write(&procs, std::process::id().to_string())
        .map_err(|e| format!("{}: {e}", procs.display()))?;
    Err(format!(
        "{}: {}",
        name(program),
        Command::new(program).args(args).exec()
    ))
}

/// Waits until the process at the other end of standard input is gone, then removes its labs.
fn guard(pid: &OsString) -> Result<(), String> {
    let pid: u32 = pid.to_str().and_then(|p| p.parse().ok()).ok_or(USAGE)?;
    let mut ignored = Vec::new();
    std::io::stdin()
        .read_to_end(&mut ignored)
        .map_err(|e| e.to_string())?;
    sweep::of_process(pid);
    Ok(())
}

/// Makes a lab, names it, and waits for standard input to close.
fn hold() -> Result<(), String> {
    let lab = Lab::new("hold").map_err(|f| f.0)?;
    println!("{}", lab.id);
    std::io::stdin()
        .read_to_end(&mut Vec::new())
        .map_err(|e| e.to_string())?;
    Ok(())
}

fn remove(id: &OsString) -> Result<(), String> {
    let id = id
        .to_str()
        .filter(|id| id.starts_with(sweep::PREFIX))
        .ok_or(USAGE)?;
    let problems = sweep::remove(id);
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems.join("; "))
    }
}
