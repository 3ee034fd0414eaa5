//! The kernel side against the real kernel: needs root, cgroup2, a bpffs and the built BPF object.
//! Everything attaches at a cgroup of the test's own and is pinned in a directory of its own.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use underpass_abi::{
    Ip, plain,
    reason::code,
    tables::{ServiceKey, ServiceWord, maps, setting},
};
use underpass_agent::{
    kernel::{CgroupRoot, Kernel, KernelOptions, Netns, apply, checks, diag, uninstall},
    sys::{bpf, info},
};
use underpass_mesh::{Batch, Change, Deletes, Round};

/// A cgroup and a pin directory of one test; gone when it ends, also by a panic.
struct Node {
    options: KernelOptions,
    cgroup: PathBuf,
}

impl Node {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("underpass-test-{}-{n}", std::process::id());
        let root = CgroupRoot::find(None).unwrap();
        let cgroup = root.path().join(&name);
        fs::create_dir(&cgroup).unwrap();
        let options = KernelOptions {
            pin_dir: Path::new("/sys/fs/bpf").join(&name),
            cgroup_root: Some(cgroup.clone()),
            ..KernelOptions::default()
        };
        Self { options, cgroup }
    }

    fn open(&self) -> Kernel {
        Kernel::open(&self.options).unwrap()
    }

    /// Programs attached at the node's cgroup, by hook.
    fn attached(&self) -> Vec<usize> {
        let dir = fs::File::open(&self.cgroup).unwrap();
        underpass_agent::kernel::load::hooks()
            .map(|(_, attach)| bpf::attached(&dir, attach).unwrap().len())
            .collect()
    }

    /// Opens the kernel with the node's cgroup as workload 1.
    fn open_enrolled(&self) -> Kernel {
        let kernel = self.open();
        let level = kernel.cgroup().level_of(&self.cgroup).unwrap();
        let round = Round {
            fresh: vec![batch(maps::CGROUPS, &[(kernel.cgroup().id(), 1_u64)])],
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
    fn run(&self, command: &str) -> Process {
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
            if uninstall(&self.options).is_ok() {
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
struct Process(Child);

impl Process {
    fn start(command: &mut Command) -> Self {
        Self(
            command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap(),
        )
    }

    fn line(&mut self) -> String {
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

fn batch<K: plain::Plain, V: plain::Plain>(map: &'static str, pairs: &[(K, V)]) -> Batch {
    let concat = |parts: Vec<&[u8]>| parts.concat();
    Batch {
        map,
        keys: concat(pairs.iter().map(|(k, _)| plain::bytes(k)).collect()),
        values: concat(pairs.iter().map(|(_, v)| plain::bytes(v)).collect()),
        count: pairs.len(),
    }
}

fn service(port: u16) -> ServiceKey {
    let ip = Ip::from(std::net::IpAddr::from([10, 96, 0, 1]));
    ServiceKey {
        ip,
        port,
        proto: 6,
        pad: 0,
    }
}

/// Two services in one round.
fn change() -> Change {
    let round = Round {
        fresh: vec![batch(
            maps::SERVICE_IDS,
            &[(service(80), 1_u64), (service(81), 2_u64)],
        )],
        words: vec![
            batch(
                maps::SERVICES,
                &[(1_u32, ServiceWord::new(8, 1)), (2, ServiceWord::new(9, 1))],
            ),
            batch(maps::SETTINGS, &[(setting::PLAN_VERSION, 1_u64)]),
        ],
        stale: vec![],
    };
    Change {
        rounds: vec![round],
        writes: 5,
    }
}

#[test]
fn applies_and_is_adopted() {
    let node = Node::new();
    let start = Instant::now();
    let kernel = node.open();
    println!("fresh open: {:?}", start.elapsed());
    for f in kernel.features() {
        println!("{f:?}");
        assert!(f.on, "{f:?}");
    }
    assert_eq!(node.attached(), [1; 10]);

    let applied = kernel.apply(&change()).unwrap();
    println!("{applied:?}");
    assert_eq!(applied.writes, 5);
    let stale = Deletes {
        map: maps::SERVICE_IDS,
        // One that is there, between two that are not.
        keys: [service(79), service(80), service(78)]
            .iter()
            .flat_map(|k| plain::bytes(k).to_vec())
            .collect(),
        count: 3,
    };
    let second = Change {
        rounds: vec![Round {
            stale: vec![stale],
            ..Round::default()
        }],
        writes: 1,
    };
    assert_eq!(kernel.apply(&second).unwrap().writes, 1);
    let dump = kernel.dump().unwrap();
    assert_eq!(dump[maps::SERVICE_IDS].len(), 1);
    assert_eq!(dump[maps::SERVICES].len(), 2);
    assert_eq!(dump.len(), apply::PLAN.len());
    drop(kernel);
    assert_eq!(
        node.attached(),
        [1; 10],
        "dropping the kernel detaches nothing"
    );

    let start = Instant::now();
    let kernel = node.open();
    println!("adopting open: {:?}", start.elapsed());
    assert_eq!(kernel.dump().unwrap(), dump);
    assert_eq!(node.attached(), [1; 10]);
    let used = kernel.map_use();
    let ids = used.iter().find(|m| m.name == maps::SERVICE_IDS).unwrap();
    assert_eq!((ids.used, ids.capacity), (1, 16_384));
    // An empty trie has no memory.
    assert!(
        used.iter().all(|m| m.bytes > 0 || m.name == maps::BLOCKS),
        "{used:?}"
    );
    println!(
        "maps: {} KiB",
        used.iter().map(|m| m.bytes).sum::<u64>() / 1024
    );
}

#[test]
fn a_second_agent_is_refused_and_told_who_holds_the_node() {
    let node = Node::new();
    let _kernel = node.open();
    let error = Kernel::open(&node.options).err().unwrap();
    assert_eq!(error.code, code::NODE_BUSY);
    assert!(
        error
            .detail
            .contains(&format!("process {}", std::process::id())),
        "{error}"
    );
    // Other pins at the same cgroup are refused too, and so is uninstalling under a live agent.
    let other = Node::new();
    let both = KernelOptions {
        pin_dir: other.options.pin_dir.clone(),
        ..node.options.clone()
    };
    assert_eq!(Kernel::open(&both).err().unwrap().code, code::NODE_BUSY);
    assert_eq!(uninstall(&node.options).unwrap_err().code, code::NODE_BUSY);
}

/// The agent that `survives_kill` kills: this test program, started again.
fn child_agent() {
    let path = |name| PathBuf::from(std::env::var_os(name).unwrap());
    let options = KernelOptions {
        pin_dir: path("CHILD_PINS"),
        cgroup_root: Some(path("CHILD_CGROUP")),
        ..KernelOptions::default()
    };
    let kernel = Kernel::open(&options).unwrap();
    kernel.apply(&change()).unwrap();
    fs::write(path("CHILD_READY"), "ready").unwrap();
    thread::sleep(Duration::from_secs(60));
}

#[test]
fn survives_kill() {
    if std::env::var_os("CHILD_PINS").is_some() {
        return child_agent();
    }
    let node = Node::new();
    let ready = std::env::temp_dir().join(format!("underpass-ready-{}", std::process::id()));
    let mut child = Process::start(
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "survives_kill"])
            .env("CHILD_PINS", &node.options.pin_dir)
            .env("CHILD_CGROUP", &node.cgroup)
            .env("CHILD_READY", &ready),
    );
    let deadline = Instant::now() + Duration::from_secs(30);
    while !ready.exists() {
        assert!(
            Instant::now() < deadline,
            "the child never opened the kernel"
        );
        thread::sleep(Duration::from_millis(10));
    }
    fs::remove_file(&ready).unwrap();
    child.0.kill().unwrap();
    child.0.wait().unwrap();
    assert_eq!(node.attached(), [1; 10], "a dead agent's programs stay");
    let kernel = node.open();
    assert_eq!(node.attached(), [1; 10]);
    assert_eq!(kernel.dump().unwrap()[maps::SERVICE_IDS].len(), 2);
}

#[test]
fn links_that_lost_their_pin_are_not_doubled() {
    let node = Node::new();
    drop(node.open());
    let links = node
        .options
        .pin_dir
        .join(format!("v{}/links", underpass_abi::VERSION));
    let lost: Vec<_> = ["up_connect4", "up_sock_ops"]
        .map(|n| bpf::obj_get(&links.join(n)).unwrap())
        .into();
    for name in ["up_connect4", "up_sock_ops"] {
        fs::remove_file(links.join(name)).unwrap();
    }
    let kernel = node.open();
    assert_eq!(node.attached(), [1; 10]);
    drop(kernel);
    // And uninstalling finds those that lost it after.
    let held = bpf::obj_get(&links.join("up_connect6")).unwrap();
    fs::remove_file(links.join("up_connect6")).unwrap();
    let removed = uninstall(&node.options).unwrap();
    assert!(
        removed
            .iter()
            .any(|r| r.contains("unpinned") && r.contains("up_connect6")),
        "{removed:?}"
    );
    assert_eq!(node.attached(), [0; 10]);
    drop((lost, held));
}

#[test]
fn a_severed_link_is_attached_afresh() {
    let node = Node::new();
    drop(node.open());
    let path = node
        .options
        .pin_dir
        .join(format!("v{}/links/up_connect4", underpass_abi::VERSION));
    bpf::link_detach(bpf::obj_get(&path).unwrap()).unwrap();
    assert!(node.attached().contains(&0));
    let _kernel = node.open();
    assert_eq!(node.attached(), [1; 10]);
}

#[test]
fn uninstall_leaves_nothing_and_says_what_it_removed() {
    let node = Node::new();
    drop(node.open());
    let removed = uninstall(&node.options).unwrap();
    assert_eq!(
        removed.iter().filter(|r| r.starts_with("link ")).count(),
        10,
        "{removed:?}"
    );
    assert_eq!(
        removed.iter().filter(|r| r.starts_with("map ")).count(),
        maps::ALL.len()
    );
    assert!(!node.options.pin_dir.exists());
    assert_eq!(node.attached(), [0; 10]);
    assert_eq!(uninstall(&node.options).unwrap(), Vec::<String>::new());
}

#[test]
fn open_sockets_are_listed_across_namespaces() {
    let node = Node::new();
    let kernel = node.open_enrolled();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut client = node.run(&format!(
        "exec 3<>/dev/tcp/127.0.0.1/{port} && printf hello >&3 && echo up && cat"
    ));
    assert_eq!(client.line(), "up");
    let sockets = kernel.sockets().unwrap();
    let s = sockets
        .iter()
        .find(|s| s.remote_port == port)
        .expect("the client's socket");
    assert_eq!((s.tcp_state, s.tcp.sent), (1, 5), "{s:?}");
    // The same socket by sock_diag, made in the node's cgroup.
    let netns = Netns::current().unwrap();
    assert_eq!(s.netns, netns.cookie);
    let all = diag::sockets(&netns, diag::Which::Connected).unwrap();
    let d = all.iter().find(|d| d.cookie == s.cookie).unwrap();
    assert_eq!(d.cgroup, kernel.cgroup().id());
    assert!(diag::destroy(&netns, d).unwrap());
    assert!(!diag::destroy(&netns, d).unwrap(), "it is gone");
}

#[test]
fn guards_follow_their_namespaces() {
    let node = Node::new();
    let kernel = node.open();
    let mut inside =
        Process::start(Command::new("unshare").args(["-n", "sh", "-c", "echo up; cat"]));
    assert_eq!(inside.line(), "up");
    let netns = Netns::of_process(inside.0.id()).unwrap();
    assert_ne!(netns.cookie, Netns::current().unwrap().cookie);
    let start = Instant::now();
    kernel.guard(&netns).unwrap();
    println!("guard: {:?}", start.elapsed());
    kernel.guard(&netns).unwrap();
    let count = || {
        let file = fs::File::open(&netns.path).unwrap();
        bpf::attached(&file, bpf::Attach::SK_LOOKUP).unwrap().len()
    };
    assert_eq!((count(), kernel.guarded()), (1, vec![netns.cookie]));
    drop(kernel);
    let kernel = node.open();
    assert_eq!(
        (count(), kernel.guarded()),
        (1, vec![netns.cookie]),
        "adopted"
    );
    drop(inside);
    let deadline = Instant::now() + Duration::from_secs(5);
    while kernel.prune_guards().is_empty() {
        assert!(
            Instant::now() < deadline,
            "the namespace is gone, its guard is not"
        );
        thread::sleep(Duration::from_millis(20));
    }
    assert!(kernel.guarded().is_empty());
    assert!(netns.run(|| ()).is_err());
}

#[test]
fn seeded_listeners_do_not_replace_learnt_ones() {
    let node = Node::new();
    let kernel = node.open();
    assert_eq!(
        kernel
            .seed_listeners(7, &[(Ip::ANY, 80, 6, 3), (Ip::ANY, 81, 6, 3)])
            .unwrap(),
        2
    );
    assert_eq!(kernel.seed_listeners(7, &[(Ip::ANY, 80, 6, 4)]).unwrap(), 0);
    let known = kernel.listeners().unwrap();
    let of_7: Vec<_> = known.iter().filter(|(k, _)| k.netns == 7).collect();
    assert!(of_7.len() == 2 && of_7.iter().all(|(_, w)| *w == 3));
    assert_eq!(kernel.forget_listeners(&[of_7[0].0]).unwrap(), 1);
}

#[test]
fn counts_and_totals_are_readable() {
    let node = Node::new();
    let kernel = node.open_enrolled();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!("exec 3<>/dev/tcp/127.0.0.1/{port}; printf hello >&3");
    let mut client = node.run(&script);
    let mut heard = String::new();
    listener
        .accept()
        .unwrap()
        .0
        .read_to_string(&mut heard)
        .unwrap();
    assert_eq!(heard, "hello");
    client.0.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let totals = kernel.totals().unwrap();
        if totals.iter().any(|(_, t)| t.closed > 0 && t.sent == 5) {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "{totals:?} {:?}",
            kernel.counters().unwrap()
        );
        thread::sleep(Duration::from_millis(20));
    }
    let mut ring = kernel.take_events().unwrap();
    assert!(std::iter::from_fn(|| ring.next()).any(|e| e.sock.remote_port == port));
    drop(TcpStream::connect(("127.0.0.1", port)));
}

#[test]
fn checks_pass_on_this_machine() {
    let node = Node::new();
    let start = Instant::now();
    for c in checks(&node.options) {
        println!(
            "{} {} {} {}",
            if c.ok { "ok " } else { "BAD" },
            c.name,
            c.code,
            c.detail
        );
        assert!(c.ok, "{c:?}");
    }
    println!("checks: {:?}", start.elapsed());
    assert!(info::link_ids().count() < 10_000);
}
