//! The agent killed, stopped and started again; a foreign program on the same hook.

use std::{
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use underpass_abi::sock::counter;
use underpass_agent::{
    kernel::{Kernel, KernelOptions},
    sys::bpf::{Attach, attached},
};
use underpass_tests::{
    Failure, Lab, Result,
    foreign::Foreign,
    installed::Installed,
    lab::cli::{number, text},
    manifest::{Source, Target, allow},
    scene::{ECONNREFUSED, EPERM, LIMIT, PORT, Scene, service_at},
};

const SERVER: Target = Target::Workload("server");
const CLIENT: Source = Source::Account("app", "client");

#[test]
fn a_killed_agent_costs_no_connection_and_no_policy() -> Result<()> {
    let mut scene = Scene::new("kill", &[])?;
    let _server = scene.echo()?;
    scene.policies(&[allow("app", "callers", SERVER, &[CLIENT])])?;
    let to = service_at().to_string();
    let mut held = scene.lab.run(
        &scene.client.place,
        &["underpass-peer", "dial", &to, "--hold", "8"],
    )?;
    held.line(0, "\"ok\":true", LIMIT)?;
    let before = Installed::on(&scene.lab)?;
    before.assert_once();
    let load = [
        "underpass-peer",
        "connects",
        &to,
        "--rate",
        "2000",
        "--seconds",
        "6",
        "--threads",
        "2",
        "--echo",
        "16",
    ];
    let load = scene.lab.run(&scene.client.place, &load)?;
    std::thread::sleep(Duration::from_secs(2));
    scene.agent.kill9()?;
    for _ in 0..20 {
        assert_eq!(
            scene.errno(&scene.other.place, service_at())?,
            EPERM,
            "no agent, yet the policy holds"
        );
    }
    std::thread::sleep(Duration::from_secs(1));
    scene.agent.restart()?;
    assert_eq!(scene.errno(&scene.other.place, service_at())?, EPERM);
    let results: Value = serde_json::from_str(&load.finish(LIMIT)?.stdout)?;
    println!("{results}; agent after it: {} KiB", scene.agent.rss_kib()?);
    assert_eq!(
        (&results["failed_total"], &results["lost"]),
        (&0.into(), &0.into()),
        "{results}"
    );
    let ok = results["ok"].as_u64().unwrap_or(0);
    assert!(ok > 8_000, "{results}");
    assert!(
        held.line(1, "ended", LIMIT)?.contains("open"),
        "{:?}",
        held.stdout()
    );
    let after = Installed::on(&scene.lab)?;
    after.assert_once();
    assert_eq!(before.pins, after.pins);
    // Counters went on, also for what happened without an agent.
    underpass_tests::lab::until("counters", LIMIT, || {
        let stat = scene.agent.cli.stat("app/server:8080").map_err(|f| f.0)?;
        let expected = (Some(ok + 1), Some(21));
        let seen = (number(&stat, "/opened"), number(&stat, "/refused"));
        if seen == expected {
            Ok(())
        } else {
            Err(format!("{seen:?}, not {expected:?}"))
        }
    })
}

/// The object that `cargo xtask test` builds with the feature `second-build`.
fn second_build() -> Result<PathBuf> {
    let me = std::env::current_exe()?;
    // target/<profile>/deps/test-hash
    let target = me.ancestors().nth(3).unwrap_or(&me);
    let object = target.join("bpf/second-build.o");
    if object.is_file() {
        return Ok(object);
    }
    let verb = "cargo xtask build-ebpf --features second-build --out";
    let path = object.display();
    Err(Failure(format!("{path} is not built. Try: {verb} {path}")))
}

/// Loads another object over the pins, as the next release's agent would.
fn open_with(lab: &Lab, object: &Path) -> Result<Kernel> {
    let options = KernelOptions {
        pin_dir: lab.pin_dir.clone(),
        cgroup_root: Some(lab.cgroup_root()),
        object: Some(object.to_owned()),
        ..KernelOptions::default()
    };
    Kernel::open(&options).map_err(|e| Failure(e.to_string()))
}

#[test]
fn an_upgrade_and_the_way_back_leave_no_gap() -> Result<()> {
    const RUNS: usize = counter::COUNT - 1;
    let object = second_build()?;
    let mut scene = Scene::new("upgrade", &[])?;
    let _server = scene.echo()?;
    scene.policies(&[allow("app", "callers", SERVER, &[CLIENT])])?;
    let to = service_at().to_string();
    let mut held = scene.lab.run(
        &scene.client.place,
        &["underpass-peer", "dial", &to, "--hold", "11"],
    )?;
    held.line(0, "\"ok\":true", LIMIT)?;
    // Inbound checks hang on a program of their own: a source without a cgroup of this node.
    let outside = scene.lab.outside()?;
    let inbound = SocketAddr::new(scene.server.v4.into(), PORT);
    let mut denied = 0;
    let mut policy_holds = |scene: &Scene| -> Result<()> {
        for _ in 0..10 {
            assert_eq!(scene.errno(&scene.other.place, service_at())?, EPERM);
            assert_eq!(scene.errno(&outside.place, inbound)?, ECONNREFUSED);
            denied += 1;
        }
        Ok(())
    };
    let before = Installed::on(&scene.lab)?;
    let load = [
        "underpass-peer",
        "connects",
        &to,
        "--rate",
        "2000",
        "--seconds",
        "9",
        "--threads",
        "2",
        "--echo",
        "16",
    ];
    let load = scene.lab.run(&scene.client.place, &load)?;
    std::thread::sleep(Duration::from_secs(1));
    scene.agent.kill9()?;

    let kernel = open_with(&scene.lab, &object)?;
    let second = Installed::on(&scene.lab)?;
    second.assert_once();
    assert_eq!(before.pins, second.pins);
    for (hook, ids) in &second.programs {
        assert_ne!(
            ids, &before.programs[hook],
            "hook {hook} has the new program"
        );
    }
    let sock_ops = Attach::SOCK_OPS.0;
    assert_ne!(second.tags[&sock_ops], before.tags[&sock_ops], "other code");
    policy_holds(&scene)?;
    std::thread::sleep(Duration::from_secs(1));
    let runs = kernel.counters().map_err(|e| Failure(e.to_string()))?[RUNS];
    assert!(runs > 2_000, "the second build ran {runs} times");
    drop(kernel);

    scene.agent.restart()?;
    let after = Installed::on(&scene.lab)?;
    after.assert_once();
    assert_eq!(before.pins, after.pins);
    assert_eq!(after.tags, before.tags);
    policy_holds(&scene)?;
    let results: Value = serde_json::from_str(&load.finish(LIMIT)?.stdout)?;
    println!("{results}; sock_ops runs of the second build: {runs}");
    assert_eq!(
        (&results["failed_total"], &results["lost"]),
        (&0.into(), &0.into()),
        "{results}"
    );
    assert!(
        held.line(1, "ended", LIMIT)?.contains("open"),
        "{:?}",
        held.stdout()
    );
    let ok = results["ok"].as_u64().unwrap_or(0);
    assert!(ok > 12_000, "{results}");
    underpass_tests::lab::until("counters went on", LIMIT, || {
        let stat = scene.agent.cli.stat("app/server:8080").map_err(|f| f.0)?;
        let expected = (Some(ok + 1), Some(denied));
        let seen = (number(&stat, "/opened"), number(&stat, "/refused"));
        if seen == expected {
            Ok(())
        } else {
            Err(format!("{seen:?}, not {expected:?}"))
        }
    })
}

#[test]
fn a_stopped_agent_loses_rows_but_no_sums() -> Result<()> {
    let scene = Scene::new("ring", &[])?;
    let _server = scene.echo()?;
    let to = service_at().to_string();
    scene.agent.stop()?;
    let client = [
        "underpass-peer",
        "connects",
        &to,
        "--count",
        "40000",
        "--echo",
        "10",
    ];
    let results = scene
        .lab
        .json(&scene.client.place, &client, Duration::from_secs(120))?;
    assert_eq!(results["failed_total"], 0, "{results}");
    scene.agent.go_on()?;
    underpass_tests::lab::until("exact sums", LIMIT, || {
        let stat = scene.agent.cli.stat("app/server:8080").map_err(|f| f.0)?;
        let seen = ["/opened", "/bytes_sent", "/bytes_received"].map(|f| number(&stat, f));
        let expected = [Some(40_000), Some(400_000), Some(400_000)];
        if seen == expected {
            Ok(())
        } else {
            Err(format!("{seen:?}"))
        }
    })?;
    let status = scene.agent.wait_status("lost rows are counted", |s| {
        number(s, "/counters/events_lost") > Some(0)
    })?;
    println!("events lost: {}", status["counters"]["events_lost"]);
    Ok(())
}

#[test]
fn a_foreign_program_that_clears_flags_costs_no_record() -> Result<()> {
    // Children of the root inherit: on the root itself it runs beside ours, before or after it.
    let scene = Scene::new("foreign", &[])?;
    let after = Foreign::attach(&scene.lab.cgroup_root())?;
    check_records(&scene, 25)?;
    drop(after);
    let mut before = None;
    let scene = Scene::with("foreign2", &[], |lab| {
        before = Some(Foreign::attach(&lab.cgroup_root())?);
        Ok(String::new())
    })?;
    check_records(&scene, 25)
}

fn check_records(scene: &Scene, count: usize) -> Result<()> {
    let _server = scene.echo()?;
    let (to, number_of) = (service_at().to_string(), count.to_string());
    let client = [
        "underpass-peer",
        "connects",
        &to,
        "--count",
        &number_of,
        "--echo",
        "777",
        "--fin",
    ];
    scene.lab.json(&scene.client.place, &client, LIMIT)?;
    let rows = scene
        .agent
        .cli
        .rows("all rows", &["--from", "app/client"], count, |r| {
            text(r, "/state") == "closed"
        })?;
    assert_eq!(rows.len(), count);
    for row in &rows {
        let seen = (number(row, "/bytes_sent"), number(row, "/bytes_received"));
        assert_eq!(seen, (Some(777), Some(777)), "{row}");
    }
    let stat = scene.agent.cli.stat("app/server:8080")?;
    assert_eq!(
        (number(&stat, "/opened"), number(&stat, "/open")),
        (Some(count as u64), Some(0)),
        "{stat}"
    );
    Ok(())
}

#[test]
fn ending_the_agent_detaches_nothing_and_uninstall_everything() -> Result<()> {
    let scene = Scene::new("uninstall", &[])?;
    let _server = scene.echo()?;
    scene.policies(&[allow("app", "callers", SERVER, &[CLIENT])])?;
    let Scene {
        agent,
        other,
        client,
        lab,
        ..
    } = &scene;
    agent.terminate()?;
    let errno = |place| -> Result<Value> {
        let to = service_at().to_string();
        Ok(lab.json(place, &["underpass-peer", "dial", &to], LIMIT)?["errno"].clone())
    };
    assert_eq!(errno(&other.place)?, EPERM);
    assert_eq!(errno(&client.place)?, 0);
    let pin_dir = lab.pin_dir.to_string_lossy().into_owned();
    let state = lab.dir.join("state").to_string_lossy().into_owned();
    let command = [
        "underpass-agent",
        "--uninstall",
        "--pin-dir",
        &pin_dir,
        "--state-dir",
        &state,
    ];
    let said = lab.output(&lab.backstage(), &command, LIMIT)?;
    assert!(said.contains("SERVICES"), "it says what it removed: {said}");
    assert!(
        !lab.pin_dir
            .join(format!("v{}", underpass_abi::VERSION))
            .exists(),
        "{said}"
    );
    let root = File::open(lab.cgroup_root())?;
    for hook in [
        Attach::CONNECT4,
        Attach::CONNECT6,
        Attach::SOCK_OPS,
        Attach::SOCK_RELEASE,
    ] {
        assert!(attached(&root, hook)?.is_empty(), "{hook:?}");
    }
    assert_ne!(errno(&other.place)?, EPERM, "nothing denies any more");
    Ok(())
}
