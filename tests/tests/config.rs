//! Bad input, two agents, limits, and what the CLI says of them.

use std::time::Duration;

use serde_json::Value;
use underpass_tests::{
    Result,
    lab::{Agent, cli::text, until},
    manifest::{self, Source, Target, allow},
    scene::{EPERM, LIMIT, Scene, service_at},
};

fn problem(scene: &Scene, name: &str) -> Result<Value> {
    let status = scene.agent.wait_status(&format!("problem {name}"), |s| {
        s["problems"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|p| p["name"] == name)
    })?;
    let problems = status["problems"].as_array().cloned().unwrap_or_default();
    Ok(problems
        .into_iter()
        .find(|p| p["name"] == name)
        .expect("checked by the wait"))
}

#[test]
fn a_broken_file_is_named_and_the_last_good_plan_stays() -> Result<()> {
    let scene = Scene::new("broken", &[])?;
    let _server = scene.echo()?;
    let good = allow(
        "app",
        "callers",
        Target::Workload("server"),
        &[Source::Account("app", "client")],
    );
    scene.policies(std::slice::from_ref(&good))?;
    // A wrong type in line 8.
    let wrong = good.replace("audit: false", "audit: maybe");
    scene.lab.mesh_file("40-policies.yaml", &wrong)?;
    let found = problem(&scene, "BAD_FIELD")?;
    let place = format!("{} {}", text(&found, "/where"), text(&found, "/message"));
    assert!(
        place.contains("40-policies.yaml:8") && place.contains("audit"),
        "{found}"
    );
    assert_eq!(scene.errno(&scene.other.place, service_at())?, EPERM);
    assert_eq!(scene.errno(&scene.client.place, service_at())?, 0);
    // No YAML at all.
    scene
        .lab
        .mesh_file("40-policies.yaml", &good.replace("kind:", "  kind: [\n"))?;
    problem(&scene, "BAD_YAML")?;
    assert_eq!(scene.errno(&scene.other.place, service_at())?, EPERM);
    // Mended.
    scene.lab.mesh_file("40-policies.yaml", &good)?;
    scene.agent.wait_status("no problem", |s| {
        s["problems"].as_array().is_none_or(Vec::is_empty)
    })?;
    assert_eq!(scene.errno(&scene.other.place, service_at())?, EPERM);
    Ok(())
}

#[test]
fn a_second_agent_is_refused() -> Result<()> {
    let scene = Scene::new("second", &[])?;
    let mut second = Agent::spawn(&scene.lab, &["--metrics", "127.0.0.1:9999"])?;
    let pid = second.proc().pid();
    until("end of the second agent", LIMIT, || {
        if underpass_tests::lab::process::alive(pid) {
            Err("still running".into())
        } else {
            Ok(())
        }
    })?;
    assert!(second.log().contains("NODE_BUSY"), "{}", second.log());
    assert_eq!(scene.agent.cli.status()?["state"], "ready");
    Ok(())
}

#[test]
fn a_plan_larger_than_a_map_keeps_the_last_good_one() -> Result<()> {
    use std::fmt::Write as _;
    let scene = Scene::new("limit", &[])?;
    let _server = scene.echo()?;
    let mut yaml = String::new();
    for i in 0..17_000_u32 {
        let ip = std::net::Ipv4Addr::from_bits(0x0a60_1000 + i);
        let _ = write!(
            yaml,
            "---\napiVersion: v1\nkind: Service\nmetadata: {{ name: s{i}, namespace: app }}\n\
             spec: {{ clusterIP: {ip}, ports: [{{ name: main, port: 80 }}] }}\n"
        );
    }
    let half = yaml.len() / 2;
    let cut = yaml[half..].find("---\n").map_or(half, |at| half + at);
    scene.lab.mesh_file("90-many.yaml", &yaml[..cut])?;
    scene.lab.mesh_file("91-many.yaml", &yaml[cut..])?;
    let status = scene.agent.wait_status("a limit", |s| {
        s["problems"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|p| p["name"] == "LIMIT_EXCEEDED" || p["name"] == "TOO_LARGE")
    })?;
    let first = status["problems"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|p| p["severity"] == "error");
    assert!(
        first.is_some_and(|p| text(p, "/message").contains("16384")),
        "the limit is named: {first:?}"
    );
    assert_eq!(scene.errno(&scene.client.place, service_at())?, 0);
    scene.lab.remove_mesh_file("90-many.yaml")?;
    scene.lab.remove_mesh_file("91-many.yaml")?;
    scene.agent.wait_status("no problem", |s| {
        s["problems"].as_array().is_none_or(Vec::is_empty)
    })?;
    Ok(())
}

