//! When connections go through a worker, and when they go back to the kernel.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{thread, time::Duration};

use serde_json::Value;
use underpass_tests::{
    Result,
    http::{LIMIT, Scene, answers, split, stop_clean, web},
    lab::{cli::text, until},
    manifest,
    scene::metric_sum,
};

const PAUSE: Duration = Duration::from_millis(700);

#[test]
fn a_route_moves_new_connections_and_no_request_fails() -> Result<()> {
    let scene = Scene::new("httpmove", &[])?;
    let client = &scene.client.place;
    let keep = scene.load(client, web(), &["--connections", "8", "--rate", "400"])?;
    let fresh = scene.load(
        client,
        web(),
        &["--connections", "4", "--rate", "200", "--new"],
    )?;
    let other = scene.load(&scene.other.place, web(), &["--rate", "100", "--new"])?;
    thread::sleep(PAUSE);
    for weights in [(90, 10), (0, 100), (100, 0)] {
        scene.route(&split(weights.0, weights.1))?;
        thread::sleep(PAUSE);
        let said = scene.explain("app/client", "app/web")?;
        let item = &said["items"][0];
        assert_eq!(text(item, "/outbound/layer"), "http", "{said}");
        assert!(
            text(item, "/outbound/reason").contains("HTTPRoute app/web"),
            "{said}"
        );
        if weights == (0, 100) {
            // Also those that are open already: each request is routed anew.
            let now = scene.requests(client, web(), 50, &[])?;
            assert_eq!(answers(&now, "v2"), 50, "{now}");
        }
        scene.unroute()?;
        thread::sleep(PAUSE);
        let row = |r: &Value| text(r, "/layer") == "kernel";
        let said = scene.requests(client, web(), 1, &["--new"])?;
        assert_eq!(said["failed"], 0);
        let filters = ["--from", "app/client", "--service", "app/web"];
        scene.agent.cli.row("back in the kernel", &filters, row)?;
    }
    for (load, what) in [(keep, "kept"), (fresh, "new"), (other, "other tenant")] {
        let report = stop_clean(load)?;
        println!(
            "{what}: {} requests, 0 failed, p99 {} us",
            report["ok"], report["p99_us"]
        );
    }
    Ok(())
}

#[test]
fn connections_through_a_worker_outlive_their_route() -> Result<()> {
    let scene = Scene::new("httprest", &[])?;
    // Another route keeps the worker's snapshots changing.
    let other = split(1, 1).replace("name: web,", "name: web-v2,");
    scene.lab.mesh_file("40-other.yaml", &other)?;
    scene.route(&split(0, 100))?;
    let flags = ["--connections", "4", "--rate", "100"];
    let mut load = scene.load(&scene.client.place, web(), &flags)?;
    thread::sleep(PAUSE);
    let routed = load.ask("report")?;
    assert_eq!(
        (answers(&routed, "v1"), &routed["failed"]),
        (0, &0.into()),
        "{routed}"
    );
    scene.unroute()?;
    // Longer than a worker waits for what it does not know.
    thread::sleep(3 * PAUSE);
    let report = stop_clean(load)?;
    assert_eq!(report["connections"], 4, "they are the same ones: {report}");
    // How many is the balancer's choice; with the route there was none.
    assert!(
        answers(&report, "v1") > 0,
        "without the route, both versions: {report}"
    );
    Ok(())
}

#[test]
fn observed_objects_have_figures_without_a_route() -> Result<()> {
    let scene = Scene::new("httpobs", &[])?;
    let before = scene.requests(&scene.client.place, web(), 20, &[])?;
    assert_eq!(before["failed"], 0, "{before}");
    let stat = scene.agent.cli.stat("app/web:8080")?;
    assert_eq!(stat["requests"], Value::Null, "{stat}");

    let observed =
        manifest::annotated(&manifest::namespace("app"), "underpass.dev/observe", "http");
    let mesh = std::fs::read_to_string(scene.lab.mesh_dir().join("10-app.yaml"))?;
    let plain = manifest::namespace("app");
    assert!(mesh.contains(plain.trim()));
    scene
        .lab
        .mesh_file("10-app.yaml", &mesh.replace(plain.trim(), observed.trim()))?;
    scene.wait_layer("app/client", "app/web", "http")?;
    let said = scene.explain("app/client", "app/web")?;
    assert!(
        text(&said["items"][0], "/outbound/reason").contains("Namespace app"),
        "{said}"
    );

    // Two rounds: what a worker tells first is not in the last minute's figures.
    let mut sent = 0;
    for _ in 0..2 {
        let report = scene.requests(&scene.client.place, web(), 200, &[])?;
        // Which of the two a lone client is given is the balancer's choice.
        let answered = answers(&report, "v1") + answers(&report, "v2");
        assert_eq!((&report["failed"], answered), (&Value::from(0), 200));
        sent += 200;
        thread::sleep(Duration::from_millis(2_200));
    }
    let stat = until("figures in stat", LIMIT, || {
        let stat = scene.agent.cli.stat("app/web:8080").map_err(|f| f.0)?;
        if stat["requests"]["latency_p50_us"].is_u64() {
            Ok(stat)
        } else {
            Err(stat.to_string())
        }
    })?;
    assert_eq!(stat["requests"]["success_percent"], 100.0, "{stat}");
    let labels = ["service=\"app/web:8080\"", "direction=\"outbound\""];
    let counted = until("counts in /metrics", LIMIT, || {
        let metrics = scene.scrape().map_err(|f| f.0)?;
        match metric_sum(&metrics, "request_total", &labels) {
            Some(n) if n >= f64::from(sent) => Ok(n),
            other => Err(format!("{other:?} of {sent}")),
        }
    })?;
    assert_eq!(counted, f64::from(sent), "each request is counted once");
    Ok(())
}

