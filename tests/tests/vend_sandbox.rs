//! What a worker is and what it can do, seen from inside a real one.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{collections::BTreeMap, fs, os::unix::fs::symlink, path::PathBuf, time::Duration};

use underpass_tests::{
    Failure, Lab, Result,
    lab::{
        Pod, cgroup, place, until,
        vend::{Talk, Vend, number, words},
    },
};

const UID: u32 = 1_900_004_000;
const EPERM: &str = "1";
const EACCES: &str = "13";
const NONE: &str = "0000000000000000";

/// A test worker under a name that says how it begins.
fn named(lab: &Lab, name: &str) -> Result<PathBuf> {
    let link = lab.dir.join(name);
    symlink(place::binary("underpass-tenant")?, &link)?;
    Ok(link)
}

fn asked(lab: &Lab, pod: &Pod, command: &str) -> Result<BTreeMap<String, String>> {
    Ok(words(&Talk::to(lab, pod)?.ask(command)?))
}

#[test]
fn a_worker_is_nobody_and_can_do_nothing() -> Result<()> {
    let lab = Lab::new("vendbox")?;
    let base = UID.to_string();
    let vend = Vend::start(&lab, &["--uid-base", &base])?;
    let pod = vend.pod(&lab, "web", "blue")?;
    let second = vend.pod(&lab, "shop", "red")?;
    let facts = asked(&lab, &pod, "facts")?;
    println!("{facts:?}");
    let id = [base.as_str(); 4].join("/");
    assert_eq!(
        (facts["uid"].as_str(), facts["gid"].as_str()),
        (id.as_str(), id.as_str())
    );
    assert_eq!(facts["groups"], "");
    for set in ["inh", "prm", "eff", "bnd", "amb"] {
        assert_eq!(facts[set], NONE, "{set}");
    }
    assert_eq!(facts["nnp"], "1");
    assert_eq!(
        (
            facts["fds"].as_str(),
            facts["env"].as_str(),
            facts["args"].as_str()
        ),
        ("3", "0", "1")
    );
    assert_eq!(facts["dir"], "/");
    // A namespace of its own with nothing in it but its loopback, which is down.
    assert_eq!(
        (facts["interfaces"].as_str(), facts["routes"].as_str()),
        ("lo", "")
    );
    let other = asked(&lab, &second, "facts")?;
    assert_ne!(facts["netns"], other["netns"]);
    assert_ne!(facts["uid"], other["uid"]);

    let attempts = asked(&lab, &pod, "attempts")?;
    println!("{attempts:?}");
    assert_eq!(attempts.len(), 18);
    for (what, errno) in &attempts {
        assert_eq!(errno, EPERM, "{what}");
    }
    // The kernel agrees, and the socket that was given did work: it answered.
    let pid = number(&vend.tenant("blue")?, "worker")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    assert!(status.contains("Seccomp:\t2\n"), "{status}");
    assert_eq!(vend.wait("blue", "state", "running")?["missing"], "");
    Ok(())
}

#[test]
fn without_seccomp_landlock_and_the_user_still_hold() -> Result<()> {
    let lab = Lab::new("vendlock")?;
    let files = named(&lab, "files")?;
    let vend = Vend::with_worker(&lab, &files, &["--allow-missing", "seccomp"])?;
    let pod = vend.pod(&lab, "web", "blue")?;
    let attempts = asked(&lab, &pod, "attempts")?;
    println!("{attempts:?}");
    for what in [
        "read", "proc", "write", "list", "mkdir", "exec", "bind", "listen",
    ] {
        assert_eq!(attempts[what], EACCES, "{what}");
    }
    for what in ["setuid", "setgid", "chroot", "kill", "ptrace", "nofile"] {
        assert_eq!(attempts[what], EPERM, "{what}");
    }
    // An empty namespace: a socket can be made and reaches nothing.
    assert_ne!(attempts["tcp"], "0");
    let line = vend.wait("blue", "missing", "seccomp")?;
    assert!(line["codes"].contains("UP0433"), "{line:?}");
    Ok(())
}

#[test]
fn a_worker_without_its_sandbox_gets_nothing() -> Result<()> {
    // One that lies, and one on a kernel without landlock.
    for (name, flag, lacks) in [
        ("lazy", "landlock", "seccomp"),
        ("unlocked", "seccomp", "landlock"),
    ] {
        let lab = Lab::new("vendlazy")?;
        let worker = named(&lab, name)?;
        let vend = Vend::with_worker(&lab, &worker, &["--allow-missing", flag])?;
        let pod = vend.pod(&lab, "web", "blue")?;
        let mut talk = Talk::to(&lab, &pod)?;
        talk.say("hello")?;
        let log = until("the refusal", Duration::from_secs(5), || {
            let log = vend.proc.stderr();
            let said = format!("UP0433 SANDBOX_INCOMPLETE: tenant blue: the worker lacks {lacks}");
            if log.contains(&said) {
                Ok(log)
            } else {
                Err(log)
            }
        })?;
        // It goes on trying, slower and slower, and never gives the listener away.
        let line = vend.wait("blue", "state", "waiting")?;
        assert_eq!(line["given"], "0", "{log}");
        assert!(
            number(&line, "crashes")? >= 1 && line["codes"].contains("UP0433"),
            "{line:?}"
        );
    }
    let lab = Lab::new("vendlazy")?;
    let worker = named(&lab, "unlocked")?;
    let vend = Vend::with_worker(&lab, &worker, &["--allow-missing", "landlock"])?;
    let pod = vend.pod(&lab, "web", "blue")?;
    assert!(Talk::to(&lab, &pod)?.ask("hello")?.starts_with("pid "));
    vend.wait("blue", "missing", "landlock")?;
    Ok(())
}

