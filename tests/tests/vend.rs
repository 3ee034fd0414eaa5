//! The vendor and its workers: first need, idle, crash, end, and whose sockets are whose.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::BTreeSet,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use underpass_api::vend::control::Request;
use underpass_tests::{
    Lab, Result,
    lab::{
        net,
        process::alive,
        until,
        vend::{Talk, Vend, number, pss_kib, within},
    },
};

fn start(tenant: &str) -> Request {
    let tenant = tenant.to_owned();
    Request::Start { tenant }
}

#[test]
fn the_first_connection_starts_a_worker_and_want_of_work_ends_it() -> Result<()> {
    let lab = Lab::new("vendlife")?;
    let vend = Vend::start(&lab, &["--idle", "1"])?;
    let pod = vend.pod(&lab, "web", "blue")?;
    let asleep = vend.tenant("blue")?;
    assert_eq!(
        (asleep["state"].as_str(), asleep["starts"].as_str()),
        ("asleep", "0")
    );

    let mut talk = Talk::to(&lab, &pod)?;
    assert!(talk.ask("hello")?.starts_with("pid "));
    let line = vend.wait("blue", "state", "running")?;
    let worker = number(&line, "worker")?;
    println!(
        "worker started in {} us, idle {} KiB PSS, its vendor child {} KiB, the vendor {} KiB",
        line["start_us"],
        pss_kib(worker)?,
        pss_kib(number(&line, "child")?)?,
        pss_kib(vend.proc.pid())?,
    );
    // Not while there is a connection.
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(vend.tenant("blue")?["state"], "running");
    drop(talk);
    vend.wait("blue", "state", "asleep")?;
    assert!(!alive(worker));
    // Connections that come while workers come and go are all answered.
    for _ in 0..20 {
        assert!(Talk::to(&lab, &pod)?.ask("hello")?.starts_with("pid "));
        thread::sleep(Duration::from_millis(60));
    }
    let line = vend.tenant("blue")?;
    assert_eq!(
        (line["crashes"].as_str(), line["codes"].as_str()),
        ("0", ""),
        "{line:?}"
    );
    Ok(())
}

#[test]
fn a_worker_gets_sockets_of_its_own_tenant_only() -> Result<()> {
    let lab = Lab::new("vendforge")?;
    let vend = Vend::start(&lab, &[])?;
    let blue = vend.pod(&lab, "web", "blue")?;
    let red = vend.pod(&lab, "shop", "red")?;
    let mut forged = Talk::to(&lab, &blue)?;
    let id = |said: String| said.rsplit(' ').next().unwrap_or_default().to_owned();
    let (mine, foreign) = (
        id(forged.ask("hello")?),
        id(Talk::to(&lab, &red)?.ask("hello")?),
    );
    assert_ne!(mine, foreign);
    assert_eq!(forged.ask(&format!("forge {mine}"))?, "stock 1");
    // The same answer for another tenant's and for nobody's.
    for id in [foreign.as_str(), "4711", "0"] {
        assert_eq!(forged.ask(&format!("forge {id}"))?, "refused 430");
    }
    let line = vend.wait("blue", "refused", "3")?;
    assert!(line["codes"].contains("UP0430"), "{line:?}");
    assert!(
        vend.proc
            .stderr()
            .contains("UP0430 NOT_YOUR_WORKLOAD: tenant blue")
    );
    assert_eq!(vend.tenant("red")?["refused"], "0");
    // It still gets what is its own, and no more than a message may carry.
    assert_eq!(forged.ask("stock 64")?, "stock 64");
    assert_eq!(number(&vend.wait("blue", "given", "65")?, "failed")?, 0);
    Ok(())
}

#[test]
fn a_vended_socket_connects_from_the_pod() -> Result<()> {
    let lab = Lab::new("venddial")?;
    let vend = Vend::start(&lab, &[])?;
    let pod = vend.pod(&lab, "web", "blue")?;
    let netns = lab.host().netns_path();
    let server = within(&netns, || TcpListener::bind((net::NODE_V4, 0)))??;
    let at = server.local_addr()?;
    let serving = thread::spawn(move || {
        let (mut stream, from) = server.accept()?;
        stream.write_all(b"welcome\n").map(|()| from)
    });
    let said = Talk::to(&lab, &pod)?.ask(&format!("dial {at}"))?;
    assert_eq!(said, format!("from {} got welcome", pod.v4));
    let from: SocketAddr = serving.join().unwrap()?;
    assert_eq!(from.ip(), pod.v4);
    Ok(())
}

