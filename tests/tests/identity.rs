//! Who is calling: the task's cgroup through its ancestors, the socket's cgroup, the namespace.

use std::net::SocketAddr;

use underpass_tests::{
    Result,
    lab::{cgroup, cli::text},
    manifest::{self, Source, Target, allow},
    scene::{EPERM, LIMIT, PORT, SERVICE, Scene, service_at, sink},
};

const SERVER: Target = Target::Workload("server");

fn with_cgroups(name: &str) -> Result<Scene> {
    Scene::with(name, &[], |lab| {
        for path in ["apps/alice", "apps/bob"] {
            lab.cgroup(path)?;
        }
        Ok(manifest::file(&[
            manifest::workload("app", "alice", "cgroup: apps/alice", &["10.42.0.1".into()]),
            manifest::workload("app", "bob", "cgroup: apps/bob", &["10.42.0.1".into()]),
        ]))
    })
}

#[test]
fn a_cgroup_below_a_workload_belongs_to_it() -> Result<()> {
    let scene = with_cgroups("ancestor")?;
    let _server = scene.echo()?;
    scene.policies(&[allow(
        "app",
        "callers",
        SERVER,
        &[Source::Account("app", "alice")],
    )])?;
    let (alice, bob) = (
        scene.lab.cgroup("apps/alice")?,
        scene.lab.cgroup("apps/bob")?,
    );
    let deep = alice.child("scope")?.child("job")?;
    assert_eq!(scene.errno(&alice, service_at())?, 0);
    assert_eq!(scene.errno(&deep, service_at())?, 0);
    assert_eq!(scene.errno(&bob.child("scope")?, service_at())?, EPERM);
    assert_eq!(
        scene.errno(&scene.lab.cgroup("apps")?, service_at())?,
        EPERM,
        "the parent is no workload"
    );
    let rows = scene
        .agent
        .cli
        .rows("alice", &["--from", "app/alice"], 2, |r| {
            text(r, "/verdict") == "allowed"
        })?;
    assert!(
        rows.iter().all(|r| text(r, "/authn") == "cgroup"),
        "{rows:?}"
    );
    Ok(())
}

#[test]
fn a_passed_socket_needs_both_workloads_allowed() -> Result<()> {
    let scene = with_cgroups("passed")?;
    let _server = scene.echo()?;
    let (alice, bob) = (
        scene.lab.cgroup("apps/alice")?,
        scene.lab.cgroup("apps/bob")?,
    );
    let pass = |name: &str, maker, dialer| -> Result<u64> {
        let socket = scene.lab.dir.join(name).to_string_lossy().into_owned();
        let to = service_at().to_string();
        let mut dial = scene
            .lab
            .run(dialer, &["underpass-peer", "pass-dial", &socket, &to])?;
        dial.line(0, "listening", LIMIT)?;
        let _maker = scene
            .lab
            .run(maker, &["underpass-peer", "pass-send", &socket])?;
        let line = dial.line(1, "errno", LIMIT)?;
        let answer: serde_json::Value = serde_json::from_str(&line)?;
        Ok(answer["errno"].as_u64().unwrap_or(u64::MAX))
    };
    assert_eq!(pass("free", &bob, &alice)?, 0);
    scene.policies(&[allow(
        "app",
        "callers",
        SERVER,
        &[Source::Account("app", "alice")],
    )])?;
    assert_eq!(pass("own", &alice, &alice)?, 0);
    assert_eq!(
        pass("maker", &bob, &alice)?,
        EPERM,
        "made by bob, who is not allowed"
    );
    assert_eq!(
        pass("dialer", &alice, &bob)?,
        EPERM,
        "dialed by bob, who is not allowed"
    );
    scene.agent.cli.row("by the socket", &[], |r| {
        text(r, "/reason") == "SOCKET_CGROUP_DENIED"
    })?;
    let both = [
        Source::Account("app", "alice"),
        Source::Account("app", "bob"),
    ];
    scene.policies(&[allow("app", "callers", SERVER, &both)])?;
    assert_eq!(pass("both", &bob, &alice)?, 0);
    Ok(())
}

