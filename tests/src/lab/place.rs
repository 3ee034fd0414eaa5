//! Where a process runs: a cgroup and a network namespace.

use std::{
    env, fs,
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    process::Command,
};

use super::{Failure, Result};

#[derive(Clone, Debug)]
pub struct Place {
    pub cgroup: PathBuf,
    /// Name below /run/netns.
    pub netns: String,
}

/// A place with addresses of its own.
#[derive(Clone, Debug)]
pub struct Pod {
    pub place: Place,
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

impl Place {
    pub fn netns_path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.netns)
    }

    /// The same cgroup in another namespace.
    pub fn in_netns(&self, netns: &str) -> Self {
        Self {
            cgroup: self.cgroup.clone(),
            netns: netns.to_owned(),
        }
    }

    /// A cgroup below this one, in the same namespace.
    pub fn child(&self, name: &str) -> Result<Self> {
        let cgroup = self.cgroup.join(name);
        super::cgroup::make(&cgroup)?;
        Ok(Self {
            cgroup,
            netns: self.netns.clone(),
        })
    }

    /// Inode of the cgroup directory: the cgroup's id.
    pub fn cgroup_id(&self) -> Result<u64> {
        use std::os::unix::fs::MetadataExt as _;
        Ok(fs::metadata(&self.cgroup)
            .map_err(Failure::at(self.cgroup.display()))?
            .ino())
    }

    /// A command that moves itself here before it becomes `command`, so that no socket is ever made
    /// elsewhere and the child's pid is the program's.
    pub fn command(&self, command: &[&str]) -> Result<Command> {
        let mut run = Command::new(binary("underpass-lab")?);
        run.arg("enter").arg(&self.cgroup).arg(self.netns_path());
        let (program, args) = command
            .split_first()
            .ok_or_else(|| Failure::new("empty command"))?;
        match program.strip_prefix("underpass-") {
            Some(_) => run.arg(binary(program)?),
            None if *program == "underpass" => run.arg(binary(program)?),
            None => run.arg(program),
        };
        run.args(args);
        Ok(run)
    }
}

/// A binary of this workspace, beside the running test or program.
pub fn binary(name: &str) -> Result<PathBuf> {
    let me = env::current_exe()?;
    // target/<profile>/deps/test-hash or target/<profile>/program
    let dirs = me.ancestors().skip(1).take(2);
    dirs.map(|dir| dir.join(name)).find(|path| path.is_file()).ok_or_else(|| {
        Failure(format!(
            "{name} is not built. Try: cargo xtask test (or: cargo build -p underpass-agent -p underpass-cli -p underpass-vend -p underpass-tests)"
        ))
    })
}
