//! What protects a workload's own port, end to end: limits of the rate and rules of requests hold for
//! whoever comes and however it dials, and nothing gets past a worker that is not there.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{collections::BTreeMap, net::SocketAddr};

use rustix::process::Signal;
use serde_json::Value;
use underpass_tests::{
    Result,
    http::{LIMIT, PORT, Scene, VERSIONS, answers, http_route, split, web},
    lab::{Place, cli::text, until},
    scene::metric_sum,
};

const POLICY: &str = "60-policy.yaml";

/// As many at once, and no more for an hour.
const BURST: u64 = 10;

/// Who calls `app/v1`, and at which address.
struct Caller {
    what: &'static str,
    place: Place,
    to: SocketAddr,
}

/// Of the mesh and not, by the service and at the pod's own addresses.
fn callers(scene: &Scene) -> Result<Vec<Caller>> {
    let (stranger, outside) = (scene.lab.pod("stranger")?, scene.lab.outside()?);
    let service: SocketAddr = format!("{}:{PORT}", VERSIONS[0]).parse().unwrap();
    let v1 = &scene.versions[0];
    let (v4, v6) = ((v1.v4, PORT).into(), (v1.v6, PORT).into());
    let callers = [
        ("same namespace, service", &scene.client.place, service),
        ("same namespace, address", &scene.client.place, v4),
        ("other namespace, service", &scene.other.place, service),
        ("other namespace, IPv6", &scene.other.place, v6),
        ("no workload, service", &stranger.place, service),
        ("no workload, address", &stranger.place, v4),
        ("off the node, address", &outside.place, v4),
        ("the pod itself", &v1.place, v4),
    ];
    let named = callers.map(|(what, place, to)| Caller {
        what,
        place: place.clone(),
        to,
    });
    Ok(named.into())
}

/// Waits until connections to `app/v1` go through its worker, or do not.
fn wait_inbound(scene: &Scene, layer: &str) -> Result<()> {
    until(&format!("inbound layer {layer}"), LIMIT, || {
        let said = scene.explain("app/client", "app/web-v1").map_err(|f| f.0)?;
        if text(&said, "/items/0/inbound/layer") == layer {
            return Ok(());
        }
        Err(format!("{said}\n{}", scene.agent.log()))
    })
}

/// Limits what endpoints of `app/SERVICE` get.
fn limit(scene: &Scene, service: &str, rate: &str) -> Result<()> {
    let file = "10-app.yaml";
    let mesh = std::fs::read_to_string(scene.lab.mesh_dir().join(file))?;
    let plain = format!("kind: Service\nmetadata:\n  name: {service}\n");
    assert!(mesh.contains(&plain), "{mesh}");
    let limited = format!("{plain}  annotations: {{ underpass.dev/rate-limit: \"{rate}\" }}\n");
    scene.lab.mesh_file(file, &mesh.replace(&plain, &limited))?;
    Ok(())
}

/// `GET /public*` for all, at the port of `app/v1`.
fn public(scene: &Scene) -> Result<()> {
    let policy = format!(
        "apiVersion: underpass.dev/v1alpha1\nkind: AuthorizationPolicy\n\
         metadata: {{ name: public, namespace: app }}\nspec:\n  action: ALLOW\n  \
         targetRefs: [{{ kind: Workload, labelSelector: {{ matchLabels: {{ app: v1 }} }} }}]\n  \
         rules: [{{ ports: [{{ port: {PORT} }}], methods: [GET], paths: [/public*] }}]\n"
    );
    scene.lab.mesh_file(POLICY, &policy)?;
    wait_inbound(scene, "http")
}

/// What the server of `app/v1` has had, connections and requests.
fn served(scene: &mut Scene) -> Result<[u64; 2]> {
    let report = scene.servers[0].ask("report")?;
    Ok(["connections", "requests"].map(|k| report[k].as_u64().unwrap()))
}

fn by_status(report: &Value) -> BTreeMap<String, u64> {
    serde_json::from_value(report["by_status"].clone()).unwrap_or_default()
}

