//! Stages of a new process: from the vendor's privilege to the little that a child needs, and to the
//! nothing that a worker has. Each is the vendor's own program started again, because what a process may
//! do to itself between fork and exec without `unsafe` is nothing.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    os::{
        fd::{AsRawFd as _, RawFd},
        unix::process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::Command,
};

use nix::{
    sched::{CloneFlags, unshare},
    unistd::{Gid, Uid, close, setgroups, setresgid, setresuid},
};
use rustix::{
    process::{Pid, Resource, Rlimit, Signal, getppid, set_parent_process_death_signal, setrlimit},
    thread::{
        CapabilitySet, capability_is_in_bounding_set, remove_capability_from_bounding_set,
        set_no_new_privs,
    },
};
use underpass_abi::reason::code;

use crate::{
    caps,
    log::{Problem, Result},
};

/// First arguments.
pub const WORKER: &str = "@worker";
pub const CHILD: &str = "@child";

/// What a stage is told, as arguments in this order, then the `cgroup.procs` files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerStage {
    pub parent: u32,
    pub uid: u32,
    pub nofile: u32,
    pub program: PathBuf,
}

/// Likewise, of a child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildStage {
    pub parent: u32,
    pub uid: u32,
    pub idle_ms: u32,
    /// Bits of restrictions that may be missing.
    pub allowed: u32,
    pub tenant: String,
}

impl WorkerStage {
    pub fn args(&self) -> Vec<OsString> {
        vec![
            WORKER.into(),
            self.parent.to_string().into(),
            self.uid.to_string().into(),
            self.nofile.to_string().into(),
            self.program.clone().into(),
        ]
    }
}

impl ChildStage {
    pub fn args(&self) -> Vec<OsString> {
        vec![
            CHILD.into(),
            self.parent.to_string().into(),
            self.uid.to_string().into(),
            self.idle_ms.to_string().into(),
            self.allowed.to_string().into(),
            self.tenant.clone().into(),
        ]
    }
}

fn number(arg: Option<OsString>) -> Result<u32> {
    let text = arg.unwrap_or_default();
    let number = text.to_str().and_then(|t| t.parse().ok());
    number.ok_or_else(|| Problem::new(code::BAD_ARGUMENT, "a stage of the vendor is not for users"))
}

/// Becomes a worker's program; returns only if that failed.
///
/// # Errors
/// For the first restriction that is not to be had: then there is no worker.
pub fn worker(mut args: impl Iterator<Item = OsString>) -> Result<()> {
    let stage = WorkerStage {
        parent: number(args.next())?,
        uid: number(args.next())?,
        nofile: number(args.next())?,
        program: args.next().unwrap_or_default().into(),
    };
    join(args)?;
    // By the open file, since the worker's user may not reach the path.
    let program = File::open(&stage.program).map_err(Problem::at(
        code::WORKER_NOT_STARTED,
        stage.program.display(),
    ))?;
    let empty = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
    unshare(empty).map_err(failed("unshare"))?;
    close_others(program.as_raw_fd()).map_err(failed("close"))?;
    std::env::set_current_dir("/").map_err(failed("chdir"))?;
    limit(Resource::Core, 0).map_err(failed("RLIMIT_CORE"))?;
    limit(Resource::Nofile, stage.nofile).map_err(failed("RLIMIT_NOFILE"))?;
    // Needs CAP_SETPCAP, which goes with the user.
    drop_bounding().map_err(failed("bounding set"))?;
    let (uid, gid) = (Uid::from_raw(stage.uid), Gid::from_raw(stage.uid));
    setgroups(&[]).map_err(failed("setgroups"))?;
    setresgid(gid, gid, gid).map_err(failed("setresgid"))?;
    setresuid(uid, uid, uid).map_err(failed("setresuid"))?;
    caps::keep(CapabilitySet::empty()).map_err(failed("capset"))?;
    set_no_new_privs(true).map_err(failed("no_new_privs"))?;
    // After setresuid, which takes it away.
    die_with(stage.parent)?;
    let path = format!("/proc/self/fd/{}", program.as_raw_fd());
    let name = stage.program.file_name().unwrap_or(OsStr::new("worker"));
    let error = Command::new(path).arg0(name).env_clear().exec();
    Err(Problem::new(
        code::WORKER_NOT_STARTED,
        format!("{}: {error}", stage.program.display()),
    ))
}

/// Gives up what a child does not need.
///
/// # Errors
/// For the first thing that cannot be done.
pub fn child(mut args: impl Iterator<Item = OsString>) -> Result<ChildStage> {
    let stage = ChildStage {
        parent: number(args.next())?,
        uid: number(args.next())?,
        idle_ms: number(args.next())?,
        allowed: number(args.next())?,
        tenant: args
            .next()
            .and_then(|t| t.into_string().ok())
            .unwrap_or_default(),
    };
    // Before the first socket is made.
    join(args)?;
    close_others(-1).map_err(failed("close"))?;
    caps::keep(caps::CHILD).map_err(failed("capset"))?;
    set_no_new_privs(true).map_err(failed("no_new_privs"))?;
    die_with(stage.parent)?;
    Ok(stage)
}

/// Of either stage: the vendor says whose it was.
fn failed<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> Problem {
    Problem::at(code::STAGE_FAILED, what)
}

/// Moves the process into each cgroup whose `cgroup.procs` is named.
fn join(procs: impl Iterator<Item = OsString>) -> Result<()> {
    for file in procs {
        let file = Path::new(&file);
        fs::write(file, "0").map_err(Problem::at(code::BOUND_NOT_SET, file.display()))?;
    }
    Ok(())
}

/// Closes everything but standard input, output and error, and `keep`.
fn close_others(keep: RawFd) -> std::io::Result<()> {
    let mut open: Vec<RawFd> = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name();
        open.extend(name.to_str().and_then(|n| n.parse::<RawFd>().ok()));
    }
    for fd in open.into_iter().filter(|fd| *fd > 2 && *fd != keep) {
        // One of them was that of the directory just read.
        let _ = close(fd);
    }
    Ok(())
}

fn limit(what: Resource, most: u32) -> std::io::Result<()> {
    let hard = rustix::process::getrlimit(what).maximum;
    let most = Some(u64::from(most).min(hard.unwrap_or(u64::MAX)));
    let rlimit = Rlimit {
        current: most,
        maximum: most,
    };
    Ok(setrlimit(what, rlimit)?)
}

fn drop_bounding() -> std::io::Result<()> {
    // All of it goes; what is in force stays until the user changes.
    let mut left = CapabilitySet::empty();
    for n in 0..64 {
        let Some(bit) = CapabilitySet::from_bits(1 << n) else {
            continue;
        };
        if capability_is_in_bounding_set(bit).unwrap_or(false)
            && remove_capability_from_bounding_set(bit).is_err()
        {
            left |= bit;
        }
    }
    if left.is_empty() {
        return Ok(());
    }
    Err(std::io::Error::other(format!("{left:?} stay")))
}

/// Nothing outlives the vendor: nobody would end it.
fn die_with(parent: u32) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(failed("death signal"))?;
    let now = getppid().map_or(0, |p: Pid| p.as_raw_nonzero().get());
    if u32::try_from(now).ok() == Some(parent) {
        return Ok(());
    }
    Err(Problem::new(code::STAGE_FAILED, "the vendor has ended"))
}