#[test]
fn the_bounds_of_its_cgroup_are_in_force() -> Result<()> {
    let lab = Lab::new("vendbound")?;
    let flags = ["--memory-max", "32", "--pids-max", "12", "--cpu-max", "150"];
    let vend = Vend::start(&lab, &flags)?;
    let pod = vend.pod(&lab, "web", "blue")?;
    let other = vend.pod(&lab, "shop", "red")?;
    let mut theirs = Talk::to(&lab, &other)?;
    let before = theirs.ask("hello")?;
    // The worker's first thread and the child are two of the twelve.
    assert_eq!(Talk::to(&lab, &pod)?.ask("threads 100")?, "threads 10");
    let line = vend.tenant("blue")?;
    for key in ["worker", "child"] {
        let bounds = bounds_of(number(&line, key)?)?;
        assert_eq!(bounds, ["33554432", "12", "150000 100000"], "{key}");
    }
    let _ = Talk::to(&lab, &pod)?.ask("eat 64");
    let log = until(
        "the end of what eats too much",
        Duration::from_secs(5),
        || {
            let log = vend.proc.stderr();
            if log.contains("tenant blue") && log.contains("signal: 9") {
                Ok(log)
            } else {
                Err(log)
            }
        },
    )?;
    assert!(log.contains("UP0434") || log.contains("UP0442"), "{log}");
    // It is back, and the other tenant noticed nothing.
    until("an answer", Duration::from_secs(5), || {
        let mut talk = Talk::to(&lab, &pod).map_err(|f| f.0)?;
        talk.ask("hello").map_err(|f| f.0)
    })?;
    assert_eq!(theirs.ask("hello")?, before);
    Ok(())
}

#[test]
fn its_sockets_are_its_tenants_memory() -> Result<()> {
    const ROUNDS: u64 = 40;
    let lab = Lab::new("vendcharge")?;
    let vend = Vend::start(&lab, &[])?;
    let pod = vend.pod(&lab, "web", "blue")?;
    let mut talk = Talk::to(&lab, &pod)?;
    talk.ask("stock 64")?;
    let child = number(&vend.tenant("blue")?, "child")?;
    let before = memory_of(child)?;
    for _ in 0..ROUNDS {
        assert_eq!(talk.ask("stock 64")?, "stock 64");
    }
    let grown = memory_of(child)?.saturating_sub(before);
    let each = grown / (64 * ROUNDS);
    println!("{each} bytes for each socket");
    // A socket of the kernel's is about 2 KiB; counters run behind by some pages.
    assert!(each > 1024, "{each}");
    Ok(())
}

/// Bytes that are charged to the group of a process.
fn memory_of(pid: u32) -> Result<u64> {
    let text = group_file(pid, "memory", "memory.current", &["memory.usage_in_bytes"])?;
    text.parse().map_err(Failure::at(text))
}

/// Memory, processes, CPU: what the kernel has for the groups that a process is in, of either version.
fn bounds_of(pid: u32) -> Result<[String; 3]> {
    let cpu = ["cpu.cfs_quota_us", "cpu.cfs_period_us"];
    Ok([
        group_file(pid, "memory", "memory.max", &["memory.limit_in_bytes"])?,
        group_file(pid, "pids", "pids.max", &["pids.max"])?,
        group_file(pid, "cpu", "cpu.max", &cpu)?,
    ])
}

/// A file of a process's group in cgroup2, or those of the first version in its place.
fn group_file(pid: u32, controller: &str, new: &str, old: &[&str]) -> Result<String> {
    let own = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let path = |controller: &str| {
        own.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let here = parts.next()? == controller;
            here.then(|| parts.next().map(|p| p.trim_start_matches('/').to_owned()))?
        })
    };
    let read = |file: PathBuf| fs::read_to_string(file).map(|t| t.trim().to_owned());
    let unified = cgroup::root()?.join(path("").unwrap_or_default());
    if let Ok(text) = read(unified.join(new)) {
        return Ok(text);
    }
    let dir = PathBuf::from("/sys/fs/cgroup").join(controller);
    let dir = dir.join(path(controller).unwrap_or_default());
    let all: std::io::Result<Vec<_>> = old.iter().map(|f| read(dir.join(f))).collect();
    Ok(all?.join(" "))
}
