//! Service addresses: weights, affinity, draining, removal under load, no endpoints.

use std::{net::SocketAddr, time::Duration};

use underpass_tests::{
    Result,
    lab::cli::text,
    manifest::Endpoint,
    scene::{
        ECONNREFUSED, LIMIT, SERVICE, Scene, accepted, accepted_all, service_at, service_with,
    },
    stats::{chi_squared, critical_value},
};

fn endpoint_addresses(scene: &Scene, count: u16) -> Vec<SocketAddr> {
    (0..count)
        .map(|i| (scene.server.v4, 9000 + i).into())
        .collect()
}

#[test]
fn a_hundred_thousand_connects_follow_ten_weights() -> Result<()> {
    let scene = Scene::new("weights", &[])?;
    let weights: Vec<u64> = (1..=10).collect();
    let at = endpoint_addresses(&scene, 10);
    let endpoints: Vec<(u16, Endpoint)> = at
        .iter()
        .zip(&weights)
        .map(|(a, w)| {
            (
                a.port(),
                Endpoint::new(a.ip().to_string()).weight(*w as u32),
            )
        })
        .collect();
    scene.agent.wait_plan(|| {
        scene.lab.mesh_file(
            "20-service.yaml",
            &service_with(&[SERVICE], None, &endpoints),
        )
    })?;
    let mut sink = scene.sink(&scene.server.place, "close", &at)?;
    let to = service_at().to_string();
    let client = ["underpass-peer", "connects", &to, "--count", "100000"];
    let results = scene
        .lab
        .json(&scene.client.place, &client, Duration::from_secs(120))?;
    assert_eq!(
        (&results["ok"], &results["failed_total"]),
        (&100_000.into(), &0.into()),
        "{results}"
    );
    let seen = accepted_all(&mut sink, 100_000)?;
    assert_eq!(seen.iter().sum::<u64>(), 100_000, "{seen:?}");
    let statistic = chi_squared(&seen, &weights).expect("no weight is 0");
    println!(
        "accepted {seen:?} in {} s, chi-squared {statistic:.2}",
        results["seconds"]
    );
    assert!(
        statistic < critical_value(9),
        "{seen:?}: chi-squared {statistic}"
    );
    Ok(())
}

#[test]
fn session_affinity_keeps_a_client_on_its_endpoint() -> Result<()> {
    let scene = Scene::new("affinity", &[])?;
    let at = endpoint_addresses(&scene, 5);
    let endpoints: Vec<(u16, Endpoint)> = at
        .iter()
        .map(|a| (a.port(), Endpoint::new(a.ip().to_string())))
        .collect();
    scene.agent.wait_plan(|| {
        scene.lab.mesh_file(
            "20-service.yaml",
            &service_with(&[SERVICE], Some(600), &endpoints),
        )
    })?;
    let mut sink = scene.sink(&scene.server.place, "close", &at)?;
    let to = service_at().to_string();
    scene.lab.json(
        &scene.client.place,
        &["underpass-peer", "connects", &to, "--count", "200"],
        LIMIT,
    )?;
    let first = accepted_all(&mut sink, 200)?;
    assert_eq!(first.iter().filter(|n| **n > 0).count(), 1, "{first:?}");
    assert_eq!(first.iter().sum::<u64>(), 200);
    // The endpoint of that client goes away: it gets another one, and only one.
    let gone = first.iter().position(|n| *n > 0).expect("checked above");
    let rest: Vec<(u16, Endpoint)> = endpoints
        .into_iter()
        .enumerate()
        .filter(|(i, _)| *i != gone)
        .map(|(_, e)| e)
        .collect();
    scene.agent.wait_plan(|| {
        scene.lab.mesh_file(
            "20-service.yaml",
            &service_with(&[SERVICE], Some(600), &rest),
        )
    })?;
    scene.lab.json(
        &scene.client.place,
        &["underpass-peer", "connects", &to, "--count", "200"],
        LIMIT,
    )?;
    let second = accepted_all(&mut sink, 400)?;
    assert_eq!(second[gone], first[gone], "the removed endpoint was chosen");
    assert_eq!(second.iter().filter(|n| **n > 0).count(), 2, "{second:?}");
    Ok(())
}

