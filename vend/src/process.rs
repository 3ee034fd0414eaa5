//! Processes of the vendor: its own program, started again as a stage.

use std::{
    io,
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    process::{Child, Command, ExitStatus, Stdio},
};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use underpass_api::vend::channel::Channel;

use crate::cgroup::Group;

/// A process that can be polled for its end.
#[derive(Debug)]
pub struct Proc {
    process: Child,
    killed: bool,
    pub pidfd: OwnedFd,
}

impl Proc {
    /// # Errors
    /// Of fork and exec, and of `pidfd_open`.
    pub fn start(args: Vec<std::ffi::OsString>, group: &Group, stdin: Channel) -> io::Result<Self> {
        let mut process = Command::new("/proc/self/exe")
            .arg0("underpass-vend")
            .args(args)
            .args(group.procs())
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(stdin)))
            .stdout(Stdio::null())
            .spawn()?;
        let opened = pidfd_open(Pid::from_child(&process), PidfdFlags::empty());
        match opened {
            Ok(pidfd) => Ok(Self {
                process,
                killed: false,
                pidfd,
            }),
            Err(e) => {
                process.kill()?;
                process.wait()?;
                Err(e.into())
            }
        }
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// True the first time.
    pub fn kill(&mut self) -> bool {
        // It may have ended by itself.
        let _ = self.process.kill();
        !std::mem::replace(&mut self.killed, true)
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().ok().flatten()
    }
}
