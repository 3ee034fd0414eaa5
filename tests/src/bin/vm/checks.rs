//! One short way through everything that stands, with the real agent: each check goes on from the
//! one before. The suite in `tests/tests/` has the depth; this has the breadth, for each kernel.

use std::{fs::File, net::SocketAddr};

use serde_json::Value;
use underpass_agent::sys::bpf::{Attach, attached};
use underpass_tests::{
    Failure, Result,
    bytes::Count,
    installed::{Installed, programs},
    lab::{
        Pod,
        cli::{number, port, text},
    },
    manifest::{Endpoint, Source, Target, allow},
    scene::{
        ECONNABORTED, ECONNREFUSED, ECONNRESET, EPERM, LIMIT, PORT, SERVICE, SERVICE_V6, Scene,
        accepted_all, service_at, service_with,
    },
    stats::{chi_squared, critical_value},
};

use super::{
    report::Report,
    stage::{BASE, DNS, EXACT, Stage, front},
};

type Check = fn(&mut Stage) -> Result<String>;

const CHECKS: [(&str, Check); 9] = [
    ("every feature on", features),
    ("programs attached once", attached_once),
    ("weighted endpoints", weights),
    ("IPv4, IPv6 and mapped addresses", families),
    ("UDP service addresses", udp),
    ("exact bytes", exact_bytes),
    ("a policy's refusals", policy),
    ("agent killed and restarted", restart),
    ("uninstall leaves nothing", uninstall),
];

pub fn run(report: &mut Report) {
    let mut stage = None;
    report.check("agent starts", || {
        stage = Some(Stage::new()?);
        Ok::<_, Failure>(String::new())
    });
    let Some(mut stage) = stage else {
        return;
    };
    for (name, check) in CHECKS {
        report.check(name, || {
            check(&mut stage).map_err(|f| format!("{f}\nagent: {}", stage.scene.agent.log()))
        });
    }
}

fn features(stage: &mut Stage) -> Result<String> {
    let status = stage.scene.agent.cli.status()?;
    let features = status["features"].as_array().cloned().unwrap_or_default();
    // The shortcut is off unless asked for.
    let asked =
        |f: &&Value| !["shortcut", "splice-watch", "splice-guard"].contains(&text(f, "/name"));
    let (on, off): (Vec<_>, Vec<_>) = features.iter().filter(asked).partition(|f| f["on"] == true);
    assert!(off.is_empty() && !on.is_empty(), "off: {off:?}");
    let names: Vec<&str> = on.iter().map(|f| text(f, "/name")).collect();
    Ok(names.join(", "))
}

fn attached_once(stage: &mut Stage) -> Result<String> {
    let installed = Installed::on(&stage.scene.lab)?;
    installed.assert_once();
    let guards = guards(&installed);
    assert_eq!(guards, 4, "three pods and the node");
    Ok(format!(
        "{} hooks, {guards} guarded namespaces",
        installed.programs.len()
    ))
}

fn guards(installed: &Installed) -> usize {
    installed
        .pins
        .iter()
        .filter(|p| p.contains("/sk_lookup-"))
        .count()
}

