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
    /// The kernel's hashes of their instructions: other code, other tag.
    pub tags: BTreeMap<u32, Vec<[u8; 8]>>,
    /// Paths below the pin directory.
    pub pins: Vec<String>,
}

impl Installed {
    pub fn on(lab: &Lab) -> Result<Self> {
        let root = File::open(lab.cgroup_root())?;
        let (mut programs, mut tags) = (BTreeMap::new(), BTreeMap::new());
        for hook in HOOKS {
            let ids = attached(&root, hook)?;
            let tag = |id: &u32| Ok(prog_info(prog_by_id(*id)?)?.tag);
            tags.insert(hook.0, ids.iter().map(tag).collect::<Result<_>>()?);
            programs.insert(hook.0, ids);
        }
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
        Ok(Self {
            programs,
            tags,
            pins,
        })
    }

    pub fn assert_once(&self) {
        for (hook, ids) in &self.programs {
            assert_eq!(ids.len(), 1, "hook {hook}: programs {ids:?}");
        }
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
