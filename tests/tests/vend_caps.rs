//! The vendor's list of capabilities is enough, and none of them is there for nothing.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use underpass_api::vend::control::Request;
use underpass_tests::{
    Failure, Lab, Result,
    lab::{
        Vend, cgroup, net, place,
        process::alive,
        until,
        vend::{Talk, number},
    },
};
use underpass_vend::caps::NEEDED;

/// All that a vendor does with privilege; the first thing that fails.
fn everything(lab: &Lab, vend: &Vend) -> Result<()> {
    let pod = vend.pod(lab, "web", "blue")?;
    stranger(vend)?;
    let talking = vend.tell(&Request::Start {
        tenant: "blue".into(),
    })?;
    let line = until("a worker", Duration::from_secs(2), || {
        let (log, line) = (vend.proc.stderr(), vend.tenant("blue").map_err(|f| f.0)?);
        if log.contains("STAGE_FAILED") {
            return Ok(Err(Failure(log)));
        }
        if line["state"] == "running" {
            Ok(Ok(line))
        } else {
            Err(log)
        }
    })??;
    drop(talking);
    // One that must be ended.
    let mut talk = Talk::to(lab, &pod)?;
    talk.ask("stock 2")?;
    talk.ask("deaf")?;
    let worker = number(&line, "worker")?;
    let _asked = vend.tell(&Request::Gone { name: "web".into() })?;
    until("the end of the worker", Duration::from_secs(3), || {
        if alive(worker) {
            Err(vend.proc.stderr())
        } else {
            Ok(())
        }
    })?;
    net::delete(&pod.place.netns)
}

/// A workload whose namespace only its own process leads to, which is another user's.
fn stranger(vend: &Vend) -> Result<()> {
    let mut process = Command::new("unshare")
        .args([
            "-n",
            "setpriv",
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            "cat",
        ])
        .stdin(Stdio::piped())
        .spawn()?;
    let comm = format!("/proc/{}/comm", process.id());
    let done = until("the stranger", Duration::from_secs(5), || {
        let name = std::fs::read_to_string(&comm).map_err(|e| e.to_string())?;
        if name.trim() == "cat" {
            Ok(())
        } else {
            Err(name)
        }
    });
    let path = format!("/proc/{}/ns/net", process.id());
    let done = done.and_then(|()| vend.add("stranger", "blue", Path::new(&path)));
    let done = done
        .and_then(|()| vend.listen("stranger"))
        .and_then(|()| vend.gone("stranger"));
    process.kill()?;
    process.wait()?;
    done
}

#[test]
fn the_list_is_enough() -> Result<()> {
    let lab = Lab::new("vendcaps")?;
    // Root without CAP_DAC_OVERRIDE may not write to the top of a hierarchy, and need not: a unit has its
    // own directories.
    cgroup::make(&lab.cgroup.join("vend"))?;
    cgroup::make_old(&format!("{}-vend", lab.id));
    let short = |name: &str| format!("+{}", name.trim_start_matches("CAP_").to_lowercase());
    let names: Vec<String> = NEEDED.iter().map(|n| short(n.name)).collect();
    let set = format!("-all,{}", names.join(","));
    let wrapper = ["setpriv", "--bounding-set", &set];
    let vend = Vend::under(&lab, &wrapper, &place::binary("underpass-tenant")?, &[])?;
    everything(&lab, &vend)
}

#[test]
fn each_capability_is_needed() -> Result<()> {
    for needed in NEEDED {
        let lab = Lab::new("vendcap")?;
        let vend = Vend::start(&lab, &["--without", needed.name])?;
        let Err(failure) = everything(&lab, &vend) else {
            panic!("nothing failed without {}", needed.name);
        };
        let what = failure.0.lines().last().unwrap_or_default();
        println!("without {}: {what}", needed.name);
    }
    Ok(())
}