#[test]
fn a_killed_worker_is_back_at_once_and_others_go_on() -> Result<()> {
    let lab = Lab::new("vendcrash")?;
    let vend = Vend::start(&lab, &[])?;
    let blue = vend.pod(&lab, "web", "blue")?;
    let red = vend.pod(&lab, "shop", "red")?;
    let (mut ours, mut theirs) = (Talk::to(&lab, &blue)?, Talk::to(&lab, &red)?);
    ours.ask("hello")?;
    let other = theirs.ask("hello")?;
    let first = number(&vend.wait("blue", "state", "running")?, "worker")?;
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(first).unwrap()),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    let killed = Instant::now();
    let again = Talk::to(&lab, &blue)?.ask("hello")?;
    println!("first answer {:?} after kill -9", killed.elapsed());
    assert!(!again.contains(&format!("pid {first} ")), "{again}");
    assert!(
        ours.ask("hello").is_err(),
        "the old connection ended with its worker"
    );
    // The same process, on the same connection.
    assert_eq!(theirs.ask("hello")?, other);
    let line = vend.tenant("blue")?;
    assert_eq!(line["crashes"], "1");
    assert!(line["codes"].contains("UP0434"), "{line:?}");
    assert_eq!(
        (
            vend.tenant("red")?["crashes"].as_str(),
            killed.elapsed().as_secs() < 5
        ),
        ("0", true)
    );

    // One that goes on crashing is waited for longer each time.
    for crashes in 2..=4 {
        let _ = Talk::to(&lab, &blue)?.ask("crash");
        vend.wait("blue", "crashes", &crashes.to_string())?;
    }
    assert_eq!(vend.wait("blue", "state", "waiting")?["starts"], "4");
    assert!(Talk::to(&lab, &blue)?.ask("hello")?.starts_with("pid "));
    Ok(())
}