fn weights(stage: &mut Stage) -> Result<String> {
    const COUNT: u64 = 400;
    let scene = &stage.scene;
    let at: [SocketAddr; 2] = [
        (scene.server.v4, 9001).into(),
        (scene.server.v4, 9003).into(),
    ];
    let endpoints = at.map(|a| {
        let endpoint = Endpoint::new(a.ip().to_string()).weight((a.port() - 9000).into());
        (a.port(), endpoint)
    });
    let mut sink = scene.sink(&scene.server.place, "close", &at)?;
    scene.agent.wait_plan(|| {
        scene.lab.mesh_file(
            "20-service.yaml",
            &service_with(&[SERVICE], None, &endpoints),
        )
    })?;
    let (to, count) = (service_at().to_string(), COUNT.to_string());
    // A reset that overtakes the handshake's last ACK on another processor ends the connection before
    // it can be accepted, though the client has it for established; a FIN carries that ACK.
    let client = [
        "underpass-peer",
        "connects",
        &to,
        "--count",
        &count,
        "--fin",
    ];
    let results = scene.lab.json(&scene.client.place, &client, LIMIT)?;
    assert_eq!(
        (&results["ok"], &results["failed_total"]),
        (&COUNT.into(), &0.into()),
        "{results}"
    );
    let seen = accepted_all(&mut sink, COUNT)?;
    let statistic = chi_squared(&seen, &[1, 3]).expect("no weight is 0");
    assert!(
        statistic < critical_value(1),
        "{seen:?}: chi-squared {statistic}"
    );
    scene
        .agent
        .wait_plan(|| scene.lab.mesh_file("20-service.yaml", &front(scene)))?;
    Ok(format!("1:3 of {COUNT}: {seen:?}"))
}

/// The application sees what it dialed.
fn families(stage: &mut Stage) -> Result<String> {
    let v6 = SocketAddr::new(SERVICE_V6.parse().expect("a constant"), PORT);
    for (to, flags) in [
        (service_at(), vec![]),
        (v6, vec![]),
        (service_at(), vec!["--mapped"]),
    ] {
        let answer = stage.dial(to, &[&["--echo", "1000"], flags.as_slice()].concat())?;
        assert_eq!(
            (&answer["ok"], &answer["echo_errno"]),
            (&true.into(), &0.into()),
            "{answer}"
        );
        let peer: SocketAddr = text(&answer, "/peer")
            .parse()
            .map_err(Failure::at(&answer))?;
        assert_eq!(
            (peer.ip().to_canonical(), peer.port()),
            (to.ip(), to.port()),
            "{answer}"
        );
    }
    Ok(String::new())
}

fn udp(stage: &mut Stage) -> Result<String> {
    let scene = &stage.scene;
    for ip in DNS {
        let to = SocketAddr::new(ip.parse().expect("a constant"), 53).to_string();
        for flags in [vec!["--count", "3"], vec!["--count", "3", "--connected"]] {
            let command = [&["underpass-peer", "udp", &to], flags.as_slice()].concat();
            let said = scene.lab.output(&scene.client.place, &command, LIMIT)?;
            assert_eq!(said.lines().count(), 3, "{said}");
            for line in said.lines() {
                let answer: Value = serde_json::from_str(line)?;
                assert_eq!(
                    (&answer["ok"], text(&answer, "/from")),
                    (&true.into(), to.as_str()),
                    "{answer}"
                );
            }
        }
    }
    Ok(String::new())
}

/// (client's port, dialed port) and what the client counted, or the mesh.
type Bytes = (u16, u16, u64, u64);

fn exact_bytes(stage: &mut Stage) -> Result<String> {
    let scene = &stage.scene;
    let to = format!("{EXACT}:{BASE}");
    let client = |flags: &[&str]| {
        let command = [&["underpass-peer", "client", "--to", &to], flags].concat();
        scene.lab.run(&scene.client.place, &command)
    };
    let mut killed = client(&["--only", "killed"])?;
    let mut said = killed.line(0, "{", LIMIT)?;
    killed.kill9()?;
    for flags in [["--only", "write-and-exit"], ["--count", "60"]] {
        let done = client(&flags)?.finish(LIMIT)?;
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        said = said + "\n" + &done.stdout;
    }
    let mut expected: Vec<Bytes> = said
        .lines()
        .filter_map(|l| serde_json::from_str::<Count>(l).ok())
        .map(|c| (c.port, c.act.port(BASE), c.sent, c.received))
        .collect();
    let rows = scene.agent.cli.rows(
        "closed rows",
        &["--from", "app/client"],
        expected.len(),
        |r| text(r, "/service").starts_with("app/exact:") && text(r, "/state") == "closed",
    )?;
    let bytes = |row, field| number(row, field).unwrap_or(u64::MAX);
    let mut found: Vec<Bytes> = rows
        .iter()
        .map(|r| {
            (
                port(r, "/source/address"),
                port(r, "/original_destination"),
                bytes(r, "/bytes_sent"),
                bytes(r, "/bytes_received"),
            )
        })
        .collect();
    expected.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, expected, "of the mesh; of the clients");
    let sum: u64 = found.iter().map(|b| b.2 + b.3).sum();
    Ok(format!("{} connections, {sum} B", found.len()))
}

