//! Maps, links and pins against the real kernel: needs root, cgroup2, a bpffs and the built BPF object.
//! Everything attaches at a cgroup of the test's own and is pinned in a directory of its own.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "common/node.rs"]
mod node;

use std::{
    fs,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use underpass_abi::{
    Ip, plain,
    reason::code,
    tables::{Backend, Entry, ServiceKey, ServiceWord, limits, maps, setting},
};
use underpass_agent::{
    kernel::{
        Kernel, KernelOptions, apply,
        feature::{SPLICE_GUARD, SPLICE_WATCH},
        uninstall,
    },
    sys::{bpf, maps::Map},
};
use underpass_mesh::{Change, Deletes, Round};

use node::{Node, Process, batch};

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
    // Whether splice can be guarded is for each kernel to say (`tests/tests/splice_guard.rs`).
    for f in kernel.features().iter().filter(|f| f.name != SPLICE_GUARD) {
        println!("{f:?}");
        // Nobody listens who could take the shortcut.
        assert_eq!(f.on, f.name != SPLICE_WATCH, "{f:?}");
        assert_eq!(f.code, 0, "{f:?}");
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
    assert_eq!(
        uninstall(&node.options, Duration::ZERO).unwrap_err().code,
        code::NODE_BUSY
    );
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
    let removed = uninstall(&node.options, Duration::ZERO).unwrap().removed;
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
    let removed = uninstall(&node.options, Duration::ZERO).unwrap().removed;
    assert_eq!(
        removed.iter().filter(|r| r.starts_with("link ")).count(),
        12,
        "{removed:?}"
    );
    assert_eq!(
        removed.iter().filter(|r| r.starts_with("map ")).count(),
        maps::ALL.len()
    );
    assert!(!node.options.pin_dir.exists());
    assert_eq!(node.attached(), [0; 10]);
    assert_eq!(
        uninstall(&node.options, Duration::ZERO).unwrap().removed,
        Vec::<String>::new()
    );
}

#[test]
fn a_full_map_is_named_and_what_was_there_stays() {
    let node = Node::new();
    let kernel = node.open();
    kernel.apply(&change()).unwrap();
    let cookies: Vec<(u64, Entry)> = (0..=limits::NETNS as u64)
        .map(|n| (n, Entry::new(1)))
        .collect();
    let round = Round {
        fresh: vec![batch(maps::NETNS, &cookies)],
        ..Round::default()
    };
    let error = kernel
        .apply(&Change {
            rounds: vec![round],
            writes: 0,
        })
        .unwrap_err();
    assert_eq!(error.code, code::LIMIT_EXCEEDED);
    assert!(error.detail.contains(maps::NETNS), "{error}");
    let dump = kernel.dump().unwrap();
    assert_eq!(dump[maps::NETNS].len(), limits::NETNS);
    assert_eq!(dump[maps::SERVICE_IDS].len(), 2);
}

/// Many elements of an array are written through a mapping: all are there, and nothing else is.
#[test]
fn a_large_change_writes_what_it_says() {
    let node = Node::new();
    let kernel = node.open();
    let backend = |index: u32| Backend {
        ip: Ip([index, 0, 0, 1]),
        port: index as u16,
        service: index,
        ..Backend::default()
    };
    // Not from the start, not in order, and up to the last element.
    let last = limits::BACKENDS as u32 - 1;
    let indexes = (1_000..3_000).rev().filter(|i| i % 3 != 0).chain([last]);
    let backends: Vec<_> = indexes.clone().map(|i| (i, backend(i))).collect();
    let slots: Vec<_> = indexes.map(|i| (i, u64::from(i) << 40 | 7)).collect();
    let apply = |fresh| {
        kernel.apply(&Change {
            rounds: vec![Round {
                fresh,
                ..Round::default()
            }],
            writes: 0,
        })
    };
    apply(vec![
        batch(maps::BACKENDS, &backends),
        batch(maps::SLOTS, &slots),
    ])
    .unwrap();
    let dump = kernel.dump().unwrap();
    let sorted = |mut pairs: Vec<(Vec<u8>, Vec<u8>)>| {
        pairs.sort();
        pairs
    };
    fn written<V: plain::Plain>(pairs: &[(u32, V)]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let bytes = |(k, v): &(u32, V)| (plain::bytes(k).to_vec(), plain::bytes(v).to_vec());
        pairs.iter().map(bytes).collect()
    }
    for (map, expected) in [
        (maps::BACKENDS, written(&backends)),
        (maps::SLOTS, written(&slots)),
    ] {
        assert!(sorted(dump[map].clone()) == sorted(expected), "{map}");
    }
    let beyond: Vec<_> = (last - 300..last + 2).map(|i| (i, backend(i))).collect();
    let error = apply(vec![batch(maps::BACKENDS, &beyond)]).unwrap_err();
    assert_eq!(error.code, code::LIMIT_EXCEEDED);
}

/// Any number of entry points get other workloads in one change, and no lookup misses one meanwhile
/// (with ordinary updates, 9 to 18 of 2 million do).
#[test]
fn entries_are_overwritten_under_their_readers() {
    let node = Node::new();
    let kernel = node.open();
    let pin =
        node.options
            .pin_dir
            .join(format!("v{}/maps/{}", underpass_abi::VERSION, maps::NETNS));
    let netns = Map::new(bpf::obj_get(&pin).unwrap(), 1).unwrap();
    let all = |workload| {
        let cookies = 0..limits::NETNS as u64;
        let pairs: Vec<_> = cookies.map(|n| (n, Entry::new(workload))).collect();
        vec![batch(maps::NETNS, &pairs)]
    };
    let apply = |round| {
        kernel
            .apply(&Change {
                rounds: vec![round],
                writes: 0,
            })
            .unwrap()
    };
    apply(Round {
        fresh: all(1),
        ..Round::default()
    });
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut read, mut missed) = (0_u64, 0_u64);
            while !done.load(Ordering::Relaxed) {
                for cookie in 0..limits::NETNS as u64 {
                    missed += u64::from(netns.get(plain::bytes(&cookie)).unwrap().is_none());
                    read += 1;
                }
            }
            (read, missed)
        });
        for _ in 0..20 {
            apply(Round {
                words: [1, 2].repeat(20).into_iter().flat_map(&all).collect(),
                ..Round::default()
            });
        }
        done.store(true, Ordering::Relaxed);
        let (read, missed) = reader.join().unwrap();
        println!("{read} lookups");
        assert!(read > 10_000, "{read}");
        assert_eq!(missed, 0, "of {read} lookups");
    });
}
