//! A node of a test's own: a cgroup to attach at, a pin directory, processes that end with it.
#![allow(dead_code, reason = "each test file uses a part")]

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use underpass_abi::{
    plain,
    shortcut::Mode,
    tables::{Entry, maps, setting},
};
use underpass_agent::{
    kernel::{CgroupRoot, Kernel, KernelOptions, program, uninstall},
    sys::bpf,
};
use underpass_mesh::{Batch, Change, Round};

/// A cgroup and a pin directory of one test; gone when it ends, also by a panic.
pub struct Node {
    pub options: KernelOptions,
    pub cgroup: PathBuf,
}

impl Node {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("underpass-test-{}-{n}", std::process::id());
        let root = CgroupRoot::find(None).unwrap();
        let cgroup = root.path().join(&name);
        fs::create_dir(&cgroup).unwrap();
        let options = KernelOptions {
            pin_dir: Path::new("/sys/fs/bpf").join(&name),
            cgroup_root: Some(cgroup.clone()),
            // All features, as far as this kernel has them.
            shortcut: Mode::Auto,
            ..KernelOptions::default()
        };
        Self { options, cgroup }
    }

    pub fn open(&self) -> Kernel {
        Kernel::open(&self.options).unwrap()
    }

    /// Programs attached at the node's cgroup, by hook.
    pub fn attached(&self) -> Vec<usize> {
        let dir = fs::File::open(&self.cgroup).unwrap();
        program::hooks()
            .map(|(_, attach)| bpf::attached(&dir, attach).unwrap().len())
            .collect()
    }

    /// Opens the kernel with the node's cgroup as workload 1.
    pub fn open_enrolled(&self) -> Kernel {
        let kernel = self.open();
        let level = kernel.cgroup().level_of(&self.cgroup).unwrap();
        let round = Round {
            fresh: vec![batch(
                maps::CGROUPS,
                &[(kernel.cgroup().id(), Entry::new(1))],
            )],
            words: vec![batch(
                maps::SETTINGS,
                &[(setting::CGROUP_LEVELS, 1_u64 << level)],
            )],
            stale: vec![],
        };
        kernel
            .apply(&Change {
                rounds: vec![round],
                writes: 2,
            })
            .unwrap();
        kernel
    }

    /// Starts a shell command in the node's cgroup.
    pub fn run(&self, command: &str) -> Process {
        let script = format!(
            "echo $$ > {}/cgroup.procs && {command}",
            self.cgroup.display()
        );
        Process::start(Command::new("bash").args(["-c", &script]))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // A lock of a kernel object or process that still ends may linger for a moment.
        for _ in 0..50 {
            if uninstall(&self.options, std::time::Duration::ZERO).is_ok() {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
        for _ in 0..50 {
            if fs::remove_dir(&self.cgroup).is_ok() {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A child that ends with the test.
pub struct Process(pub Child);

impl Process {
    pub fn start(command: &mut Command) -> Self {
        Self(
            command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap(),
        )
    }

    pub fn line(&mut self) -> String {
        let mut line = String::new();
        BufReader::new(self.0.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        line.trim().to_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn batch<K: plain::Plain, V: plain::Plain>(map: &'static str, pairs: &[(K, V)]) -> Batch {
    let concat = |parts: Vec<&[u8]>| parts.concat();
    Batch {
        map,
        keys: concat(pairs.iter().map(|(k, _)| plain::bytes(k)).collect()),
        values: concat(pairs.iter().map(|(_, v)| plain::bytes(v)).collect()),
        count: pairs.len(),
    }
}
