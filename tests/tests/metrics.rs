//! What Prometheus scrapes.

use underpass_tests::{
    Failure, Result,
    lab::until,
    manifest::{Source, Target, allow},
    scene::{EPERM, LIMIT, Scene, metric_sum, scrape, service_at},
};

#[test]
fn the_names_and_sums_are_those_of_the_connections() -> Result<()> {
    let scene = Scene::new("metrics", &[])?;
    let _server = scene.echo()?;
    scene.policies(&[allow(
        "app",
        "callers",
        Target::Workload("server"),
        &[Source::Account("app", "client")],
    )])?;
    let to = service_at().to_string();
    let client = [
        "underpass-peer",
        "connects",
        &to,
        "--count",
        "30",
        "--echo",
        "100",
        "--fin",
    ];
    scene.lab.json(&scene.client.place, &client, LIMIT)?;
    assert_eq!(scene.errno(&scene.other.place, service_at())?, EPERM);
    let labels = ["client", "server", "allowed"];
    let expected = [
        ("tcp_open_total", 30.0),
        ("tcp_close_total", 30.0),
        ("tcp_open_connections", 0.0),
        ("tcp_write_bytes_total", 3_000.0),
        ("tcp_read_bytes_total", 3_000.0),
    ];
    until("metrics", LIMIT, || {
        let text = scrape(&scene).map_err(|f| f.0)?;
        for (metric, value) in expected {
            // Each connection is counted in one direction by its source's node; inbound is the other view.
            let seen = metric_sum(&text, metric, &[&labels[..], &["outbound"]].concat());
            if seen != Some(value) {
                let lines: Vec<&str> = text.lines().filter(|l| l.starts_with(metric)).collect();
                return Err(format!(
                    "{metric} is {seen:?}, not {value}:\n{}",
                    lines.join("\n")
                ));
            }
        }
        Ok(())
    })?;
    let text = scrape(&scene)?;
    for part in ["map", "events_lost", "plan_age", "build_info"] {
        if !text
            .lines()
            .any(|l| l.starts_with("# TYPE") && l.contains(part))
        {
            return Err(Failure(format!("no metric of {part} in\n{text}")));
        }
    }
    Ok(())
}

#[test]
fn health_and_readiness_answer() -> Result<()> {
    let scene = Scene::new("health", &[])?;
    for path in ["/healthz", "/readyz"] {
        scene.lab.output(
            &scene.lab.backstage(),
            &["underpass-peer", "fetch", "127.0.0.1:9464", path],
            LIMIT,
        )?;
    }
    Ok(())
}