#[test]
fn a_kill_is_one_crash_however_fast_the_next_worker_is() -> Result<()> {
    let lab = Lab::new("vendkills")?;
    let vend = Vend::start(&lab, &[])?;
    for n in 0..8 {
        let name = format!("t{n}");
        let pod = vend.pod(&lab, &name, &name)?;
        Talk::to(&lab, &pod)?.ask("hello")?;
        let worker = number(&vend.wait(&name, "state", "running")?, "worker")?;
        let pid = nix::unistd::Pid::from_raw(i32::try_from(worker).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        assert!(Talk::to(&lab, &pod)?.ask("hello")?.starts_with("pid "));
    }
    thread::sleep(Duration::from_millis(100));
    for n in 0..8 {
        let line = vend.tenant(&format!("t{n}"))?;
        assert_eq!(
            (line["crashes"].as_str(), line["starts"].as_str()),
            ("1", "2"),
            "{line:?}"
        );
    }
    Ok(())
}

#[test]
fn what_ends_is_closed_within_a_second_also_by_a_worker_that_does_not() -> Result<()> {
    let lab = Lab::new("vendgone")?;
    let vend = Vend::start(&lab, &[])?;
    let (one, two) = (
        vend.pod(&lab, "one", "blue")?,
        vend.pod(&lab, "two", "blue")?,
    );
    let three = vend.pod(&lab, "three", "blue")?;
    let mut stays = Talk::to(&lab, &three)?;
    stays.ask("stock 3")?;
    Talk::to(&lab, &one)?.ask("stock 5")?;
    let worker = number(&vend.wait("blue", "state", "running")?, "worker")?;
    // First it may finish.
    let mut last = Talk::to(&lab, &one)?;
    assert_eq!(last.ask("draining")?, "false");
    vend.ask(&Request::Drain { name: "one".into() })?;
    until("the word", Duration::from_secs(2), || {
        match last.ask("draining").as_deref() {
            Ok("true") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    // Told: the honest worker lives on.
    let before = Instant::now();
    vend.gone("one")?;
    net::delete(&one.place.netns)?;
    assert!(
        before.elapsed() < Duration::from_secs(1),
        "{:?}",
        before.elapsed()
    );
    dead(&lab, 1)?;
    assert_eq!(number(&vend.tenant("blue")?, "worker")?, worker);
    stays.ask("hello")?;
    // Nobody says so (the agent is away): its path is gone.
    Talk::to(&lab, &two)?.ask("stock 5")?;
    net::delete(&two.place.netns)?;
    dead(&lab, 2)?;
    assert_eq!(vend.wait("blue", "workloads", "1")?["crashes"], "0");
    // A worker that does not listen is ended. The pod that it held open is free.
    let four = vend.pod(&lab, "four", "blue")?;
    Talk::to(&lab, &four)?.ask("stock 5")?;
    stays.ask("deaf")?;
    let before = Instant::now();
    vend.gone("four")?;
    println!("closed by force after {:?}", before.elapsed());
    assert!(
        before.elapsed() < Duration::from_secs(2),
        "{:?}",
        before.elapsed()
    );
    net::delete(&four.place.netns)?;
    dead(&lab, 4)?;
    assert!(vend.tenant("blue")?["codes"].contains("UP0436"));
    assert!(!alive(worker));
    // The last one takes the tenant with it.
    vend.gone("three")?;
    until(
        "the end of the tenant",
        Duration::from_secs(5),
        || match vend.tenant("blue") {
            Err(_) => Ok(()),
            Ok(line) => Err(format!("{line:?}")),
        },
    )?;
    Ok(())
}

/// Waits until the namespace of the lab's pod with this number has ended: its interface takes the other
/// end, in the node, with it.
fn dead(lab: &Lab, index: u32) -> Result<()> {
    let name = format!("p{index}");
    // The kernel takes its time for it on a busy machine.
    until(
        &format!("the end of {name}"),
        Duration::from_secs(3),
        || match net::ip(&["-n", &lab.node_netns(), "link", "show", &name], "") {
            Err(_) => Ok(()),
            Ok(()) => Err("it lives".to_owned()),
        },
    )
}

#[test]
fn a_restarted_vendor_knows_what_is_still_there() -> Result<()> {
    let lab = Lab::new("vendback")?;
    let mut vend = Vend::start(&lab, &["--drain", "500"])?;
    let stays = vend.pod(&lab, "stays", "blue")?;
    let goes = vend.pod(&lab, "goes", "blue")?;
    let again = vend.pod(&lab, "again", "red")?;
    Talk::to(&lab, &stays)?.ask("hello")?;
    let line = vend.wait("blue", "state", "running")?;
    let (child, worker) = (number(&line, "child")?, number(&line, "worker")?);
    thread::sleep(Duration::from_millis(200));
    vend.proc.kill9()?;
    // Nothing outlives it.
    until(
        "the end of its processes",
        Duration::from_secs(2),
        || match alive(child) || alive(worker) {
            true => Err("alive".to_owned()),
            false => Ok(()),
        },
    )?;
    net::delete(&goes.place.netns)?;
    net::delete(&again.place.netns)?;
    net::ip(&["netns", "add", &again.place.netns], "")?;
    vend.restart(&lab)?;
    assert_eq!(vend.tenant("blue")?["workloads"], "1");
    // Another namespace under a name of before is another pod's.
    assert!(vend.tenant("red").is_err(), "{:?}", vend.status());
    until("an answer", Duration::from_secs(5), || {
        let mut talk = Talk::to(&lab, &stays).map_err(|f| f.0)?;
        let said = talk.ask("hello");
        said.map_err(|f| format!("{f}: {:?} {}", vend.status(), vend.proc.stderr()))
    })?;
    // An orderly end leaves nothing at all.
    vend.proc.signal(Signal::TERM)?;
    until(
        "the end of the vendor",
        Duration::from_secs(5),
        || match alive(vend.proc.pid()) {
            true => Err(vend.proc.stderr()),
            false => Ok(()),
        },
    )?;
    let left = std::fs::read_dir(lab.cgroup.join("vend"))?.flatten();
    let left: Vec<_> = left
        .filter(|e| e.path().is_dir())
        .map(|e| e.file_name())
        .collect();
    assert!(left.is_empty(), "{left:?}");
    Ok(())
}

#[test]
fn a_killed_child_takes_its_own_tenant_only_and_is_back() -> Result<()> {
    let lab = Lab::new("vendchild")?;
    let vend = Vend::start(&lab, &[])?;
    let blue = vend.pod(&lab, "web", "blue")?;
    let red = vend.pod(&lab, "shop", "red")?;
    let mut theirs = Talk::to(&lab, &red)?;
    let other = theirs.ask("hello")?;
    Talk::to(&lab, &blue)?.ask("hello")?;
    let child = number(&vend.wait("blue", "state", "running")?, "child")?;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    until("another child", Duration::from_secs(5), || {
        let line = vend.tenant("blue").map_err(|f| f.0)?;
        let now = number(&line, "child").map_err(|f| f.0)?;
        if now != 0 && now != child && line["listeners"] == "1" {
            Ok(())
        } else {
            Err(format!("{line:?}"))
        }
    })?;
    until("an answer", Duration::from_secs(5), || {
        let mut talk = Talk::to(&lab, &blue).map_err(|f| f.0)?;
        talk.ask("hello").map(|_| ()).map_err(|f| f.0)
    })?;
    assert_eq!(theirs.ask("hello")?, other);
    assert!(vend.proc.stderr().contains("UP0442"));
    Ok(())
}

#[test]
fn thirty_tenants_have_thirty_workers() -> Result<()> {
    const TENANTS: u32 = 30;
    let lab = Lab::new("vendmany")?;
    let vend = Vend::start(&lab, &[])?;
    for n in 0..TENANTS {
        let name = format!("t{n}");
        let pod = vend.pod(&lab, &name, &name)?;
        assert!(Talk::to(&lab, &pod)?.ask("hello")?.starts_with("pid "));
        // The vendor hears of it a moment later.
        vend.wait(&name, "state", "running")?;
    }
    let status = vend.status()?;
    let (mut uids, mut took, mut memory) = (BTreeSet::new(), Vec::new(), pss_kib(vend.proc.pid())?);
    for line in &status[1..] {
        assert_eq!(
            (line["state"].as_str(), line["codes"].as_str()),
            ("running", ""),
            "{line:?}"
        );
        uids.insert(number(line, "uid")?);
        took.push(number(line, "start_us")?);
        memory += pss_kib(number(line, "worker")?)? + pss_kib(number(line, "child")?)?;
    }
    assert_eq!((uids.len(), took.len()), (30, 30));
    took.sort_unstable();
    println!(
        "{TENANTS} workers started in {} us (median), {} us (slowest); all processes {memory} KiB PSS",
        took[took.len() / 2],
        took[took.len() - 1],
    );
    Ok(())
}

#[test]
fn one_worker_for_all_is_said_loudly() -> Result<()> {
    let lab = Lab::new("vendshared")?;
    let vend = Vend::start(&lab, &["--shared"])?;
    let blue = vend.pod(&lab, "web", "blue")?;
    let red = vend.pod(&lab, "shop", "red")?;
    let pid = |said: String| said.split(' ').nth(1).unwrap_or_default().to_owned();
    let first = pid(Talk::to(&lab, &blue)?.ask("hello")?);
    assert_eq!(first, pid(Talk::to(&lab, &red)?.ask("hello")?));
    let status = vend.status()?;
    assert_eq!(
        (status[0]["shared"].as_str(), status[0]["codes"].as_str()),
        ("yes", "UP0437")
    );
    assert_eq!((status.len(), status[1]["workloads"].as_str()), (2, "2"));
    assert!(vend.proc.stderr().contains("UP0437 SHARED_WORKER"));
    Ok(())
}

#[test]
fn what_makes_no_sense_is_refused_with_a_code() -> Result<()> {
    let lab = Lab::new("vendwrong")?;
    let vend = Vend::start(&lab, &[])?;
    let pod = vend.pod(&lab, "web", "blue")?;
    let path = pod.place.netns_path();
    let code = |done: Result<()>| {
        done.unwrap_err()
            .0
            .split(' ')
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    assert_eq!(code(vend.add("web", "red", &path)), "305");
    assert_eq!(
        code(vend.add("x", "red", Path::new("/run/netns/nowhere"))),
        "414"
    );
    assert_eq!(
        code(vend.add("x", "red", Path::new("/proc/self/status"))),
        "414"
    );
    assert_eq!(
        code(vend.add("x", "red", Path::new("/proc/self/ns/uts"))),
        "414"
    );
    assert_eq!(code(vend.add("x/y/z", "red", &path)), "431");
    assert_eq!(code(vend.add("x", "../red", &path)), "431");
    assert_eq!(code(vend.listen("web")), "305", "told again");
    assert_eq!(code(vend.listen("nobody")), "502");
    assert_eq!(code(vend.ask(&start("nobody")).map(|_| ())), "502");
    vend.gone("nobody")?;
    // The application has the port.
    let taken = lab.pod("taken")?;
    let app = within(&taken.place.netns_path(), || {
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, underpass_tests::lab::vend::PORT))
    })??;
    vend.add("taken", "blue", &taken.place.netns_path())?;
    assert_eq!(code(vend.listen("taken")), "438");
    drop(app);
    vend.listen("taken")?;
    assert_eq!(vend.tenant("blue")?["listeners"], "2");

    // Others than root get nothing, whatever the socket's mode is.
    std::fs::set_permissions(
        &vend.control,
        std::os::unix::fs::PermissionsExt::from_mode(0o666),
    )?;
    let ctl = |user: &str| {
        let vend_program = underpass_tests::lab::place::binary("underpass-vend").unwrap();
        let out = Command::new("setpriv")
            .args(["--reuid", user, "--regid", user, "--clear-groups"])
            .arg(vend_program)
            .args(["ctl", "status", "--control"])
            .arg(&vend.control)
            .output()
            .unwrap();
        (
            out.status.code(),
            String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned(),
        )
    };
    let (exit, said) = ctl("65534");
    assert!(
        exit == Some(1) && said.contains("UP0432"),
        "{exit:?} {said}"
    );
    let (exit, said) = ctl("0");
    assert!(
        exit == Some(0) && said.contains("tenant=blue"),
        "{exit:?} {said}"
    );
    Ok(())
}
