//! The real worker under the real vendor: its snapshot is made by hand, and rules of nftables lead a
//! pod's connections to it, as the kernel's part will.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, TcpListener},
    os::fd::OwnedFd,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use underpass_api::vend::control::Request;
use underpass_mesh::snapshot::{Backend, Endpoint, FORMAT, Protocol, Service, Snapshot, Workload};
use underpass_tests::{
    Lab, Result,
    lab::{
        Pod, Proc,
        http::{Client, WEB, nft, nginx},
        net, place, until,
        vend::{PORT, Vend, number, pss_kib, within},
    },
};

/// What the client dials.
const SERVICE: &str = "10.96.0.7:80";
const OTHER: &str = "10.96.0.8:80";

fn service() -> SocketAddr {
    SERVICE.parse().unwrap()
}

struct Stage {
    lab: Lab,
    vend: Vend,
    client: Pod,
    endpoints: Vec<(Pod, Proc)>,
}

impl Stage {
    /// A client of tenant `shop`, and nginx in as many other pods.
    fn set(name: &str, endpoints: &[&str], flags: &[&str]) -> Result<Self> {
        let lab = Lab::new(name)?;
        let worker = place::binary("underpass-proxy")?;
        let vend = Vend::with_worker(&lab, &worker, flags)?;
        let client = lab.pod("web")?;
        let mut all = Vec::new();
        for name in endpoints {
            let pod = lab.pod(name)?;
            let server = nginx(&lab, &pod, name)?;
            all.push((pod, server));
        }
        let stage = Self {
            lab,
            vend,
            client,
            endpoints: all,
        };
        stage.door(&stage.client, "shop/web", "shop")?;
        Ok(stage)
    }

    /// A workload whose connections to the services go to its worker.
    fn door(&self, pod: &Pod, name: &str, tenant: &str) -> Result<()> {
        self.vend.add(name, tenant, &pod.place.netns_path())?;
        self.vend.listen(name)?;
        let rules = format!(
            "table ip door {{ chain output {{ type nat hook output priority -100;\n\
             ip daddr 10.96.0.0/24 tcp dport 80 redirect to :{PORT}\n}}\n}}\n"
        );
        nft(&self.lab, &pod.place.netns, &rules)
    }

    fn endpoint(&self, at: usize) -> (IpAddr, u16) {
        (self.endpoints[at].0.v4.into(), WEB)
    }

    fn snapshot(&self, version: u64, endpoints: &[(IpAddr, u16)]) -> Snapshot {
        let address = |at: &str| at.parse::<SocketAddr>().unwrap().ip();
        let service = |name: &str, at: &str| Service {
            name: name.into(),
            port: 80,
            addresses: vec![address(at)],
            protocol: Protocol::Http1,
            routes: vec![],
        };
        let backend = |name: &str, endpoints: &[(IpAddr, u16)]| Backend {
            service: name.into(),
            port: 80,
            protocol: Protocol::Http1,
            endpoints: endpoints.iter().map(|(a, p)| endpoint(*a, *p)).collect(),
        };
        Snapshot {
            format: FORMAT,
            version,
            tenant: "shop".into(),
            workloads: vec![Workload {
                name: "shop/web".into(),
                identity: "spiffe://cluster.local/ns/shop/sa/web".into(),
                addresses: vec![self.client.v4.into(), self.client.v6.into()],
                inbound: vec![],
            }],
            services: vec![service("shop/api", SERVICE), service("shop/slow", OTHER)],
            backends: vec![backend("shop/api", endpoints), backend("shop/slow", &[])],
            peers: vec![],
        }
    }

    fn push(&self, snapshot: &Snapshot) -> Result<OwnedFd> {
        let text = serde_json::to_string(snapshot).unwrap();
        let report = self
            .vend
            .snapshot(&snapshot.tenant, snapshot.version, &text)?;
        Ok(report)
    }

    /// Until its worker has it.
    fn push_and_wait(&self, snapshot: &Snapshot) -> Result<()> {
        self.push(snapshot)?;
        let version = snapshot.version.to_string();
        self.vend.wait(&snapshot.tenant, "applied", &version)?;
        Ok(())
    }

    fn connect(&self) -> Result<Client> {
        Client::connect(&self.client.place.netns_path(), service())
    }
}

fn endpoint(address: IpAddr, port: u16) -> Endpoint {
    Endpoint {
        address,
        port,
        weight: 1,
        workload: Some(format!("shop/{address}").into()),
        identity: Some("spiffe://cluster.local/ns/shop/sa/api".into()),
        same_worker: false,
    }
}

/// The first request that is answered well, and when.
fn first_good(stage: &Stage, since: Instant) -> Result<Duration> {
    until("a good answer", Duration::from_secs(10), || {
        let mut client = stage.connect().map_err(|f| f.0)?;
        match client.get("/").map_err(|f| f.0)? {
            (200, _) => Ok(since.elapsed()),
            other => Err(format!("{other:?} {:?}", stage.vend.status())),
        }
    })
}

