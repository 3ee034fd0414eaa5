//! Snapshots on their way from root to a tenant's worker: kept, passed on, answered, forged.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{os::fd::AsFd as _, time::Duration};

use underpass_tests::{
    Lab, Result,
    lab::{
        cgroup, until,
        vend::{Talk, Vend, memfd, number, sealed},
    },
};

fn code(done: Result<()>) -> String {
    let text = done.unwrap_err().0;
    text.split(' ').next().unwrap_or_default().to_owned()
}

#[test]
fn a_worker_has_its_tenants_last_snapshot_whenever_it_starts() -> Result<()> {
    let lab = Lab::new("vendsnap")?;
    let vend = Vend::start(&lab, &[])?;
    let blue = vend.pod(&lab, "web", "blue")?;
    let red = vend.pod(&lab, "shop", "red")?;
    let line = vend.tenant("blue")?;
    assert_eq!(
        (line["snapshot"].as_str(), line["applied"].as_str()),
        ("0", "0")
    );

    // Nobody has come yet: it is kept for the worker that starts later.
    vend.snapshot("blue", 7, "seven")?;
    vend.snapshot("blue", 8, "eight")?;
    let line = vend.tenant("blue")?;
    assert_eq!(
        (line["snapshot"].as_str(), line["state"].as_str()),
        ("8", "asleep")
    );
    let mut talk = Talk::to(&lab, &blue)?;
    assert_eq!(talk.ask("snapshot blue")?, "8 eight");
    assert_eq!(vend.wait("blue", "applied", "8")?["rejected"], "");
    // One that runs gets the next, and writes its report.
    let report = vend.snapshot("blue", 9, "nine")?;
    vend.wait("blue", "applied", "9")?;
    assert_eq!(talk.ask("snapshot blue")?, "9 nine");
    let mut bytes = [0; 16];
    let len = rustix::io::pread(&report, &mut bytes, 0).unwrap();
    assert_eq!(&bytes[..len], b"nine");
    // Another tenant has none of it.
    assert_eq!(Talk::to(&lab, &red)?.ask("snapshot blue")?, "none");

    // Neither a worker's end nor a child's loses it.
    let line = vend.tenant("blue")?;
    for process in ["worker", "child"] {
        let pid = number(&vend.wait("blue", "state", "running")?, process)?;
        let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        until("the snapshot again", Duration::from_secs(5), || {
            let mut talk = Talk::to(&lab, &blue).map_err(|f| f.0)?;
            match talk.ask("snapshot blue").map_err(|f| f.0)?.as_str() {
                "9 nine" => Ok(()),
                other => Err(other.to_owned()),
            }
        })?;
    }
    until("another child", Duration::from_secs(5), || {
        let now = vend.tenant("blue").map_err(|f| f.0)?;
        (now["child"] != line["child"])
            .then_some(())
            .ok_or_else(|| format!("{now:?}"))
    })?;
    vend.wait("blue", "applied", "9")?;

    // With its last workload the tenant's is forgotten.
    vend.gone("web")?;
    until("the end", Duration::from_secs(5), || {
        match vend.tenant("blue") {
            Err(_) => Ok(()),
            Ok(line) => Err(format!("{line:?}")),
        }
    })?;
    vend.add("web", "blue", &blue.place.netns_path())?;
    assert_eq!(vend.tenant("blue")?["snapshot"], "0");

    // The agent finds the workers' cgroup in the vendor's line.
    let said = vend.status()?[0]["cgroup"].clone();
    assert_eq!(std::path::Path::new(&said), lab.cgroup.join("vend"));
    assert!(std::path::Path::new(&said).starts_with(cgroup::root()?));
    Ok(())
}

#[test]
fn what_a_worker_says_of_snapshots_is_held_against_what_it_got() -> Result<()> {
    let lab = Lab::new("vendsnapforge")?;
    let vend = Vend::start(&lab, &[])?;
    let blue = vend.pod(&lab, "web", "blue")?;
    vend.snapshot("blue", 1, "one")?;
    let mut talk = Talk::to(&lab, &blue)?;
    assert_eq!(talk.ask("snapshot blue")?, "1 one");
    vend.wait("blue", "applied", "1")?;

    // A refusal keeps the last good one, and is shown.
    vend.snapshot("blue", 2, "reject 447")?;
    let line = vend.wait("blue", "rejected", "UP0447")?;
    assert_eq!(
        (line["snapshot"].as_str(), line["applied"].as_str()),
        ("2", "1")
    );
    assert_eq!(talk.ask("snapshot blue")?, "1 one");
    assert!(
        vend.proc
            .stderr()
            .contains("UP0447 SNAPSHOT_FORMAT: tenant blue")
    );
    vend.snapshot("blue", 3, "three")?;
    assert_eq!(vend.wait("blue", "applied", "3")?["rejected"], "");

    // It says that it applied what it never got: it is ended, and its word is not believed.
    vend.snapshot("blue", 4, "forge 1000000")?;
    let line = vend.wait("blue", "crashes", "1")?;
    assert!(line["codes"].contains("UP0431"), "{line:?}");
    assert_ne!(line["applied"], "1000000");
    assert!(
        vend.proc
            .stderr()
            .contains("an answer to snapshot 1000000 that it has not got")
    );
    vend.snapshot("blue", 5, "five")?;
    vend.wait("blue", "applied", "5")?;
    Ok(())
}

#[test]
fn a_snapshot_of_a_wrong_form_is_refused() -> Result<()> {
    let lab = Lab::new("vendsnapwrong")?;
    let vend = Vend::start(&lab, &[])?;
    let pod = vend.pod(&lab, "web", "blue")?;
    let (file, report) = (sealed(b"x")?, memfd("report", b"")?);
    let both = [file.as_fd(), report.as_fd()];
    assert_eq!(code(vend.hand("nobody", 1, &both)), "502");
    assert_eq!(code(vend.hand("../blue", 1, &both)), "431");
    assert_eq!(code(vend.hand("blue", 1, &both[..1])), "431");
    assert_eq!(code(vend.hand("blue", 1, &[])), "431");
    assert_eq!(
        code(vend.hand("blue", 1, &[both[0], both[1], both[0]])),
        "431"
    );
    assert_eq!(vend.tenant("blue")?["snapshot"], "0");
    vend.hand("blue", 1, &both)?;
    assert_eq!(Talk::to(&lab, &pod)?.ask("snapshot blue")?, "1 x");
    Ok(())
}

#[test]
fn one_worker_for_all_has_the_snapshots_of_all() -> Result<()> {
    let lab = Lab::new("vendsnapshare")?;
    let vend = Vend::start(&lab, &["--shared"])?;
    let blue = vend.pod(&lab, "web", "blue")?;
    let red = vend.pod(&lab, "shop", "red")?;
    vend.snapshot("blue", 3, "for blue")?;
    let mut talk = Talk::to(&lab, &red)?;
    assert_eq!(talk.ask("snapshot blue")?, "3 for blue");
    vend.snapshot("red", 5, "for red")?;
    vend.wait("red", "applied", "5")?;
    assert_eq!(talk.ask("snapshot red")?, "5 for red");
    let line = vend.tenant("blue")?;
    assert_eq!(
        (line["snapshot"].as_str(), line["applied"].as_str()),
        ("3", "3")
    );
    drop(blue);
    vend.gone("web")?;
    assert!(vend.tenant("blue").is_err(), "{:?}", vend.status());
    assert_eq!(vend.tenant("red")?["applied"], "5");
    Ok(())
}