/// 10,000 workloads, of which each has a problem, and one file that is broken.
#[test]
fn a_status_of_many_problems_is_bounded() -> Result<()> {
    const MANY: u32 = 10_000;
    let scene = Scene::new("problems", &[])?;
    let workload = |i: u32| {
        let ip = std::net::Ipv4Addr::from_bits(0x0a90_0000 + i).to_string();
        manifest::workload("app", &format!("w{i}"), &format!("cgroup: gone/{i}"), &[ip])
    };
    let many: Vec<String> = (0..MANY).map(workload).collect();
    scene
        .agent
        .wait_plan(|| scene.lab.mesh_file("90-many.yaml", &manifest::file(&many)))?;
    scene.lab.mesh_file("91-broken.yaml", "kind: [")?;
    let broken = problem(&scene, "BAD_YAML")?;
    let status = scene.agent.cli.status()?;
    let problems = status["problems"].as_array().cloned().unwrap_or_default();
    assert_eq!(problems.len(), 1_001);
    assert_eq!(problems[0], broken, "errors come first");
    let last = &problems[1_000];
    println!("{last}");
    assert_eq!(text(last, "/name"), "MORE_PROBLEMS");
    let expected = format!("0 more errors, {} more warnings", MANY - 999);
    assert_eq!(text(last, "/message"), expected);
    let workloads = status["workloads"].as_array().map_or(0, Vec::len);
    assert_eq!(workloads, MANY as usize + 3, "all of them are there");
    Ok(())
}

#[test]
fn a_workload_joins_when_its_cgroup_appears() -> Result<()> {
    let scene = Scene::with("late", &[], |_| {
        Ok(manifest::file(&[
            manifest::workload("app", "late", "cgroup: apps/late", &["10.42.0.1".into()]),
            allow(
                "app",
                "callers",
                Target::Workload("server"),
                &[Source::Account("app", "late")],
            ),
        ]))
    })?;
    let _server = scene.echo()?;
    problem(&scene, "CGROUP_MISSING")?;
    let late = scene.lab.cgroup("apps/late")?;
    until(
        "the new workload is known",
        Duration::from_secs(10),
        || match scene.errno(&late, service_at()) {
            Ok(0) => Ok(()),
            other => Err(format!("{other:?}")),
        },
    )
}

#[test]
fn wrong_usage_has_its_exit_code() -> Result<()> {
    let scene = Scene::new("usage", &[])?;
    let cli = &scene.agent.cli;
    assert_eq!(cli.run(&["conns", "--nonsense"])?.code, Some(2));
    assert_eq!(cli.run(&["conns", "--verdict", "maybe"])?.code, Some(2));
    let nowhere = scene
        .lab
        .run(
            &scene.lab.backstage(),
            &["underpass", "status", "--api", "/nonexistent.sock"],
        )?
        .finish(LIMIT)?;
    assert_eq!(nowhere.code, Some(1), "{}", nowhere.stderr);
    assert!(
        nowhere.stderr.contains("API_UNREACHABLE"),
        "{}",
        nowhere.stderr
    );
    Ok(())
}

/// Applications can exhaust the memory for a socket's state; then nothing would be known of the
/// connection, so it is refused, and says so.
#[test]
fn without_memory_for_its_state_a_connect_is_refused_with_a_reason() -> Result<()> {
    const ENOMEM: u64 = 12;
    let scene = Scene::new("optmem", &[])?;
    let _server = scene.echo()?;
    underpass_tests::lab::net::sysctl(&scene.client.place.netns, "core/optmem_max", "100")?;
    assert_eq!(scene.errno(&scene.client.place, service_at())?, ENOMEM);
    let reason = |row: &Value| text(row, "/reason") == "NO_SOCKET_STORAGE";
    scene
        .agent
        .cli
        .row("refused", &["--verdict", "refused"], reason)?;
    underpass_tests::lab::net::sysctl(&scene.client.place.netns, "core/optmem_max", "131072")?;
    assert_eq!(scene.errno(&scene.client.place, service_at())?, 0);
    Ok(())
}