#[test]
fn requests_go_through_the_worker_also_after_a_crash_and_an_idle_time() -> Result<()> {
    let stage = Stage::set("proxyvend", &["one", "two"], &["--idle", "1"])?;
    // It has not been told of anything.
    let started = Instant::now();
    let (status, said) = stage.connect()?.get("/")?;
    assert_eq!(status, 503, "{said}");
    assert!(said.contains("UP0680 NO_SNAPSHOT"), "{said}");
    assert!(
        started.elapsed() > Duration::from_millis(900),
        "it waited for one"
    );
    let endpoints = [stage.endpoint(0), stage.endpoint(1)];
    // One that waits is served when the snapshot comes.
    let mut early = stage.connect()?;
    early.ask("/")?;
    stage.push_and_wait(&stage.snapshot(1, &endpoints))?;
    assert_eq!(early.answer()?.0, 200);
    drop(early);

    let seen = Mutex::new(BTreeMap::new());
    // Many at once: a single client's next request goes to whoever answered faster.
    thread::scope(|s| {
        for _ in 0..8 {
            s.spawn(|| {
                let mut client = stage.connect().unwrap();
                for _ in 0..50 {
                    let (status, name) = client.get("/").unwrap();
                    assert_eq!(status, 200, "{name}");
                    *seen.lock().unwrap().entry(name).or_insert(0) += 1;
                }
            });
        }
    });
    let seen = seen.into_inner().unwrap();
    println!("{seen:?}");
    assert_eq!(seen.len(), 2, "{seen:?}");

    let line = stage.vend.wait("shop", "state", "running")?;
    let worker = number(&line, "worker")?;
    println!(
        "worker: {} us to hello, {} KiB PSS after 400 requests",
        line["start_us"],
        pss_kib(worker)?
    );
    // Where nobody knows a service.
    let other = Client::connect(
        &stage.client.place.netns_path(),
        "10.96.0.9:80".parse().unwrap(),
    );
    let (status, said) = other?.get("/")?;
    assert!(status == 503 && said.contains("UP0681"), "{status} {said}");
    // A connection that nobody redirected.
    let direct = SocketAddr::new(stage.client.v4.into(), PORT);
    Client::connect(&stage.lab.host().netns_path(), direct)?.wait_end()?;

    let mut open = stage.connect()?;
    assert_eq!(open.get("/")?.0, 200);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(worker).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    println!(
        "first good answer {:?} after kill -9",
        first_good(&stage, Instant::now())?
    );
    open.wait_end()?;
    assert_eq!(stage.vend.tenant("shop")?["crashes"], "1");

    // It ends for want of work, and comes back with the same snapshot.
    stage.vend.wait("shop", "state", "asleep")?;
    println!(
        "first good answer {:?} after it slept",
        first_good(&stage, Instant::now())?
    );
    for _ in 0..20 {
        assert_eq!(stage.connect()?.get("/")?.0, 200);
        thread::sleep(Duration::from_millis(60));
    }
    let line = stage.vend.tenant("shop")?;
    assert_eq!(
        (
            line["crashes"].as_str(),
            line["refused"].as_str(),
            line["failed"].as_str()
        ),
        ("1", "0", "0"),
        "{line:?}"
    );
    Ok(())
}

#[test]
fn a_snapshot_moves_the_traffic_and_fails_no_request() -> Result<()> {
    let stage = Stage::set("proxymove", &["one", "two"], &[])?;
    stage.push(&stage.snapshot(1, &[stage.endpoint(0)]))?;
    let (stop, good, bad) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|s| -> Result<()> {
        for _ in 0..6 {
            s.spawn(|| {
                let mut client = stage.connect().unwrap();
                while !stop.load(Ordering::Relaxed) {
                    match client.get("/") {
                        Ok((200, _)) => good.fetch_add(1, Ordering::Relaxed),
                        other => {
                            println!("{:?}", other.map_err(|f| f.0));
                            bad.fetch_add(1, Ordering::Relaxed);
                            return;
                        }
                    };
                }
            });
        }
        let moves = || -> Result<()> {
            stage.vend.wait("shop", "applied", "1")?;
            for version in 2..30 {
                let to = stage.endpoint(version as usize % 2);
                stage.push_and_wait(&stage.snapshot(version, &[to]))?;
                let name = ["one", "two"][version as usize % 2];
                for _ in 0..5 {
                    assert_eq!(stage.connect()?.get("/")?, (200, name.to_owned()));
                }
                thread::sleep(Duration::from_millis(20));
            }
            Ok(())
        };
        let done = moves();
        stop.store(true, Ordering::Relaxed);
        done
    })?;
    println!(
        "{} requests while 28 snapshots came",
        good.load(Ordering::Relaxed)
    );
    assert!(good.load(Ordering::Relaxed) > 200);
    assert_eq!(bad.load(Ordering::Relaxed), 0);

    // What is no snapshot of this tenant, version and format changes nothing.
    let current = stage.snapshot(29, &[stage.endpoint(1)]);
    type Breaks = Box<dyn Fn(&mut Snapshot)>;
    let broken: [(&str, u64, Breaks); 3] = [
        ("UP0447", 40, Box::new(|s| s.format = 9)),
        ("UP0447", 41, Box::new(|s| s.tenant = "red".into())),
        ("UP0447", 42, Box::new(|s| s.version = 1)),
    ];
    for (code, version, breaks) in broken {
        let mut snapshot = current.clone();
        snapshot.version = version;
        breaks(&mut snapshot);
        let text = serde_json::to_string(&snapshot).unwrap();
        stage.vend.snapshot("shop", version, &text)?;
        let line = stage.vend.wait("shop", "snapshot", &version.to_string())?;
        assert_eq!(line["applied"], "29");
        assert_eq!(stage.vend.wait("shop", "rejected", code)?["applied"], "29");
    }
    stage.vend.snapshot("shop", 43, "no snapshot")?;
    stage.vend.wait("shop", "rejected", "UP0448")?;
    // Not sealed: it could change while it is read.
    let open = underpass_tests::lab::vend::memfd("open", b"{}")?;
    let both = [
        std::os::fd::AsFd::as_fd(&open),
        std::os::fd::AsFd::as_fd(&open),
    ];
    stage.vend.hand("shop", 44, &both)?;
    stage.vend.wait("shop", "snapshot", "44")?;
    let (status, name) = stage.connect()?.get("/")?;
    assert_eq!((status, name.as_str()), (200, "two"));
    stage.push_and_wait(&stage.snapshot(45, &[stage.endpoint(0)]))?;
    assert_eq!(stage.vend.tenant("shop")?["rejected"], "");
    assert_eq!(stage.vend.tenant("shop")?["crashes"], "0");
    Ok(())
}

