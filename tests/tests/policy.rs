//! L4 authorization: who may connect, what a refusal looks like, what is left alone.

use std::{net::SocketAddr, time::Duration};

use underpass_tests::{
    Result,
    lab::cli::{number, text},
    manifest::{self, Source, Target, allow, audit, policy},
    scene::{ECONNABORTED, ECONNREFUSED, ECONNRESET, EPERM, LIMIT, PORT, Scene, service_at, sink},
};

const SERVER: Target = Target::Workload("server");
const CLIENT: Source = Source::Account("app", "client");

fn server_at(scene: &Scene) -> SocketAddr {
    (scene.server.v4, PORT).into()
}

#[test]
fn a_denied_source_gets_eperm_and_a_row_with_the_policy() -> Result<()> {
    let scene = Scene::new("deny", &[])?;
    let _server = scene.echo()?;
    scene.policies(&[allow("app", "callers", SERVER, &[CLIENT])])?;
    for to in [
        service_at(),
        server_at(&scene),
        (scene.server.v6, PORT).into(),
    ] {
        assert_eq!(scene.errno(&scene.client.place, to)?, 0, "{to}");
        assert_eq!(scene.errno(&scene.other.place, to)?, EPERM, "{to}");
    }
    let rows = scene
        .agent
        .cli
        .rows("denied", &["--from", "app/other"], 3, |r| {
            text(r, "/verdict") == "denied"
        })?;
    for row in rows {
        assert_eq!(
            text(&row, "/policy"),
            "AuthorizationPolicy app/callers",
            "{row}"
        );
        assert_eq!(text(&row, "/reason"), "POLICY_DENIED", "{row}");
        assert_eq!(text(&row, "/state"), "refused", "{row}");
        assert_eq!(text(&row, "/destination/workload"), "app/server", "{row}");
    }
    let row = scene
        .agent
        .cli
        .row("allowed", &["--from", "app/client"], |r| {
            !text(r, "/service").is_empty()
        })?;
    assert_eq!(text(&row, "/verdict"), "allowed", "{row}");
    assert_eq!(
        text(&row, "/policy"),
        "AuthorizationPolicy app/callers",
        "{row}"
    );
    assert_eq!(
        text(&row, "/source/identity"),
        "spiffe://cluster.local/ns/app/sa/client",
        "{row}"
    );
    Ok(())
}

#[test]
fn a_policy_of_a_service_holds_for_the_service_address() -> Result<()> {
    let scene = Scene::new("svcpol", &[])?;
    let _server = scene.echo()?;
    scene.policies(&[allow(
        "app",
        "callers",
        Target::Service("server"),
        &[CLIENT],
    )])?;
    assert_eq!(scene.errno(&scene.client.place, service_at())?, 0);
    assert_eq!(scene.errno(&scene.other.place, service_at())?, EPERM);
    assert_eq!(scene.errno(&scene.lab.host(), service_at())?, EPERM);
    Ok(())
}

#[test]
fn identities_and_namespaces_are_sources() -> Result<()> {
    let scene = Scene::new("sources", &[])?;
    let _server = scene.echo()?;
    let identity = Source::Identity("spiffe://cluster.local/ns/app/sa/other");
    scene.policies(&[allow("app", "by-identity", SERVER, &[identity])])?;
    assert_eq!(scene.errno(&scene.other.place, service_at())?, 0);
    assert_eq!(scene.errno(&scene.client.place, service_at())?, EPERM);
    scene.policies(&[allow(
        "app",
        "by-namespace",
        SERVER,
        &[Source::Namespace("app")],
    )])?;
    assert_eq!(scene.errno(&scene.other.place, service_at())?, 0);
    assert_eq!(scene.errno(&scene.client.place, service_at())?, 0);
    assert_eq!(scene.errno(&scene.lab.host(), service_at())?, EPERM);
    scene.policies(&[allow(
        "app",
        "by-namespace",
        SERVER,
        &[Source::Namespace("elsewhere")],
    )])?;
    assert_eq!(scene.errno(&scene.client.place, service_at())?, EPERM);
    Ok(())
}

#[test]
fn audit_refuses_nothing_and_shows_what_it_would() -> Result<()> {
    let scene = Scene::new("audit", &[])?;
    let _server = scene.echo()?;
    scene.policies(&[audit("app", "trial", SERVER, &[CLIENT])])?;
    assert_eq!(scene.errno(&scene.other.place, service_at())?, 0);
    assert_eq!(scene.errno(&scene.client.place, service_at())?, 0);
    let row = scene
        .agent
        .cli
        .row("audited", &["--from", "app/other"], |r| {
            text(r, "/verdict") == "audited"
        })?;
    assert_eq!(
        text(&row, "/policy"),
        "AuthorizationPolicy app/trial",
        "{row}"
    );
    assert_eq!(text(&row, "/reason"), "WOULD_DENY", "{row}");
    scene
        .agent
        .cli
        .row("allowed", &["--from", "app/client"], |r| {
            text(r, "/verdict") == "allowed"
        })?;
    Ok(())
}

