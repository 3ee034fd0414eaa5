//! The list of capabilities is enough, and none of them is there for nothing: without any one of them
//! something that a running agent does fails. Needs root; capabilities belong to threads, so each set
//! is tried on a thread of its own.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
};

use rustix::thread::CapabilitySet;
use underpass_abi::tables::maps;
use underpass_agent::{
    kernel::{CgroupRoot, Kernel, KernelError, KernelOptions, Netns, caps, diag, uninstall},
    sys::info,
};

struct Node(KernelOptions);

impl Node {
    fn new() -> Self {
        let name = format!("underpass-caps-{}", std::process::id());
        let cgroup = CgroupRoot::find(None).unwrap().path().join(&name);
        fs::create_dir(&cgroup).unwrap();
        Self(KernelOptions {
            pin_dir: Path::new("/sys/fs/bpf").join(&name),
            cgroup_root: Some(cgroup),
            ..KernelOptions::default()
        })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = uninstall(&self.0, std::time::Duration::ZERO);
        let _ = fs::remove_dir(self.0.cgroup_root.as_ref().unwrap());
    }
}

/// A process of another user in a network namespace of its own.
struct Stranger(Child);

impl Stranger {
    fn new() -> Self {
        let mut child = Command::new("unshare")
            .args([
                "-n",
                "setpriv",
                "--reuid",
                "65534",
                "--regid",
                "65534",
                "--clear-groups",
            ])
            .args(["sh", "-c", "echo up; cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "up\n");
        Self(child)
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a running agent does. Returns what failed.
fn work(kernel: &Kernel, stranger: &Stranger) -> Vec<&'static str> {
    let mut failed = Vec::new();
    let mut note = |name, result: Result<(), KernelError>| {
        if let Err(e) = result {
            println!("    {name}: {e}");
            failed.push(name);
        }
    };
    note(
        "map writes",
        kernel
            .seed_listeners(1, &[(underpass_abi::Ip::ANY, 1, 6, 1)])
            .map(drop),
    );
    note("map reads", kernel.dump().map(drop));
    note("totals", kernel.totals().map(drop));
    note("open sockets", kernel.sockets().map(drop));
    note("events", kernel.take_events().map(drop));
    let guard = Netns::of_process(stranger.0.id()).and_then(|netns| {
        kernel.guard(&netns)?;
        diag::sockets(&netns, diag::Which::Listening)?;
        kernel.unguard(netns.cookie).map(drop)
    });
    note("guard a namespace", guard);
    note("end a connection", destroy());
    if info::link_ids()
        .next()
        .and_then(|id| info::link_by_id(id).ok())
        .is_none()
    {
        failed.push("links by id");
    }
    failed
}

fn destroy() -> Result<(), KernelError> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let _client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let netns = Netns::current()?;
    let all = diag::sockets(&netns, diag::Which::Connected)?;
    let socket = all
        .iter()
        .find(|s| s.remote_port == port)
        .expect("the client");
    assert!(diag::destroy(&netns, socket)?);
    Ok(())
}

#[test]
fn each_capability_is_needed_and_together_they_suffice() {
    let node = Node::new();
    let kernel = Kernel::open(&node.0).unwrap();
    let stranger = Stranger::new();
    let with = |set: CapabilitySet| {
        let work = || {
            caps::keep(set).unwrap();
            work(&kernel, &stranger)
        };
        thread::scope(|s| s.spawn(work).join().unwrap())
    };
    assert_eq!(
        with(caps::needed()),
        Vec::<&str>::new(),
        "the list suffices"
    );
    for n in caps::NEEDED {
        println!("without {}", n.name);
        assert!(
            !with(caps::needed() - n.set).is_empty(),
            "{} is not needed",
            n.name
        );
    }
    assert!(
        kernel
            .map_use()
            .iter()
            .any(|m| m.name == maps::LISTENERS && m.used > 0)
    );
}