#[test]
fn what_a_pod_held_is_closed_when_it_ends() -> Result<()> {
    let stage = Stage::set("proxygone", &["one"], &["--shared"])?;
    let second = stage.lab.pod("second")?;
    stage.door(&second, "red/second", "red")?;
    // Its service never answers.
    let silent = within(&stage.endpoints[0].0.place.netns_path(), || {
        TcpListener::bind(("0.0.0.0", 7))
    })??;
    let mut first = stage.snapshot(1, &[stage.endpoint(0)]);
    first.backends[1].endpoints = vec![endpoint(stage.endpoint(0).0, 7)];
    let mut red = stage.snapshot(9, &[stage.endpoint(0)]);
    red.tenant = "red".into();
    red.workloads[0].name = "red/second".into();
    stage.push(&first)?;
    stage.push(&red)?;

    // Tenants in one worker, each by its own snapshot.
    let mut stays = Client::connect(&second.place.netns_path(), service())?;
    assert_eq!(stays.get("/")?, (200, "one".to_owned()));
    let mut parked = stage.connect()?;
    assert_eq!(parked.get("/")?, (200, "one".to_owned()));
    let mut waits = Client::connect(&stage.client.place.netns_path(), OTHER.parse().unwrap())?;
    waits.ask("/")?;
    let (mut upstream, _) = silent.accept()?;
    let worker = number(&stage.vend.wait("shared", "state", "running")?, "worker")?;
    assert_eq!(stage.vend.tenant("red")?["applied"], "9");

    // First it may finish: what waits for nothing is closed.
    stage.vend.ask(&Request::Drain {
        name: "shop/web".into(),
    })?;
    parked.wait_end()?;
    std::io::Write::write_all(
        &mut upstream,
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    )?;
    assert_eq!(waits.answer()?, (200, "ok".to_owned()));
    waits.wait_end()?;
    assert_eq!(stays.get("/")?.0, 200);

    // A request is under way when it ends.
    let third = stage.lab.pod("third")?;
    stage.door(&third, "shop/third", "shop")?;
    let mut next = first.clone();
    next.version = 2;
    let mut another = next.workloads[0].clone();
    another.name = "shop/third".into();
    next.workloads.push(another);
    stage.push_and_wait(&next)?;
    let mut waits = Client::connect(&third.place.netns_path(), OTHER.parse().unwrap())?;
    waits.ask("/")?;
    let _upstream = silent.accept()?;
    let before = Instant::now();
    stage.vend.gone("shop/third")?;
    let took = before.elapsed();
    println!("closed in {took:?}");
    assert!(took < Duration::from_millis(800), "{took:?}");
    // The test's own end is in that namespace too.
    waits.wait_end()?;
    drop(waits);
    net::delete(&third.place.netns)?;
    until(
        "the end of the namespace",
        Duration::from_secs(3),
        || match net::ip(&["-n", &stage.lab.node_netns(), "link", "show", "p4"], "") {
            Err(_) => Ok(()),
            Ok(()) => Err("it lives".to_owned()),
        },
    )?;
    assert!(
        before.elapsed() < Duration::from_secs(2),
        "{:?}",
        before.elapsed()
    );
    // The same worker serves the others.
    assert_eq!(stays.get("/")?.0, 200);
    assert_eq!(number(&stage.vend.tenant("shared")?, "worker")?, worker);
    Ok(())
}