/// At the source, at the destination, and for what was connected before.
fn policy(stage: &mut Stage) -> Result<String> {
    let Stage { scene, outside, .. } = stage;
    let to = service_at().to_string();
    let mut held = scene.lab.run(
        &scene.other.place,
        &["underpass-peer", "dial", &to, "--hold", "30"],
    )?;
    held.line(0, "\"ok\":true", LIMIT)?;
    scene.policies(&[allow(
        "app",
        "callers",
        Target::Workload("server"),
        &[Source::Account("app", "client")],
    )])?;
    let end = held.line(1, "ended", LIMIT)?;
    let ended: Value = serde_json::from_str(&end)?;
    // The end that is destroyed sees ECONNABORTED, the other one a reset.
    let ends = [ECONNABORTED, ECONNRESET].map(|e| e.to_string());
    assert!(ends.iter().any(|e| ended["ended"] == *e), "{end}");
    refusals(scene, outside)?;
    let row = scene
        .agent
        .cli
        .row("denied", &["--from", "app/other"], |r| {
            text(r, "/verdict") == "denied"
        })?;
    assert_eq!(
        text(&row, "/policy"),
        "AuthorizationPolicy app/callers",
        "{row}"
    );
    assert_eq!(text(&row, "/reason"), "POLICY_DENIED", "{row}");
    Ok("at connect, at the listener, and established".into())
}

fn refusals(scene: &Scene, outside: &Pod) -> Result<()> {
    let direct: SocketAddr = (scene.server.v4, PORT).into();
    for to in [service_at(), direct, (scene.server.v6, PORT).into()] {
        assert_eq!(scene.errno(&scene.client.place, to)?, 0, "{to}");
        assert_eq!(scene.errno(&scene.other.place, to)?, EPERM, "{to}");
    }
    // No hook of this node sees that source connect: `sk_lookup` refuses.
    assert_eq!(scene.errno(&outside.place, direct)?, ECONNREFUSED);
    Ok(())
}

fn restart(stage: &mut Stage) -> Result<String> {
    let Stage { scene, outside, .. } = stage;
    let before = Installed::on(&scene.lab)?;
    scene.agent.kill9()?;
    refusals(scene, outside)?;
    scene.agent.restart()?;
    let after = Installed::on(&scene.lab)?;
    after.assert_once();
    assert_eq!(before.pins, after.pins);
    refusals(scene, outside)?;
    Ok("the policy held all the time".into())
}

fn uninstall(stage: &mut Stage) -> Result<String> {
    let Stage { scene, .. } = stage;
    scene.agent.terminate()?;
    let before = programs(&scene.lab)?;
    let (pins, state) = (
        scene.lab.pin_dir.to_string_lossy(),
        scene.lab.dir.join("state"),
    );
    let state = state.to_string_lossy();
    let command = [
        "underpass-agent",
        "--uninstall",
        "--pin-dir",
        &pins,
        "--state-dir",
        &state,
    ];
    scene.lab.output(&scene.lab.backstage(), &command, LIMIT)?;
    assert_eq!((before, programs(&scene.lab)?), (10, 0));
    for pod in [&scene.client, &scene.server, &scene.other] {
        let netns = File::open(pod.place.netns_path())?;
        assert!(
            attached(&netns, Attach::SK_LOOKUP)?.is_empty(),
            "{}",
            pod.place.netns
        );
    }
    assert!(!scene.lab.pin_dir.join("v1").exists());
    assert_ne!(scene.errno(&scene.other.place, service_at())?, EPERM);
    Ok(String::new())
}
