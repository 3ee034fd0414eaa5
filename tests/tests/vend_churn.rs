//! Many pods come and go while a worker is busy: nothing of them stays.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use underpass_api::vend::control::Request;
use underpass_tests::{
    Failure, Lab, Result,
    lab::{
        net, until,
        vend::{PORT, Talk, Vend, descriptors, number, pss_kib},
    },
};

/// Pods that are there at a time.
const ROUND: usize = 50;
/// All of them; `UNDERPASS_PODS=1000` for the long form.
const PODS: usize = 200;

fn pods() -> usize {
    let asked = std::env::var("UNDERPASS_PODS")
        .ok()
        .and_then(|n| n.parse().ok());
    asked.unwrap_or(PODS)
}

struct Churn<'a> {
    lab: &'a Lab,
    vend: &'a Vend,
    netns: Vec<String>,
}

impl Churn<'_> {
    /// Each with one end of a pair whose other end is in the node: it ends with the namespace.
    fn make(&self) -> Result<()> {
        let mut batch = String::new();
        for (n, netns) in self.netns.iter().enumerate() {
            let _ = writeln!(batch, "netns add {netns}");
            let _ = writeln!(
                batch,
                "link add c{n} netns {} type veth peer name eth0 netns {netns}",
                self.lab.node_netns()
            );
        }
        net::ip(&["-batch", "-"], &batch)
    }

    fn path(&self, n: usize) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.netns[n])
    }

    /// All are known, each with a listener; sockets are taken of every fifth, whose application
    /// keeps its connection.
    fn use_all(&self) -> Result<Vec<Talk>> {
        let mut asks = Vec::new();
        for n in 0..self.netns.len() {
            let name = format!("pod-{n}");
            asks.push(Request::Add {
                name: name.clone(),
                tenant: "blue".into(),
                netns: self.path(n).to_string_lossy().into_owned(),
            });
            asks.push(Request::Listen {
                name,
                address: "::".parse().unwrap(),
                port: PORT,
            });
        }
        for said in self.vend.ask_all(&asks)? {
            said?;
        }
        let mut open = Vec::new();
        for n in (0..self.netns.len()).step_by(5) {
            net::ip(&["-n", &self.netns[n], "link", "set", "lo", "up"], "")?;
            let at = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT);
            let mut talk = Talk::at(&self.path(n), at)?;
            assert_eq!(talk.ask("stock 8")?, "stock 8");
            open.push(talk);
        }
        Ok(open)
    }

    /// Half are said to be gone, half only leave.
    fn end_all(&self, open: Vec<Talk>) -> Result<Duration> {
        let gone = (0..self.netns.len()).step_by(2).map(|n| Request::Gone {
            name: format!("pod-{n}"),
        });
        let gone: Vec<Request> = gone.collect();
        let before = Instant::now();
        for said in self.vend.ask_all(&gone)? {
            said?;
        }
        let batch: String = self
            .netns
            .iter()
            .map(|n| format!("netns del {n}\n"))
            .collect();
        net::ip(&["-batch", "-"], &batch)?;
        drop(open);
        let deleted = Instant::now();
        until(
            "the end of all namespaces",
            Duration::from_secs(5),
            || match self.alive()? {
                0 => Ok(()),
                n => Err(format!("{n} live")),
            },
        )?;
        println!(
            "{} pods: gone in {:?}, namespaces dead {:?} after",
            self.netns.len(),
            deleted - before,
            deleted.elapsed()
        );
        Ok(deleted.elapsed())
    }

    fn alive(&self) -> std::result::Result<usize, String> {
        let out = Command::new("ip")
            .args([
                "-n",
                &self.lab.node_netns(),
                "-o",
                "link",
                "show",
                "type",
                "veth",
            ])
            .output()
            .map_err(|e| e.to_string())?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        Ok(text.lines().filter(|l| l.contains(": c")).count())
    }
}

/// Descriptors and memory (KiB) of the vendor, the child and the worker.
fn held(vend: &Vend) -> Result<[(usize, u32); 3]> {
    let line = vend.tenant("blue")?;
    let pids = [
        vend.proc.pid(),
        number(&line, "child")?,
        number(&line, "worker")?,
    ];
    let mut all = [(0, 0); 3];
    for (into, pid) in all.iter_mut().zip(pids) {
        *into = (descriptors(pid)?, pss_kib(pid)?);
    }
    Ok(all)
}

#[test]
fn pods_that_come_and_go_leave_nothing() -> Result<()> {
    let lab = Lab::new("vendchurn")?;
    let vend = Vend::start(&lab, &[])?;
    let steady = vend.pod(&lab, "steady", "blue")?;
    let worker = {
        Talk::to(&lab, &steady)?.ask("hello")?;
        number(&vend.wait("blue", "state", "running")?, "worker")?
    };
    let churn = Churn {
        lab: &lab,
        vend: &vend,
        netns: (0..ROUND).map(|n| format!("{}-c{n}", lab.id)).collect(),
    };
    let (stop, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut first = None;
    let mut slowest = Duration::ZERO;
    thread::scope(|s| -> Result<()> {
        // A pod that stays is served all the time, by the same process.
        let load = s.spawn(|| -> Result<()> {
            let mut talk = Talk::to(&lab, &steady)?;
            while !stop.load(Ordering::Relaxed) {
                assert!(talk.ask("hello")?.starts_with(&format!("pid {worker} ")));
                asked.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        let mut rounds = || -> Result<()> {
            // The first one warms up; names and paths are the same in each.
            for round in 0..=pods().div_ceil(ROUND) {
                churn.make()?;
                let open = churn.use_all()?;
                slowest = slowest.max(churn.end_all(open)?);
                vend.wait("blue", "workloads", "1")?;
                if round == 0 {
                    first = Some(held(&vend)?);
                }
            }
            Ok(())
        };
        let done = rounds();
        stop.store(true, Ordering::Relaxed);
        load.join()
            .map_err(|_| Failure::new("the load panicked"))??;
        done
    })?;
    let (first, last) = (first.unwrap(), held(&vend)?);
    let asked = asked.into_inner();
    println!(
        "{} pods, {asked} questions answered meanwhile; descriptors and PSS KiB {first:?} -> {last:?}",
        pods()
    );
    assert!(asked > 100, "{asked}");
    for (name, (was, now)) in ["vendor", "child", "worker"]
        .iter()
        .zip(first.iter().zip(last))
    {
        // One may be a client of the last question, or the connection of the load.
        assert!(
            now.0.abs_diff(was.0) <= 2,
            "{name} has {} descriptors, had {}",
            now.0,
            was.0
        );
        assert!(
            now.1 <= was.1 + was.1 / 10 + 128,
            "{name} has {} KiB, had {}",
            now.1,
            was.1
        );
    }
    // The watch, the close, and what the kernel takes for fifty namespaces on a busy machine.
    assert!(slowest < Duration::from_secs(3), "{slowest:?}");
    let line = vend.tenant("blue")?;
    assert_eq!(
        (line["crashes"].as_str(), line["failed"].as_str()),
        ("0", "0"),
        "{line:?}"
    );
    Ok(())
}