#[test]
fn a_limit_holds_for_all_callers_together() -> Result<()> {
    let mut scene = Scene::new("guardrate", &[])?;
    let callers = callers(&scene)?;
    limit(&scene, "web-v1", &format!("1/h;burst={BURST}"))?;
    wait_inbound(&scene, "http")?;
    // One of each, so that none is let past; then one takes what is left.
    for Caller { what, place, to } in &callers {
        let one = scene.requests(place, *to, 1, &[])?;
        assert_eq!(by_status(&one), [("200".into(), 1)].into(), "{what}: {one}");
        assert_eq!(answers(&one, "v1"), 1, "{what}: {one}");
    }
    let left = BURST - callers.len() as u64;
    let rest = scene.requests(&callers[0].place, callers[0].to, 20, &[])?;
    let seen = [("200".to_owned(), left), ("429".into(), 20 - left)];
    assert_eq!(by_status(&rest), seen.into(), "{rest}");
    for Caller { what, place, to } in &callers {
        let none = scene.requests(place, *to, 3, &[])?;
        assert_eq!(
            by_status(&none),
            [("429".into(), 3)].into(),
            "{what}: {none}"
        );
        let last = text(&none, "/last").to_ascii_lowercase();
        assert!(last.contains("retry-after: "), "{what}: {none}");
    }
    assert_eq!(served(&mut scene)?[1], BURST);
    // Its neighbor has no limit.
    let other = format!("{}:{PORT}", VERSIONS[1]).parse().unwrap();
    let free = scene.requests(&scene.client.place, other, 30, &[])?;
    assert_eq!(answers(&free, "v2"), 30, "{free}");
    // The same limit in another place of the snapshot is no new burst.
    public(&scene)?;
    scene.lab.remove_mesh_file(POLICY)?;
    let again = scene.requests(&callers[0].place, callers[0].to, 5, &[])?;
    assert!(!by_status(&again).contains_key("200"), "{again}");
    Ok(())
}

#[test]
fn rules_of_method_and_path_hold_for_all_callers() -> Result<()> {
    let mut scene = Scene::new("guardrule", &[])?;
    let callers = callers(&scene)?;
    public(&scene)?;
    let cases: [(&[&str], u16); 6] = [
        (&["--path", "/public"], 200),
        (&["--path", "/public/a?b=c"], 200),
        (&["--path", "/private/../public"], 200),
        (&["--path", "/public/../private"], 403),
        (&["--path", "/private"], 403),
        (
            &["--path", "/public", "--method", "POST", "--body", "9"],
            403,
        ),
    ];
    for Caller { what, place, to } in &callers {
        for (flags, status) in cases {
            let seen = scene.requests(place, *to, 2, flags)?;
            let expected = [(status.to_string(), 2)].into();
            assert_eq!(by_status(&seen), expected, "{what}, {flags:?}: {seen}");
        }
    }
    let allowed = cases.iter().filter(|(_, s)| *s == 200).count() * 2 * callers.len();
    assert_eq!(served(&mut scene)?[1], allowed as u64);
    // What is no HTTP cannot be judged.
    let to = callers[1].to.to_string();
    let command = ["underpass-peer", "dial", &to, "--echo", "3000"];
    let seen = scene.lab.json(&scene.client.place, &command, LIMIT)?;
    assert_ne!(seen["echo_errno"], 0, "{seen}");
    // Without the rule all is as it was.
    scene.lab.remove_mesh_file(POLICY)?;
    wait_inbound(&scene, "kernel")?;
    for Caller { what, place, to } in &callers {
        let seen = scene.requests(place, *to, 1, &["--method", "POST", "--body", "9"])?;
        assert_eq!(answers(&seen, "v1"), 1, "{what}: {seen}");
    }
    Ok(())
}

