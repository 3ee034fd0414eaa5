//! What the agent reads from the kernel: open sockets, totals, events, namespaces, checks.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "common/node.rs"]
mod node;

use std::{
    collections::HashSet,
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, poll};
use underpass_abi::{Ip, VERSION, reason::code, sock::Event, tables::maps};
use underpass_agent::{
    kernel::{Check, EventRing, Netns, checks, diag, events::Told},
    sys::{bpf, info},
};
use underpass_api::check::Mark;

use node::{Node, Process};

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
    let programs = || {
        let file = fs::File::open(&netns.path).unwrap();
        bpf::attached(&file, bpf::Attach::SK_LOOKUP).unwrap()
    };
    let first = programs();
    assert_eq!((first.len(), kernel.guarded()), (1, vec![netns.cookie]));
    drop(kernel);
    let kernel = node.open();
    assert_eq!(
        programs(),
        first,
        "adopted; the same code is not loaded again"
    );
    assert_eq!(kernel.guarded(), [netns.cookie]);
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
    assert!(events(&mut ring).any(|e| e.sock.remote_port == port));
    drop(TcpStream::connect(("127.0.0.1", port)));
}

/// Everything that is in the ring.
fn events(ring: &mut EventRing) -> impl Iterator<Item = Event> {
    std::iter::from_fn(|| ring.next()).filter_map(|told| match told {
        Told::Event(event) => Some(event),
        Told::Notice(_) => None,
    })
}

/// Rows of ended connections call nobody until the ring is a quarter full.
#[test]
fn the_ring_calls_when_it_fills_up() {
    let node = Node::new();
    let kernel = node.open_enrolled();
    let mut ring = kernel.take_events().unwrap();
    let readable = |ring: &EventRing, wait: Duration| {
        let wait = wait.try_into().unwrap();
        poll(&mut [PollFd::new(ring, PollFlags::IN)], Some(&wait)).unwrap() == 1
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || listener.incoming().for_each(drop));
    let dial = format!("exec 3<>/dev/tcp/127.0.0.1/{port}; exec 3>&-");
    let mut client = node.run(&format!(
        "for i in {{1..20}}; do {dial}; done; echo few; read; \
         for i in {{1..1500}}; do {dial}; done; echo many; cat"
    ));
    assert_eq!(client.line(), "few");
    assert!(!readable(&ring, Duration::from_millis(50)));
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut rows = HashSet::new();
    while rows.len() < 20 {
        assert!(Instant::now() < deadline, "{} rows", rows.len());
        rows.extend(events(&mut ring).map(|e| e.sock.cookie));
    }
    client.0.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    assert_eq!(client.line(), "many");
    assert!(readable(&ring, Duration::from_secs(5)));
    ring.answer();
    assert!(events(&mut ring).next().is_some() && !readable(&ring, Duration::ZERO));
    ring.call_again();
    assert!(readable(&ring, Duration::ZERO), "something is left");
}

#[test]
fn checks_pass_on_this_machine() {
    let node = Node::new();
    let start = Instant::now();
    for c in checks(&node.options) {
        println!("{:?} {} {} {}", c.mark, c.name, c.code, c.detail);
        assert!(c.mark != Mark::Error, "{c:?}");
    }
    assert!(!node.options.pin_dir.exists());
    println!("checks: {:?}", start.elapsed());
    assert!(info::link_ids().count() < 10_000);
}

/// A map of another version in the place of one of ours.
#[test]
fn checks_find_pins_that_do_not_fit() {
    let (node, other) = (Node::new(), Node::new());
    let _kernel = node.open();
    let pins = |node: &Node| node.options.pin_dir.join(format!("v{VERSION}/maps"));
    fs::create_dir_all(pins(&other)).unwrap();
    let map = bpf::obj_get(&pins(&node).join(maps::FLOWS)).unwrap();
    bpf::obj_pin(map, &pins(&other).join(maps::TOTALS)).unwrap();
    let found = checks(&other.options);
    let bad = |c: &&Check| c.mark == Mark::Error;
    let bad: Vec<(&str, u16)> = found
        .iter()
        .filter(bad)
        .map(|c| (&*c.name, c.code))
        .collect();
    assert_eq!(bad, [("programs", code::PINS_INCOMPATIBLE)], "{found:#?}");
    let fits = checks(&node.options);
    assert!(fits.iter().all(|c| c.mark != Mark::Error), "{fits:#?}");
}