#[test]
fn port_rules_hold_for_their_port_only() -> Result<()> {
    let scene = Scene::new("ports", &[])?;
    let ports: Vec<SocketAddr> = [80, 81].map(|p| (scene.server.v4, p).into()).to_vec();
    let _server = scene.sink(&scene.server.place, "close", &ports)?;
    scene.policies(&[policy(
        "app",
        "one-port",
        SERVER,
        false,
        &[(CLIENT, Some(80))],
    )])?;
    assert_eq!(scene.errno(&scene.client.place, ports[0])?, 0);
    assert_eq!(scene.errno(&scene.client.place, ports[1])?, EPERM);
    assert_eq!(scene.errno(&scene.other.place, ports[0])?, EPERM);
    Ok(())
}

#[test]
fn a_process_of_the_node_is_a_source_of_its_own() -> Result<()> {
    let scene = Scene::new("host", &[])?;
    let _server = scene.echo()?;
    scene.policies(&[allow("app", "callers", SERVER, &[CLIENT])])?;
    assert_eq!(scene.errno(&scene.lab.host(), server_at(&scene))?, EPERM);
    scene.policies(&[allow("app", "callers", SERVER, &[Source::Host])])?;
    assert_eq!(scene.errno(&scene.lab.host(), server_at(&scene))?, 0);
    assert_eq!(scene.errno(&scene.client.place, server_at(&scene))?, EPERM);
    Ok(())
}

#[test]
fn a_source_off_the_node_is_refused_with_a_reset() -> Result<()> {
    let scene = Scene::new("outside", &[])?;
    let _server = scene.echo()?;
    let outside = scene.lab.outside()?;
    let to = [server_at(&scene), (scene.server.v6, PORT).into()];
    for to in to {
        assert_eq!(scene.errno(&outside.place, to)?, 0, "no policy yet: {to}");
    }
    scene.policies(&[allow("app", "callers", SERVER, &[CLIENT])])?;
    for to in to {
        let answer = scene.dial(&outside.place, to)?;
        assert_eq!(answer["errno"], ECONNREFUSED, "{answer}");
    }
    let row = scene.agent.cli.row("denied", &["--from", "outside"], |r| {
        text(r, "/verdict") == "denied"
    })?;
    assert_eq!(
        text(&row, "/policy"),
        "AuthorizationPolicy app/callers",
        "{row}"
    );
    assert_eq!(text(&row, "/reporter"), "destination", "{row}");
    // A local source is told by its socket, not by its address: it is still let in.
    assert_eq!(scene.errno(&scene.client.place, to[0])?, 0);
    scene.policies(&[allow("app", "callers", SERVER, &[Source::Outside])])?;
    assert_eq!(scene.errno(&outside.place, to[0])?, 0);
    assert_eq!(scene.errno(&scene.client.place, to[0])?, EPERM);
    Ok(())
}

/// Off the node nothing but the address tells a workload; only there is it believed.
#[test]
fn a_remote_workload_is_known_by_its_address() -> Result<()> {
    let remote = "apiVersion: underpass.dev/v1alpha1\nkind: Workload\nmetadata: { name: remote, namespace: app }\n\
                  spec: { serviceAccountName: remote, addresses: [192.0.2.2] }\n";
    let scene = Scene::with("remote", &[], |_| Ok(remote.to_owned()))?;
    let _server = scene.echo()?;
    let outside = scene.lab.outside()?;
    scene.policies(&[allow(
        "app",
        "callers",
        SERVER,
        &[Source::Account("app", "remote")],
    )])?;
    let from = |ip: &str| {
        scene.dial_with(
            &outside.place,
            server_at(&scene),
            &["--from", &format!("{ip}:0")],
        )
    };
    assert_eq!(from("192.0.2.2")?["errno"], 0);
    assert_eq!(from("192.0.2.3")?["errno"], ECONNREFUSED);
    let row = scene
        .agent
        .cli
        .row("remote", &["--from", "app/remote"], |r| {
            text(r, "/verdict") == "allowed"
        })?;
    assert_eq!(
        (text(&row, "/authn"), text(&row, "/reporter")),
        ("address", "destination"),
        "{row}"
    );
    Ok(())
}