#[test]
fn nothing_gets_past_a_worker_that_is_gone() -> Result<()> {
    let mut scene = Scene::new("guardgone", &[])?;
    let callers = callers(&scene)?;
    public(&scene)?;
    let before = served(&mut scene)?;
    scene.vend.proc.kill9()?;
    let refused = |scene: &Scene, when: &str, callers: &[Caller]| -> Result<()> {
        for Caller { what, place, to } in callers {
            let seen = scene.requests(place, *to, 1, &["--path", "/public"])?;
            assert_eq!(
                (&seen["ok"], &seen["failed"]),
                (&0.into(), &1.into()),
                "{when}, {what}: {seen}"
            );
        }
        Ok(())
    };
    scene
        .agent
        .wait_status("the vendor is away", |s| s["workers"]["vendor"] == "away")?;
    refused(&scene, "just gone", &callers)?;
    let closed = |r: &Value| text(r, "/reason") == "DOOR_CLOSED";
    scene.agent.cli.rows("closed", &[], callers.len(), closed)?;
    // After a while the agent gives the doors up: rules of requests then allow nothing at all. To the
    // kernel's policies a pod may always call itself.
    wait_inbound(&scene, "kernel")?;
    let (itself, others) = callers.split_last().unwrap();
    assert_eq!(itself.what, "the pod itself");
    refused(&scene, "given up", others)?;
    assert_eq!(served(&mut scene)?, before);
    scene.vend.restart(&scene.lab)?;
    wait_inbound(&scene, "http")?;
    for Caller { what, place, to } in &callers {
        let seen = scene.requests(place, *to, 1, &["--path", "/public"])?;
        assert_eq!(answers(&seen, "v1"), 1, "{what}: {seen}");
    }
    // One that was asked to end leaves no less behind.
    let before = served(&mut scene)?;
    scene.vend.proc.signal(Signal::TERM).unwrap();
    scene
        .agent
        .wait_status("the vendor is away", |s| s["workers"]["vendor"] == "away")?;
    refused(&scene, "ended", &callers)?;
    assert_eq!(served(&mut scene)?, before);
    Ok(())
}

/// Connections that a workload's worker made in its place.
fn legs(scene: &Scene, from: &str) -> Result<usize> {
    let rows = scene.agent.cli.conns(&["--from", from])?;
    Ok(rows.iter().filter(|r| text(r, "/leg") != "app").count())
}

#[test]
fn a_tenants_worker_serves_both_sides_in_one_hop() -> Result<()> {
    let mut scene = Scene::new("guardhop", &[])?;
    limit(&scene, "web-v1", &format!("1/h;burst={BURST}"))?;
    wait_inbound(&scene, "http")?;
    scene.route(&split(100, 0))?;
    scene.wait_layer("other/client", "app/web", "http")?;
    let mine = scene.requests(&scene.client.place, web(), 6, &["--new"])?;
    assert_eq!(answers(&mine, "v1"), 6, "{mine}");
    let leg = |r: &Value| text(r, "/leg") != "app";
    scene
        .agent
        .cli
        .row("a leg of the client", &["--from", "app/client"], leg)?;
    assert_eq!(legs(&scene, "app/v1")?, 0, "no second hop");

    // Another tenant's worker may not judge: there is a second one.
    let other = scene.requests(&scene.other.place, web(), 3, &["--new"])?;
    assert_eq!(answers(&other, "v1"), 3, "{other}");
    scene
        .agent
        .cli
        .row("a leg of the server", &["--from", "app/v1"], leg)?;

    // Both take from the same bucket, and each request once.
    let rest = scene.requests(&scene.client.place, web(), 5, &[])?;
    let seen = [("200".to_owned(), 1), ("429".into(), 4)];
    assert_eq!(by_status(&rest), seen.into(), "{rest}");
    let rest = scene.requests(&scene.other.place, web(), 5, &[])?;
    assert_eq!(by_status(&rest), [("429".into(), 5)].into(), "{rest}");
    assert_eq!(served(&mut scene)?[1], BURST);

    // Both ways are counted, each request once, also those that were refused.
    let inbound = |text: &str| {
        let labels = ["direction=\"inbound\"", "destination=\"app/v1\""];
        metric_sum(text, "request_total", &labels).unwrap_or(0.0)
    };
    let counted = until("what came in", LIMIT, || {
        let text = scene.scrape().map_err(|f| f.0)?;
        let counted = inbound(&text);
        if counted >= 19.0 {
            Ok(counted)
        } else {
            Err(counted.to_string())
        }
    })?;
    assert_eq!(counted, 19.0);

    // A request of the other backend is none of it.
    let backend = format!("    backendRefs: [{{ name: web-v2, port: {PORT} }}]\n");
    let path = "matches: [{ path: { type: PathPrefix, value: / } }]";
    scene.route(&http_route(&format!("  - {path}\n{backend}")))?;
    until("the other backend", LIMIT, || {
        let seen = scene
            .requests(&scene.client.place, web(), 5, &[])
            .map_err(|f| f.0)?;
        if answers(&seen, "v2") == 5 {
            Ok(())
        } else {
            Err(seen.to_string())
        }
    })
}