#[test]
fn counts_and_times_are_the_load_generators() -> Result<()> {
    let scene = Scene::new("httpcount", &[])?;
    scene.route(&split(90, 10))?;
    let client = &scene.client.place;
    // Slow enough that what a proxy adds does not matter, and in the middle of a bucket.
    let good = scene.requests(
        client,
        web(),
        300,
        &["--path", "/?ms=15", "--connections", "6"],
    )?;
    let bad = scene.requests(client, web(), 40, &["--path", "/?status=503"])?;
    let missing = scene.requests(client, web(), 30, &["--path", "/?status=404"])?;
    for report in [&good, &bad, &missing] {
        assert_eq!(report["failed"], 0, "{report}");
    }
    let outbound = "direction=\"outbound\"";
    let sum = |metrics: &str, family: &str, labels: &[&str]| {
        let labels = [labels, &[outbound, "service=\"app/web:8080\""]].concat();
        metric_sum(metrics, family, &labels).unwrap_or(0.0)
    };
    let metrics = until("all requests in /metrics", LIMIT, || {
        let metrics = scene.scrape().map_err(|f| f.0)?;
        match sum(&metrics, "response_total", &[]) {
            n if n >= 370.0 => Ok(metrics),
            n => Err(format!("{n} of 370")),
        }
    })?;
    assert_eq!(sum(&metrics, "request_total", &[]), 370.0);
    assert_eq!(
        sum(&metrics, "response_total", &["classification=\"success\""]),
        330.0
    );
    assert_eq!(
        sum(&metrics, "response_total", &["classification=\"failure\""]),
        40.0
    );
    assert_eq!(
        sum(&metrics, "response_total", &["status_code=\"404\""]),
        30.0
    );
    assert_eq!(
        sum(&metrics, "response_total", &["status_code=\"503\""]),
        40.0
    );
    let backends = ["v1", "v2"].map(|v| {
        let backend = format!("backend=\"app/web-{v}:8080\"");
        (sum(&metrics, "request_total", &[&backend]), v)
    });
    for (counted, v) in backends {
        let own: u64 = [&good, &bad, &missing].map(|r| answers(r, v)).iter().sum();
        assert_eq!(counted, own as f64, "requests to {v}");
    }
    // All 300 took 15 ms or more; of the fast ones none took so long.
    let within = |le: &str| {
        sum(
            &metrics,
            "response_latency_ms_bucket",
            &[&format!("le=\"{le}\"")],
        )
    };
    assert!(
        (60.0..=70.0).contains(&within("10.0")),
        "{}",
        within("10.0")
    );
    let p50 = good["p50_us"].as_u64().unwrap();
    assert!((15_000..40_000).contains(&p50), "{p50}");
    Ok(())
}

#[test]
fn without_a_vendor_all_stays_in_the_kernel_and_says_why() -> Result<()> {
    let mut scene = Scene::new("httpnone", &[])?;
    scene.vend.proc.kill9()?;
    std::fs::remove_file(&scene.vend.control)?;
    scene.agent.restart()?;
    scene.lab.mesh_file("50-route.yaml", &split(0, 100))?;
    let away = scene
        .agent
        .wait_status("the vendor is away", |s| s["workers"]["vendor"] == "away")?;
    assert!(
        text(&away, "/workers/reason").contains("VENDOR_UNREACHABLE"),
        "{away}"
    );
    let named = |p: &&Value| p["name"] == "VENDOR_UNREACHABLE";
    assert!(
        away["problems"]
            .as_array()
            .unwrap()
            .iter()
            .any(|p| named(&p)),
        "{away}"
    );
    let said = scene.explain("app/client", "app/web")?;
    assert_eq!(
        text(&said["items"][0], "/outbound/layer"),
        "kernel",
        "{said}"
    );
    let report = scene.requests(&scene.client.place, web(), 100, &["--new"])?;
    assert_eq!(report["failed"], 0, "{report}");
    assert!(answers(&report, "v1") > 20, "no route is obeyed: {report}");
    Ok(())
}

#[test]
fn an_application_that_has_the_port_keeps_it() -> Result<()> {
    let scene = Scene::new("httpport", &[])?;
    let own = format!("{}:15001", scene.client.v4);
    let taken = scene.lab.run(
        &scene.client.place,
        &["underpass-peer", "http-server", "--name", "own", &own],
    )?;
    taken.wait_listening(own.parse().unwrap())?;
    scene.lab.mesh_file("50-route.yaml", &split(0, 100))?;
    let refused = |s: &Value| {
        let problems = s["problems"].as_array().cloned().unwrap_or_default();
        problems
            .iter()
            .any(|p| p["name"] == "LISTENER_REFUSED" && text(p, "/where") == "app/client")
    };
    scene
        .agent
        .wait_status("LISTENER_REFUSED of app/client", refused)?;
    let report = scene.requests(&scene.client.place, web(), 50, &["--new"])?;
    assert_eq!(report["failed"], 0, "{report}");
    assert!(answers(&report, "v1") > 5, "in the kernel: {report}");
    // Others of the tenant and other tenants have their worker.
    scene.wait_layer("other/client", "app/web", "http")?;
    let other = scene.requests(&scene.other.place, web(), 50, &[])?;
    assert_eq!(answers(&other, "v2"), 50, "{other}");
    drop(taken);
    // Found free again by itself.
    scene.wait_layer("app/client", "app/web", "http")?;
    let report = scene.requests(&scene.client.place, web(), 50, &[])?;
    assert_eq!(answers(&report, "v2"), 50, "{report}");
    Ok(())
}