/// A process of the node cannot borrow a remote workload's address: its own socket says who it is.
#[test]
fn a_local_source_is_not_believed_by_its_address() -> Result<()> {
    let scene = Scene::new("forged", &[])?;
    let _server = scene.echo()?;
    scene.policies(&[allow("app", "callers", SERVER, &[CLIENT])])?;
    // The client's address, but in the namespace and cgroup of `other`.
    let add = format!("addr add {}/32 dev lo\n", scene.client.v4);
    underpass_tests::lab::net::ip(&["-n", &scene.other.place.netns, "-batch", "-"], &add)?;
    let from = format!("{}:0", scene.client.v4);
    let answer = scene.dial_with(&scene.other.place, server_at(&scene), &["--from", &from])?;
    assert_eq!(answer["errno"], EPERM, "{answer}");
    Ok(())
}

/// A segment that meets its connection's end on another CPU finds no socket there, and the kernel looks
/// for a listener. Nobody asked to be let in, so nobody is refused.
#[test]
fn a_late_segment_is_no_refused_connection() -> Result<()> {
    let scene = Scene::new("late", &[])?;
    let _server = scene.echo()?;
    scene.policies(&[allow("app", "callers", SERVER, &[CLIENT])])?;
    assert_eq!(scene.errno(&scene.client.place, server_at(&scene))?, 0);
    let ended = scene
        .agent
        .cli
        .row("the connection", &[], |r| text(r, "/state") == "closed")?;
    let to = server_at(&scene).to_string();
    let send = |from: &str| {
        let command = ["underpass-peer", "segment", from, &to, "--flags", "ack"];
        scene.lab.json(&scene.client.place, &command, LIMIT)
    };
    send(text(&ended, "/source/address"))?;
    scene.agent.wait_status("a late segment", |s| {
        number(s, "/counters/late_segments") == Some(1)
    })?;
    // Of no connection that any hook has seen: that one tries to come in.
    let unknown = format!("{}:1024", scene.client.v4);
    send(&unknown)?;
    let refused = scene
        .agent
        .cli
        .rows("the other", &[], 1, |r| text(r, "/state") == "refused")?;
    let from: Vec<_> = refused.iter().map(|r| text(r, "/source/address")).collect();
    assert_eq!(from, [unknown], "{refused:?}");
    Ok(())
}

#[test]
fn ip_blocks_tell_outside_sources_apart() -> Result<()> {
    let scene = Scene::new("blocks", &[])?;
    let _server = scene.echo()?;
    let outside = scene.lab.outside()?;
    let to = server_at(&scene);
    scene.policies(&[allow(
        "app",
        "blocks",
        SERVER,
        &[
            Source::Block("192.0.2.2/32"),
            Source::Block("2001:db8::/64"),
        ],
    )])?;
    let from = |ip: &str| scene.dial_with(&outside.place, to, &["--from", &format!("{ip}:0")]);
    assert_eq!(from("192.0.2.2")?["errno"], 0);
    assert_eq!(from("192.0.2.3")?["errno"], ECONNREFUSED);
    assert_eq!(
        scene.errno(&outside.place, (scene.server.v6, PORT).into())?,
        0
    );
    Ok(())
}

#[test]
fn default_deny_leaves_a_listener_outside_the_mesh_alone() -> Result<()> {
    let scene = Scene::with("defdeny", &["--default-policy", "deny"], |lab| {
        lab.cgroup("apps/db")?;
        Ok(manifest::workload(
            "app",
            "db",
            "cgroup: apps/db",
            &["10.42.0.1".into()],
        ))
    })?;
    let node = |port: u16| SocketAddr::from(([10, 42, 0, 1], port));
    let outside = scene.lab.outside()?;
    let db_place = scene.lab.cgroup("apps/db")?;
    // Same namespace, same address: one belongs to the mesh, one (as sshd) does not.
    let _db = sink(
        &scene.lab,
        &db_place,
        "close",
        &[node(5432), "0.0.0.0:5433".parse().expect("an address")],
    )?;
    let _sshd = sink(&scene.lab, &scene.lab.host(), "close", &[node(22)])?;
    for from in [&outside.place, &scene.lab.host(), &scene.client.place] {
        assert_eq!(scene.errno(from, node(22))?, 0, "sshd from {from:?}");
    }
    assert_eq!(scene.errno(&outside.place, node(5432))?, ECONNREFUSED);
    assert_eq!(scene.errno(&outside.place, node(5433))?, ECONNREFUSED);
    assert_eq!(scene.errno(&scene.lab.host(), node(5432))?, EPERM);
    assert_eq!(scene.errno(&scene.client.place, node(5432))?, EPERM);
    let row = scene
        .agent
        .cli
        .row("default deny", &["--from", "app/client"], |r| {
            text(r, "/verdict") == "denied"
        })?;
    assert_eq!(
        (text(&row, "/policy"), text(&row, "/reason")),
        ("default", "DEFAULT_DENY"),
        "{row}"
    );
    assert_eq!(text(&row, "/destination/workload"), "app/db", "{row}");
    Ok(())
}