#[test]
fn rules_of_sources_hold_for_requests() -> Result<()> {
    let mut scene = Scene::new("guardwho", &[])?;
    let stranger = scene.lab.pod("stranger")?;
    let outside = scene.lab.outside()?;
    let rule = |source: &str, path: &str| {
        format!(
            "  - {{ sources: [{{ {source} }}], ports: [{{ port: {PORT} }}], methods: [GET], \
             paths: [{path}] }}\n"
        )
    };
    let policy = format!(
        "apiVersion: underpass.dev/v1alpha1\nkind: AuthorizationPolicy\n\
         metadata: {{ name: who, namespace: app }}\nspec:\n  action: ALLOW\n  \
         targetRefs: [{{ kind: Workload, labelSelector: {{ matchLabels: {{ app: v1 }} }} }}]\n  \
         rules:\n{}{}{}{}{}",
        rule("serviceAccounts: [{ name: client }]", "/client"),
        rule("serviceAccounts: [{ name: v2 }]", "/v2"),
        rule("namespaces: [other]", "/other"),
        rule("host: true", "/host"),
        rule("outside: true", "/outside"),
    );
    scene.lab.mesh_file(POLICY, &policy)?;
    wait_inbound(&scene, "http")?;
    let v4: SocketAddr = (scene.versions[0].v4, PORT).into();
    let v6: SocketAddr = (scene.versions[0].v6, PORT).into();
    let service = format!("{}:{PORT}", VERSIONS[0]).parse().unwrap();
    let callers: [(&str, &Place, [SocketAddr; 2]); 5] = [
        ("/client", &scene.client.place, [service, v6]),
        ("/v2", &scene.versions[1].place, [service, v4]),
        ("/other", &scene.other.place, [service, v4]),
        ("/host", &stranger.place, [service, v6]),
        ("/outside", &outside.place, [v4, v6]),
    ];
    let paths = callers.map(|(own, ..)| own);
    let mut allowed = 0;
    for (own, place, all) in callers {
        for (to, path) in all.into_iter().flat_map(|to| paths.map(|p| (to, p))) {
            let seen = scene.requests(place, to, 2, &["--path", path])?;
            let status = if path == own { "200" } else { "403" };
            let expected = [(status.to_owned(), 2)].into();
            assert_eq!(
                by_status(&seen),
                expected,
                "{own} asks {to} for {path}: {seen}"
            );
            allowed += u64::from(path == own) * 2;
        }
    }
    // The same where its own worker judges, and where another tenant's worker dials.
    scene.route(&split(100, 0))?;
    scene.wait_layer("other/client", "app/web", "http")?;
    for (own, place) in [
        ("/client", &scene.client.place),
        ("/other", &scene.other.place),
    ] {
        for path in paths {
            let seen = scene.requests(place, web(), 2, &["--path", path])?;
            let status = if path == own { "200" } else { "403" };
            let expected = [(status.to_owned(), 2)].into();
            assert_eq!(by_status(&seen), expected, "{own} asks for {path}: {seen}");
            allowed += u64::from(path == own) * 2;
        }
    }
    assert_eq!(served(&mut scene)?[1], allowed);
    Ok(())
}