/// `127.0.0.1` is a different place in each namespace.
#[test]
fn loopback_belongs_to_its_namespace() -> Result<()> {
    let scene = with_cgroups("loopback")?;
    let at: SocketAddr = "127.0.0.1:9000".parse().expect("an address");
    let _a = sink(&scene.lab, &scene.client.place, "close", &[at])?;
    let _b = sink(&scene.lab, &scene.server.place, "close", &[at])?;
    scene.policies(&[
        allow(
            "app",
            "to-server",
            SERVER,
            &[Source::Account("app", "other")],
        ),
        allow(
            "app",
            "to-client",
            Target::Workload("client"),
            &[Source::Account("app", "alice")],
        ),
    ])?;
    // A workload may always reach itself.
    assert_eq!(scene.errno(&scene.client.place, at)?, 0);
    assert_eq!(scene.errno(&scene.server.place, at)?, 0);
    // A process of another workload that entered a namespace is still that workload's.
    let alice = scene.lab.cgroup("apps/alice")?;
    assert_eq!(
        scene.errno(&alice.in_netns(&scene.client.place.netns), at)?,
        0
    );
    assert_eq!(
        scene.errno(&alice.in_netns(&scene.server.place.netns), at)?,
        EPERM
    );
    let row = scene
        .agent
        .cli
        .row("denied", &["--from", "app/alice"], |r| {
            text(r, "/verdict") == "denied"
        })?;
    assert_eq!(text(&row, "/destination/workload"), "app/server", "{row}");
    Ok(())
}

/// A process that no cgroup explains is known by the namespace that belongs to one workload.
#[test]
fn a_namespace_of_one_workload_proves_its_processes() -> Result<()> {
    let scene = Scene::new("netnsid", &[])?;
    let _server = scene.echo()?;
    scene.policies(&[allow(
        "app",
        "callers",
        SERVER,
        &[Source::Account("app", "client")],
    )])?;
    assert_eq!(scene.errno(&scene.client.place, service_at())?, 0);
    let row = scene
        .agent
        .cli
        .row("client", &["--from", "app/client"], |r| {
            text(r, "/verdict") == "allowed"
        })?;
    assert_eq!(text(&row, "/authn"), "netns", "{row}");
    Ok(())
}

#[test]
fn a_process_that_moves_changes_its_identity() -> Result<()> {
    let scene = with_cgroups("moved")?;
    let _server = scene.echo()?;
    scene.policies(&[allow(
        "app",
        "callers",
        SERVER,
        &[Source::Account("app", "alice")],
    )])?;
    // A process that moves from alice to bob is bob from then on.
    let (alice, bob) = (
        scene.lab.cgroup("apps/alice")?,
        scene.lab.cgroup("apps/bob")?,
    );
    let mut dialer = scene.lab.run(&alice, &["underpass-peer", "dial"])?;
    let to = format!("{SERVICE}:{PORT}");
    assert_eq!(dialer.ask(&to)?["errno"], 0);
    std::fs::write(bob.cgroup.join("cgroup.procs"), dialer.pid().to_string())?;
    assert_eq!(dialer.ask(&to)?["errno"], EPERM);
    Ok(())
}

#[test]
fn a_unit_joins_when_it_starts_and_again_when_it_restarts() -> Result<()> {
    let scene = Scene::with("unit", &[], |_| {
        let web = manifest::workload("app", "web", "systemdUnit: web.service", &[]);
        Ok(manifest::file(&[web]))
    })?;
    let _server = scene.echo()?;
    scene.policies(&[allow(
        "app",
        "callers",
        SERVER,
        &[Source::Account("app", "web")],
    )])?;
    // What systemd does: a cgroup of the unit's name, a new one at each start.
    let start = || scene.lab.cgroup("system.slice/web.service").map(drop);
    for _ in 0..2 {
        scene.agent.wait_plan(start)?;
        let unit = scene.lab.cgroup("system.slice/web.service")?;
        assert_eq!(scene.errno(&unit, service_at())?, 0);
        let stopped = unit.cgroup.clone();
        scene.agent.wait_plan(|| cgroup::remove(&stopped))?;
    }
    Ok(())
}