#[test]
fn listeners_older_than_the_mesh_are_found() -> Result<()> {
    let node: SocketAddr = ([10, 42, 0, 1], 5432).into();
    let mut server = None;
    let scene = Scene::with("seeded", &["--default-policy", "deny"], |lab| {
        server = Some(sink(lab, &lab.cgroup("apps/db")?, "close", &[node])?);
        Ok(manifest::workload(
            "app",
            "db",
            "cgroup: apps/db",
            &["10.42.0.1".into()],
        ))
    })?;
    assert_eq!(scene.errno(&scene.client.place, node)?, EPERM);
    assert_eq!(
        scene.errno(&scene.lab.outside()?.place, node)?,
        ECONNREFUSED
    );
    Ok(())
}

/// One held connection, a policy that denies it, and how it ended.
fn held_through_a_change(scene: &Scene) -> Result<serde_json::Value> {
    let to = service_at().to_string();
    let mut held = scene.lab.run(
        &scene.client.place,
        &["underpass-peer", "dial", &to, "--hold", "4"],
    )?;
    held.line(0, "\"ok\":true", LIMIT)?;
    let change = std::time::Instant::now();
    scene.lab.mesh_file(
        "40-policies.yaml",
        &allow("app", "callers", SERVER, &[Source::Host]),
    )?;
    let line = held.line(1, "ended", LIMIT)?;
    println!("{line}, {:?} after the file changed", change.elapsed());
    let mut end: serde_json::Value = serde_json::from_str(&line)?;
    end["since_change_ms"] = (change.elapsed().as_millis() as u64).into();
    Ok(end)
}

#[test]
fn a_policy_change_ends_established_connections_within_a_second() -> Result<()> {
    let scene = Scene::new("change", &[])?;
    let _server = scene.echo()?;
    let end = held_through_a_change(&scene)?;
    // The end that is destroyed sees ECONNABORTED, the other one a reset.
    let ends = [ECONNABORTED, ECONNRESET].map(|e| e.to_string());
    assert!(ends.iter().any(|e| end["ended"] == *e), "{end}");
    assert!(end["since_change_ms"].as_u64() < Some(1_000), "{end}");
    let row = scene
        .agent
        .cli
        .row("ended", &["--from", "app/client"], |r| {
            text(r, "/state") == "closed"
        })?;
    assert_eq!(text(&row, "/close_reason"), "POLICY_CHANGED", "{row}");
    Ok(())
}

#[test]
fn a_flag_leaves_established_connections() -> Result<()> {
    let scene = Scene::new("leave", &["--keep-denied-connections"])?;
    let _server = scene.echo()?;
    let end = held_through_a_change(&scene)?;
    assert_eq!(end["ended"], "open", "{end}");
    assert_eq!(
        scene.errno(&scene.client.place, service_at())?,
        EPERM,
        "new connections are denied"
    );
    Ok(())
}

/// A change under load: each connect is decided by the old policy or by the new one, never by half.
#[test]
fn no_connect_sees_half_a_change() -> Result<()> {
    let scene = Scene::new("atomic", &[])?;
    let _server = scene.sink(&scene.server.place, "close", &[server_at(&scene)])?;
    // Both policies allow the client, by different rules.
    let by_account = allow("app", "one", SERVER, &[CLIENT]);
    let by_namespace = allow("app", "two", SERVER, &[Source::Namespace("app")]);
    scene.policies(std::slice::from_ref(&by_account))?;
    let to = service_at().to_string();
    let load = scene.lab.run(
        &scene.client.place,
        &["underpass-peer", "connects", &to, "--seconds", "4"],
    )?;
    for i in 0..20 {
        scene.lab.mesh_file(
            "40-policies.yaml",
            if i % 2 == 0 {
                &by_namespace
            } else {
                &by_account
            },
        )?;
        std::thread::sleep(Duration::from_millis(150));
    }
    let results: serde_json::Value = serde_json::from_str(&load.finish(LIMIT)?.stdout)?;
    assert_eq!(results["failed_total"], 0, "{results}");
    assert!(results["ok"].as_u64() > Some(5_000), "{results}");
    Ok(())
}
