//! The workloads, in a file, so that a restarted vendor knows them while the agent is away. A line for
//! each workload and each listener, words separated by tabs.

use std::{
    fs::{self, File},
    io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use underpass_abi::reason::code;

use crate::{
    log::{Problem, Result},
    netns::Which,
};

/// A workload as root described it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub name: String,
    pub tenant: String,
    pub netns: PathBuf,
    pub which: Which,
    pub listeners: Vec<(IpAddr, u16)>,
}

/// The state directory, held by one vendor.
#[derive(Debug)]
pub struct State {
    dir: PathBuf,
    _lock: File,
}

impl State {
    /// # Errors
    /// `STATE_DIR`, or `VENDOR_BUSY` if another vendor holds it.
    pub fn open(dir: &Path) -> Result<Self> {
        let failed = || Problem::at(code::STATE_DIR, dir.display().to_string());
        fs::create_dir_all(dir).map_err(failed())?;
        let lock = File::create(dir.join("lock")).map_err(failed())?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(Problem::at(code::VENDOR_BUSY, dir.display()))?;
        Ok(Self {
            dir: dir.to_owned(),
            _lock: lock,
        })
    }

    /// What an earlier vendor knew; lines that are not understood are left out.
    pub fn load(&self) -> Vec<Known> {
        read(&fs::read_to_string(self.file()).unwrap_or_default())
    }

    /// # Errors
    /// If the directory is full or gone; the old file stays.
    pub fn save<'a>(&self, all: impl Iterator<Item = &'a Known>) -> io::Result<()> {
        let draft = self.dir.join("workloads.new");
        fs::write(&draft, all.map(lines).collect::<String>())?;
        fs::rename(draft, self.file())
    }

    fn file(&self) -> PathBuf {
        self.dir.join("workloads")
    }
}

fn lines(known: &Known) -> String {
    let Known {
        name,
        tenant,
        netns,
        which,
        listeners,
    } = known;
    let (device, inode, netns) = (which.device, which.inode, netns.display());
    let mut text = format!("workload\t{name}\t{tenant}\t{device}\t{inode}\t{netns}\n");
    for (address, port) in listeners {
        text += &format!("listener\t{address}\t{port}\n");
    }
    text
}

fn read(text: &str) -> Vec<Known> {
    let mut all: Vec<Known> = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split('\t').collect();
        match words[..] {
            ["workload", name, tenant, device, inode, netns] => {
                let (Ok(device), Ok(inode)) = (device.parse(), inode.parse()) else {
                    continue;
                };
                all.push(Known {
                    name: name.to_owned(),
                    tenant: tenant.to_owned(),
                    netns: netns.into(),
                    which: Which { device, inode },
                    listeners: Vec::new(),
                });
            }
            ["listener", address, port] => {
                if let (Some(known), Ok(address), Ok(port)) =
                    (all.last_mut(), address.parse(), port.parse())
                {
                    known.listeners.push((address, port));
                }
            }
            _ => {}
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let known = |name: &str, listeners| Known {
            name: name.into(),
            tenant: "blue".into(),
            netns: "/run/netns/a b".into(),
            which: Which {
                device: 4,
                inode: u64::MAX,
            },
            listeners,
        };
        let all = vec![
            known("blue/a", vec![]),
            known(
                "blue/b",
                vec![("::".parse().unwrap(), 1), ("10.0.0.1".parse().unwrap(), 2)],
            ),
        ];
        let text: String = all.iter().map(lines).collect();
        assert_eq!(read(&text), all);
        assert_eq!(
            read(&format!(
                "x\nlistener\t::\t1\nworkload\ta\tb\tx\t1\t/\n{text}"
            )),
            all
        );
    }
}
