//! IPv6, dual stack, IPv4-mapped addresses, and what `getpeername` and `getsockname` show.

use std::net::SocketAddr;

use underpass_tests::{
    Result,
    lab::cli::text,
    manifest::{Source, Target, allow},
    scene::{EPERM, PORT, SERVICE, SERVICE_V6, Scene, service_with},
};

fn dual_stack(name: &str) -> Result<Scene> {
    let scene = Scene::new(name, &[])?;
    let endpoints = [scene.server.v4.to_string(), scene.server.v6.to_string()]
        .map(|ip| (PORT, underpass_tests::manifest::Endpoint::new(ip)));
    scene.agent.wait_plan(|| {
        scene.lab.mesh_file(
            "20-service.yaml",
            &service_with(&[SERVICE, SERVICE_V6], None, &endpoints),
        )
    })?;
    Ok(scene)
}

fn at(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("a constant"), PORT)
}

#[test]
fn a_dual_stack_service_answers_each_family_from_its_own() -> Result<()> {
    let scene = dual_stack("dual")?;
    let _server = scene.echo()?;
    for (service, own, server) in [
        (
            SERVICE,
            scene.client.v4.to_string(),
            SocketAddr::from((scene.server.v4, PORT)),
        ),
        (
            SERVICE_V6,
            format!("[{}]", scene.client.v6),
            SocketAddr::from((scene.server.v6, PORT)),
        ),
    ] {
        let to = at(service);
        let answer = scene.dial_with(&scene.client.place, to, &["--echo", "100"])?;
        assert_eq!(
            (&answer["ok"], &answer["echo_errno"]),
            (&true.into(), &0.into()),
            "{answer}"
        );
        // The application sees what it asked for, and its own address.
        assert_eq!(answer["peer"], to.to_string(), "{answer}");
        assert!(
            answer["local"]
                .as_str()
                .is_some_and(|l| l.starts_with(&own)),
            "{answer}"
        );
        let row = scene.agent.cli.row("dialed", &[], |r| {
            text(r, "/original_destination") == to.to_string()
        })?;
        assert_eq!(text(&row, "/endpoint"), server.to_string(), "{row}");
    }
    Ok(())
}

#[test]
fn an_ipv6_socket_reaches_an_ipv4_service_by_the_mapped_address() -> Result<()> {
    let scene = dual_stack("mapped")?;
    let _server = scene.echo()?;
    let answer = scene.dial_with(
        &scene.client.place,
        at(SERVICE),
        &["--mapped", "--echo", "100"],
    )?;
    assert_eq!(
        (&answer["ok"], &answer["echo_errno"]),
        (&true.into(), &0.into()),
        "{answer}"
    );
    assert_eq!(
        answer["peer"],
        format!("[::ffff:{SERVICE}]:{PORT}"),
        "{answer}"
    );
    let local = format!("[::ffff:{}]", scene.client.v4);
    assert!(
        answer["local"]
            .as_str()
            .is_some_and(|l| l.starts_with(&local)),
        "{answer}"
    );
    let row = scene
        .agent
        .cli
        .row("mapped", &[], |r| text(r, "/service") == "app/server:8080")?;
    assert_eq!(
        text(&row, "/original_destination"),
        at(SERVICE).to_string(),
        "{row}"
    );
    Ok(())
}

#[test]
fn a_policy_holds_for_every_family() -> Result<()> {
    let scene = dual_stack("famdeny")?;
    let _server = scene.echo()?;
    scene.policies(&[allow(
        "app",
        "callers",
        Target::Workload("server"),
        &[Source::Account("app", "client")],
    )])?;
    for (to, flags) in [
        (at(SERVICE), vec![]),
        (at(SERVICE_V6), vec![]),
        (at(SERVICE), vec!["--mapped"]),
    ] {
        assert_eq!(
            scene.dial_with(&scene.other.place, to, &flags)?["errno"],
            EPERM,
            "{to} {flags:?}"
        );
        assert_eq!(
            scene.dial_with(&scene.client.place, to, &flags)?["errno"],
            0,
            "{to} {flags:?}"
        );
    }
    Ok(())
}
