//! What an HTTPRoute does to requests, end to end: agent, vendor, real worker, real sockets.
#![allow(clippy::unwrap_used, reason = "a test")]

use serde_json::Value;
use underpass_tests::{
    Result,
    http::{PORT, Scene, VERSIONS, answers, body, http_route, split, web, web_v6},
    lab::cli::text,
    stats::{chi_squared, critical_value},
};

const WEIGHTS: [u64; 2] = [90, 10];

fn holds(report: &Value, requests: u64) {
    let seen = ["v1", "v2"].map(|pod| answers(report, pod));
    assert_eq!(report["failed"], 0, "{report}");
    assert_eq!(seen.iter().sum::<u64>(), requests, "{report}");
    let statistic = chi_squared(&seen, &WEIGHTS).unwrap();
    assert!(statistic < critical_value(1), "{seen:?}: {statistic}");
}

#[test]
fn a_split_holds_over_the_requests_of_one_connection_and_over_many() -> Result<()> {
    let scene = Scene::new("httpsplit", &[])?;
    scene.route(&split(90, 10))?;
    let client = &scene.client.place;

    let one = scene.requests(client, web(), 2_000, &[])?;
    holds(&one, 2_000);
    assert_eq!(one["connections"], 1, "{one}");

    let many = scene.requests(client, web(), 1_000, &["--connections", "20"])?;
    holds(&many, 1_000);
    let fresh = scene.requests(client, web(), 600, &["--new"])?;
    holds(&fresh, 600);
    assert_eq!(fresh["connections"], 600);
    // A client of another namespace has another worker, and the same route.
    let other = scene.requests(&scene.other.place, web(), 600, &[]);
    holds(&other?, 600);
    Ok(())
}

#[test]
fn path_header_and_method_choose_the_rule() -> Result<()> {
    let scene = Scene::new("httpmatch", &[])?;
    let backend = |name: &str| format!("    backendRefs: [{{ name: {name}, port: {PORT} }}]\n");
    let (first, second) = (backend("web-v1"), backend("web-v2"));
    scene.route(&http_route(&format!(
        "  - matches: [{{ path: {{ type: PathPrefix, value: /two }} }}]\n{second}  \
         - matches: [{{ headers: [{{ name: x-version, value: two }}] }}]\n{second}  \
         - matches: [{{ method: PUT, path: {{ type: Exact, value: /put }} }}]\n{second}  \
         - matches: [{{ path: {{ type: PathPrefix, value: /one }} }}]\n{first}"
    )))?;
    let pod = |flags: &[&str]| -> Result<String> {
        let report = scene.ask(flags)?;
        Ok(report["by_pod"]
            .as_object()
            .unwrap()
            .keys()
            .next()
            .unwrap()
            .clone())
    };
    assert_eq!(pod(&["--path", "/two"])?, "v2");
    assert_eq!(pod(&["--path", "/two/more?x=1"])?, "v2");
    assert_eq!(pod(&["--path", "/one"])?, "v1");
    assert_eq!(
        pod(&["--path", "/one", "--header", "x-version: two"])?,
        "v1",
        "the longer path wins"
    );
    assert_eq!(
        pod(&["--path", "/any", "--header", "X-Version: two"])?,
        "v2"
    );
    assert_eq!(
        pod(&["--path", "/put", "--method", "PUT", "--body", "5000"])?,
        "v2"
    );
    // No rule matches: the worker itself answers.
    let none = scene.ask(&["--path", "/twofold"])?;
    assert_eq!(none["by_status"]["404"], 1, "{none}");
    assert_eq!(none["by_pod"]["-"], 1, "{none}");
    // What the rule saw is what the server got.
    let sent = scene.ask(&[
        "--path",
        "/two/./x/../y",
        "--method",
        "POST",
        "--body",
        "70000",
    ])?;
    let seen = body(&sent)?;
    assert_eq!(
        (text(&seen, "/path"), seen["body"].as_u64()),
        ("/two/y", Some(70_000))
    );
    Ok(())
}

#[test]
fn a_request_that_takes_too_long_is_ended() -> Result<()> {
    let scene = Scene::new("httptime", &[])?;
    scene.route(&http_route(&format!(
        "  - timeouts: {{ request: 300ms }}\n    backendRefs: [{{ name: web-v1, port: {PORT} }}]\n"
    )))?;
    let fast = scene.ask(&["--path", "/?ms=10"])?;
    assert_eq!(fast["by_status"]["200"], 1, "{fast}");
    let slow = scene.ask(&["--path", "/?ms=3000&status=200"])?;
    assert_eq!(slow["by_status"]["504"], 1, "{slow}");
    let took = slow["max_us"].as_u64().unwrap();
    assert!((300_000..2_000_000).contains(&took), "{took} us");
    Ok(())
}

#[test]
fn both_ends_see_what_they_would_see_without_a_worker() -> Result<()> {
    let scene = Scene::new("httpends", &[])?;
    scene.route(&split(100, 0))?;
    let (v4, v6) = (scene.client.v4.to_string(), scene.client.v6.to_string());

    let four = scene.ask(&[])?;
    assert_eq!(
        text(&four, "/peer"),
        web().to_string(),
        "getpeername is what was dialed"
    );
    assert!(
        text(&four, "/local").starts_with(&format!("{v4}:")),
        "{four}"
    );
    let seen = body(&four)?;
    assert!(
        text(&seen, "/peer").starts_with(&format!("{v4}:")),
        "the server sees the pod: {seen}"
    );
    assert_eq!(
        text(&seen, "/local"),
        format!("{}:{PORT}", scene.versions[0].v4)
    );

    let six = scene.requests(&scene.client.place, web_v6(), 50, &[])?;
    assert_eq!(
        (&six["failed"], answers(&six, "v1")),
        (&Value::from(0), 50),
        "{six}"
    );
    assert_eq!(text(&six, "/peer"), web_v6().to_string());
    assert!(
        text(&six, "/local").starts_with(&format!("[{v6}]:")),
        "{six}"
    );

    // An application that binds its own address first, with a port and without.
    for from in [format!("{v4}:0"), format!("{v4}:33444")] {
        let bound = scene.ask(&["--from", &from])?;
        assert_eq!(
            (&bound["failed"], answers(&bound, "v1")),
            (&Value::from(0), 1),
            "{from}: {bound}"
        );
        if from.ends_with("33444") {
            assert_eq!(text(&bound, "/local"), from, "getsockname is what it bound");
        }
    }
    let rows = scene
        .agent
        .cli
        .conns(&["--from", "app/client", "--service", "app/web"])?;
    let layers = rows.iter().filter(|r| text(r, "/layer") == "http");
    assert!(layers.count() >= 4, "{rows:?}");
    Ok(())
}

#[test]
fn a_service_without_a_route_is_left_to_the_kernel() -> Result<()> {
    let scene = Scene::new("httpother", &[])?;
    scene.route(&split(50, 50))?;
    let at = format!("{}:{PORT}", VERSIONS[1]).parse().unwrap();
    let report = scene.requests(&scene.client.place, at, 20, &["--new"])?;
    assert_eq!(answers(&report, "v2"), 20, "{report}");
    let row = |r: &Value| text(r, "/layer") == "kernel" && text(r, "/leg") == "app";
    let filters = ["--from", "app/client", "--service", "app/web-v2"];
    let rows = scene.agent.cli.rows("kernel rows", &filters, 20, row)?;
    assert_eq!(rows.len(), 20);
    let stat = scene.agent.cli.stat("app/web-v2:8080")?;
    assert_eq!(stat["requests"], Value::Null, "nobody observes it");
    Ok(())
}
