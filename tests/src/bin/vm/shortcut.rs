//! The shortcut on this kernel: what the agent says of it, the splice guard with a program that
//! splices, the core of the equivalence suite, and a short soak.

use std::process::Command;

use serde_json::Value;
use underpass_agent::kernel::feature::{SHORTCUT, SPLICE_GUARD};
use underpass_tests::{
    Failure, Result,
    lab::{Proc, cli::text, place},
    scene::{LIMIT, PORT, Scene},
};

use super::{
    probes::{capable, security_hook},
    report::Report,
};

const SUITE: &str = "underpass-equivalence";
/// A burst of 17 connections and 29 MB with changes of path: some ten seconds of an emulated machine.
const SOAK: [&str; 5] = ["soak", "--bytes", "20M", "--seed", "1"];

const CHECKS: [&str; 3] = ["a splicing program", "equivalence, the core", "soak"];

pub fn run(report: &mut Report) {
    let mut scene = None;
    report.check("agent with the shortcut", || {
        let new = Scene::new("vmsc", &["--shortcut", "auto"])?;
        let feature = feature(&new, SHORTCUT)?;
        scene = Some((new, feature));
        Ok::<_, Failure>(String::new())
    });
    let Some((scene, feature)) = scene else {
        return;
    };
    let accepted = feature["on"] == true;
    let why = text(&feature, "/reason").to_owned();
    report.fact(
        "the shortcut",
        &match accepted {
            true => "on".to_owned(),
            false => format!("off: {why}"),
        },
    );
    if !capable() && !accepted {
        for name in CHECKS {
            report.off(name, &why);
        }
        return;
    }
    let [splicing, core, soak] = CHECKS;
    match security_hook() {
        Ok(_) => report.check(splicing, || splicer(scene, accepted)),
        Err(why) => report.off(splicing, &format!("no guard: {why}")),
    }
    report.check(core, || suite(&["run", "--core"], &["control", "shortcut"]));
    report.check(soak, || {
        let said = suite(&SOAK, &["bursts"])?;
        for nothing in [" 0 messages redirected", " 0 mixes"] {
            assert!(!said.contains(nothing), "{said}");
        }
        Ok::<_, Failure>(said)
    });
}

fn feature(scene: &Scene, name: &str) -> Result<Value> {
    let status = scene.agent.cli.status()?;
    let all = status["features"].as_array().cloned().unwrap_or_default();
    let found = all.into_iter().find(|f| f["name"] == name);
    found.ok_or_else(|| Failure(format!("no feature {name}: {status}")))
}

/// Mode `auto` takes a relay that is on no list; its splice is refused, it reads and writes instead,
/// and its next connections stay on TCP, where splice works.
fn splicer(scene: Scene, accepted: bool) -> Result<String> {
    let scene = if accepted { scene } else { forced(scene)? };
    let guard = feature(&scene, SPLICE_GUARD)?;
    assert_eq!(guard["on"], true, "{guard}");
    let at = |ip| format!("{ip}:{PORT}");
    let (server, relay) = (at(scene.server.v4), at(scene.other.v4));
    let run = |place, command: &[&str]| scene.lab.run(place, command);
    let listening = |p: &Proc, at: &str| p.wait_listening(at.parse().map_err(Failure::at(at))?);
    let upstream = run(
        &scene.server.place,
        &["underpass-peer", "rpc-server", &server],
    )?;
    listening(&upstream, &server)?;
    let mut proxy = run(
        &scene.other.place,
        &["underpass-peer", "relay", &relay, &server],
    )?;
    listening(&proxy, &relay)?;
    let mut said = Vec::new();
    for n in 0..2 {
        let mut client = run(&scene.client.place, &["underpass-peer", "rpc", &relay])?;
        client.line(0, "local", LIMIT)?;
        // The client compares every byte of the answers.
        let bytes = client.ask("20 20000")?["bytes"].as_u64().unwrap_or(0);
        client.finish(LIMIT)?;
        let moved: Value = serde_json::from_str(&proxy.line(n, "{", LIMIT)?)?;
        let figures = ["spliced", "copied", "refused"].map(|f| moved[f].as_u64());
        let expected = match n {
            0 => [0, 2 * bytes, 2],
            _ => [2 * bytes, 0, 0],
        };
        assert_eq!(figures, expected.map(Some), "connection {n}: {moved}");
        said.push(moved.to_string());
    }
    let taken = scene.agent.cli.status()?["counters"]["shortcut_taken"].as_u64();
    assert!(taken > Some(20), "{taken:?} messages took the shortcut");
    let how = if accepted { "" } else { "forced; " };
    Ok(format!("{how}{}", said.join(", then ")))
}

/// With an agent that does not look at the kernel's number: the rest of its self-test must pass.
fn forced(refused: Scene) -> Result<Scene> {
    drop(refused);
    let scene = Scene::new("vmany", &["--shortcut", "auto", "--shortcut-any-level"])?;
    let shortcut = feature(&scene, SHORTCUT)?;
    assert_eq!(shortcut["on"], true, "{shortcut}");
    Ok(scene)
}

/// The last line of the suite's program that begins with one of `wanted`, once it has succeeded.
fn suite(args: &[&str], wanted: &[&str]) -> Result<String> {
    let out = Command::new(place::binary(SUITE)?).args(args).output()?;
    let said = String::from_utf8_lossy(&out.stdout);
    if !out.status.success() {
        let errors = String::from_utf8_lossy(&out.stderr);
        return Err(Failure(format!("{SUITE} {args:?}: {errors}\n{said}")));
    }
    let lines = said
        .lines()
        .filter(|l| wanted.iter().any(|w| l.contains(w)));
    Ok(lines.collect::<Vec<_>>().join("; "))
}