#[test]
fn a_draining_endpoint_gets_no_new_connection_and_keeps_the_old() -> Result<()> {
    let scene = Scene::new("draining", &[])?;
    let at = endpoint_addresses(&scene, 2);
    let plan = |draining: bool| {
        let first = Endpoint::new(at[0].ip().to_string());
        let first = if draining { first.draining() } else { first };
        service_with(
            &[SERVICE],
            None,
            &[
                (at[0].port(), first),
                (at[1].port(), Endpoint::new(at[1].ip().to_string())),
            ],
        )
    };
    let only_first = service_with(
        &[SERVICE],
        None,
        &[(at[0].port(), Endpoint::new(at[0].ip().to_string()))],
    );
    scene
        .agent
        .wait_plan(|| scene.lab.mesh_file("20-service.yaml", &only_first))?;
    let mut sink = scene.sink(&scene.server.place, "hold", &at)?;
    let to = service_at().to_string();
    let mut old = scene.lab.run(
        &scene.client.place,
        &["underpass-peer", "dial", &to, "--hold", "2"],
    )?;
    old.line(0, "\"ok\":true", LIMIT)?;
    scene
        .agent
        .wait_plan(|| scene.lab.mesh_file("20-service.yaml", &plan(true)))?;
    scene.lab.json(
        &scene.client.place,
        &["underpass-peer", "connects", &to, "--count", "300"],
        LIMIT,
    )?;
    assert_eq!(accepted_all(&mut sink, 301)?, [1, 300]);
    assert!(
        old.line(1, "ended", LIMIT)?.contains("open"),
        "{:?}",
        old.stdout()
    );
    Ok(())
}

#[test]
fn an_endpoint_removed_under_load_is_not_chosen_again() -> Result<()> {
    let scene = Scene::new("removed", &[])?;
    let at = endpoint_addresses(&scene, 2);
    let plan = |count: usize| {
        let all: Vec<(u16, Endpoint)> = at
            .iter()
            .take(count)
            .map(|a| (a.port(), Endpoint::new(a.ip().to_string())))
            .collect();
        service_with(&[SERVICE], None, &all)
    };
    scene
        .agent
        .wait_plan(|| scene.lab.mesh_file("20-service.yaml", &plan(2)))?;
    let mut sink = scene.sink(&scene.server.place, "close", &at)?;
    let to = service_at().to_string();
    let load = [
        "underpass-peer",
        "connects",
        &to,
        "--rate",
        "2000",
        "--seconds",
        "4",
    ];
    let load = scene.lab.run(&scene.client.place, &load)?;
    std::thread::sleep(Duration::from_secs(1));
    scene
        .agent
        .wait_plan(|| scene.lab.mesh_file("20-service.yaml", &plan(1)))?;
    let at_change = accepted(&mut sink)?;
    let done = load.finish(LIMIT)?;
    let results: serde_json::Value = serde_json::from_str(&done.stdout)?;
    let at_end = accepted(&mut sink)?;
    assert_eq!(results["failed_total"], 0, "{results}");
    assert!(
        at_change[1] > 100 && at_end[0] > at_change[0] + 500,
        "no load: {at_change:?} {at_end:?}"
    );
    assert_eq!(
        at_end[1], at_change[1],
        "chosen after the plan was in force"
    );
    Ok(())
}

#[test]
fn a_service_without_endpoints_refuses_at_once_with_a_reason() -> Result<()> {
    let scene = Scene::new("noend", &[])?;
    scene.agent.wait_plan(|| {
        scene
            .lab
            .mesh_file("20-service.yaml", &service_with(&[SERVICE], None, &[]))
    })?;
    let mut fastest = f64::MAX;
    for _ in 0..10 {
        let answer = scene.dial(&scene.client.place, service_at())?;
        assert_eq!(answer["errno"], ECONNREFUSED, "{answer}");
        fastest = fastest.min(answer["us"].as_f64().unwrap_or(f64::MAX));
    }
    println!("refused in {fastest} µs");
    assert!(fastest < 1_000.0, "the fastest of ten took {fastest} µs");
    let row = scene
        .agent
        .cli
        .row("refused", &["--verdict", "refused"], |r| {
            text(r, "/reason") == "NO_ENDPOINTS"
        })?;
    assert_eq!(text(&row, "/service"), "app/server:8080", "{row}");
    assert_eq!(
        text(&row, "/original_destination"),
        service_at().to_string(),
        "{row}"
    );
    Ok(())
}

#[test]
fn a_process_outside_the_mesh_is_served_too() -> Result<()> {
    let scene = Scene::new("unmeshed", &[])?;
    let _server = scene.echo()?;
    let answer = scene.dial_with(&scene.lab.host(), service_at(), &["--echo", "100"])?;
    assert_eq!(
        (&answer["ok"], &answer["echo_errno"]),
        (&true.into(), &0.into()),
        "{answer}"
    );
    assert_eq!(answer["peer"], service_at().to_string());
    Ok(())
}
