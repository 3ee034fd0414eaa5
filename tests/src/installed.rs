//! What is in the kernel of a lab's node: the programs on our hooks and the pins.

use std::{
    collections::BTreeMap,
    fs::{self, File},
};

use underpass_agent::sys::{
    bpf::{Attach, attached},
    info::{prog_by_id, prog_info},
};

use crate::{Failure, Lab, Result};

const HOOKS: [Attach; 10] = [
    Attach::CONNECT4,
    Attach::CONNECT6,
    Attach::SENDMSG4,
    Attach::SENDMSG6,
    Attach::RECVMSG4,
    Attach::RECVMSG6,
    Attach::GETPEERNAME4,
    Attach::GETPEERNAME6,
    Attach::SOCK_RELEASE,
    Attach::SOCK_OPS,
];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Ids of the programs at the node's cgroup, by hook.
    pub programs: BTreeMap<u32, Vec<u32>>,
    /// Paths below the pin directory.
    pub pins: Vec<String>,
}

impl Installed {
    pub fn on(lab: &Lab) -> Result<Self> {
        let root = File::open(lab.cgroup_root())?;
        let programs = HOOKS
            .iter()
            .map(|hook| Ok((hook.0, attached(&root, *hook)?)))
            .collect::<Result<_>>()?;
        let mut pins = Vec::new();
        let mut dirs = vec![lab.pin_dir.clone()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(&dir).map_err(Failure::at(dir.display()))? {
                let path = entry?.path();
                pins.push(path.display().to_string());
                if path.is_dir() {
                    dirs.push(path);
                }
            }
        }
        pins.sort();
        Ok(Self { programs, pins })
    }

    pub fn assert_once(&self) {
        for (hook, ids) in &self.programs {
            assert_eq!(ids.len(), 1, "hook {hook}: programs {ids:?}");
        }
    }

    /// The kernel's hash of one hook's program: other code, other tag.
    pub fn tag(&self, hook: Attach) -> Result<[u8; 8]> {
        let ids = &self.programs[&hook.0];
        let [id] = ids[..] else {
            return Err(Failure(format!("hook {hook:?}: programs {ids:?}")));
        };
        Ok(prog_info(prog_by_id(id)?)?.tag)
    }
}

/// The number of our programs at the node's cgroup, also when there are no pins.
pub fn programs(lab: &Lab) -> Result<usize> {
    let root = File::open(lab.cgroup_root())?;
    let mut count = 0;
    for hook in HOOKS {
        count += attached(&root, hook)?.len();
    }
    Ok(count)
}
