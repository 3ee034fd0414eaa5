//! The command against a live agent: filters, watching, explaining.

use std::{os::unix::fs::PermissionsExt as _, time::Duration};

use underpass_abi::tables::maps;
use underpass_agent::kernel::program;
use underpass_api::check::{Finding, Mark, Report};
use underpass_tests::{
    Failure, Result,
    foreign::Foreign,
    installed::{Installed, programs as programs_of},
    lab::{
        Lab, Proc,
        cli::{Row, text},
        place::binary,
        until,
    },
    manifest::{Endpoint, Source, Target, allow},
    scene::{EPERM, LIMIT, PORT, Scene, service, service_at},
};

const SERVER: Target = Target::Workload("server");

fn denied_and_allowed(name: &str) -> Result<(Scene, Proc)> {
    let scene = Scene::new(name, &[])?;
    let server = scene.echo()?;
    scene.policies(&[allow(
        "app",
        "callers",
        SERVER,
        &[Source::Account("app", "client")],
    )])?;
    assert_eq!(scene.errno(&scene.client.place, service_at())?, 0);
    assert_eq!(scene.errno(&scene.other.place, service_at())?, EPERM);
    assert_eq!(
        scene.errno(&scene.client.place, (scene.server.v4, PORT).into())?,
        0
    );
    scene
        .agent
        .cli
        .rows("all three", &[], 3, |r| text(r, "/state") != "established")?;
    Ok((scene, server))
}

#[test]
fn each_filter_lets_through_what_it_names() -> Result<()> {
    let (scene, _server) = denied_and_allowed("filters")?;
    let cases: [(&[&str], usize); 9] = [
        (&["--from", "app/client"], 2),
        (&["--from", "other"], 1),
        (&["--from", "app/"], 3),
        (&["--to", "app/server"], 3),
        (&["--service", "app/server"], 2),
        (&["--verdict", "denied"], 1),
        (&["--state", "closed"], 2),
        (&["--from", "app/client", "--verdict", "denied"], 0),
        (&["-n", "elsewhere"], 0),
    ];
    for (filters, expected) in cases {
        let rows = scene.agent.cli.conns(filters)?;
        assert_eq!(rows.len(), expected, "{filters:?}: {rows:?}");
    }
    Ok(())
}

#[test]
fn watching_shows_new_connections() -> Result<()> {
    let (scene, _server) = denied_and_allowed("watch")?;
    let api = scene
        .lab
        .dir
        .join("api.sock")
        .to_string_lossy()
        .into_owned();
    let command = [
        "underpass",
        "conns",
        "-w",
        "-o",
        "json",
        "--verdict",
        "denied",
        "--api",
        &api,
    ];
    let mut watch = scene.lab.run(&scene.lab.backstage(), &command)?;
    watch.line(0, "app/other", LIMIT)?;
    let seen = watch.stdout().len();
    assert_eq!(
        scene.errno(&scene.other.place, (scene.server.v6, PORT).into())?,
        EPERM
    );
    let line = watch.line(seen, "app/other", Duration::from_secs(3))?;
    let row: serde_json::Value = serde_json::from_str(&line)?;
    assert_eq!(
        text(&row, "/original_destination"),
        format!("[{}]:{PORT}", scene.server.v6),
        "{row}"
    );
    Ok(())
}

#[test]
fn explain_says_what_the_kernel_does_and_why() -> Result<()> {
    let (scene, _server) = denied_and_allowed("explain")?;
    let explain = |source: &str| {
        scene
            .agent
            .cli
            .json(&["explain", source, "app/server:8080"])
    };
    let denied = explain("app/other")?;
    assert_eq!(text(&denied, "/items/0/verdict"), "denied", "{denied}");
    assert_eq!(
        text(&denied, "/items/0/policy"),
        "AuthorizationPolicy app/callers",
        "{denied}"
    );
    let allowed = explain("app/client")?;
    assert_eq!(text(&allowed, "/items/0/verdict"), "allowed", "{allowed}");
    for end in ["outbound", "inbound"] {
        assert_eq!(
            text(&allowed, &format!("/items/0/{end}/layer")),
            "kernel",
            "{allowed}"
        );
        assert!(
            !text(&allowed, &format!("/items/0/{end}/reason")).is_empty(),
            "{allowed}"
        );
    }
    Ok(())
}

/// The kernel counts elements of hashes only; those of arrays are the plan's.
#[test]
fn status_tells_how_full_the_tables_are() -> Result<()> {
    let (scene, _server) = denied_and_allowed("fullness")?;
    let status = scene.agent.cli.status()?;
    let maps = status["maps"].as_array().cloned().unwrap_or_default();
    let used = |name: &str| {
        let map = maps.iter().find(|m| m["name"] == name);
        map.and_then(|m| m["used"].as_u64())
    };
    let expected = [
        (maps::WORKLOADS, 3),
        (maps::SERVICES, 1),
        (maps::BACKENDS, 1),
        (maps::NETNS, 3),
    ];
    for (name, count) in expected {
        assert_eq!(used(name), Some(count), "{name}");
    }
    let slots = used(maps::SLOTS).unwrap_or(0);
    assert!((1..100).contains(&slots), "{slots}");
    let head = scene.agent.cli.run(&["status"])?.stdout;
    assert!(head.contains("\nproblems        none\n"), "{head}");
    Ok(())
}

#[test]
fn tables_are_plain_when_piped_and_empty_cells_say_why() -> Result<()> {
    let (scene, _server) = denied_and_allowed("tables")?;
    for args in [
        vec!["conns"],
        vec!["stat"],
        vec!["status"],
        vec!["conns", "-o", "wide"],
    ] {
        let done = scene.agent.cli.run(&args)?;
        assert_eq!(done.code, Some(0), "{args:?}: {}", done.stderr);
        assert!(
            !done.stdout.contains('\x1b') && done.stdout.lines().count() > 1,
            "{}",
            done.stdout
        );
    }
    let wide = scene.agent.cli.run(&["conns", "-o", "wide"])?.stdout;
    let denied = wide.lines().find(|l| l.contains("POLICY_DENIED"));
    assert!(
        denied.is_some_and(|l| l.contains("AuthorizationPolicy app/callers")),
        "{wide}"
    );
    Ok(())
}

/// Endpoints that end are shown for as long as they serve, with what new connections they get.
#[test]
fn stat_shows_draining_endpoints() -> Result<()> {
    let scene = Scene::new("leaving", &[])?;
    let wait = |stays: Endpoint, expected: &[(&str, u64, &str)]| {
        let leaves = Endpoint::new(scene.other.v4.to_string()).weight(7);
        scene
            .lab
            .mesh_file("20-service.yaml", &service(&[stays, leaves.draining()]))?;
        until("the endpoints", LIMIT, || {
            let row = scene.agent.cli.stat("app/server:8080").map_err(|f| f.0)?;
            let shown = row["by_endpoint"].as_array().cloned().unwrap_or_default();
            if row["endpoints"] == 1 && shown.iter().map(endpoint).eq(expected.iter().copied()) {
                Ok(())
            } else {
                Err(row.to_string())
            }
        })
    };
    let server = || Endpoint::new(scene.server.v4.to_string());
    wait(
        server(),
        &[("app/server", 1, "ready"), ("app/other", 0, "draining")],
    )?;
    // None is ready: it gets new connections after all.
    let waits = Endpoint {
        ready: false,
        ..server()
    };
    wait(waits, &[("app/other", 7, "draining")])
}

fn endpoint(e: &Row) -> (&str, u64, &str) {
    let weight = e["weight"].as_u64().unwrap_or(u64::MAX);
    (text(e, "/workload"), weight, text(e, "/state"))
}

/// A command that runs the agent's binary with a lab's paths, for `--agent`.
fn agent_of(lab: &Lab) -> Result<String> {
    let script = format!(
        "#!/bin/sh\nexec {} --cgroup-root {} --pin-dir {} \"$@\"\n",
        binary("underpass-agent")?.display(),
        lab.cgroup_root().display(),
        lab.pin_dir.display(),
    );
    let path = lab.dir.join("agent.sh");
    std::fs::write(&path, script)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(path.to_string_lossy().into_owned())
}

/// `underpass check` where no agent answers.
fn check(lab: &Lab, agent: &str) -> Result<(Report, Option<i32>)> {
    let nobody = lab.dir.join("nobody.sock");
    let nobody = nobody.to_string_lossy();
    let command = ["underpass", "check", "-o", "json", "--api", &nobody];
    let done = lab
        .run(
            &lab.backstage(),
            &[&command[..], &["--agent", agent]].concat(),
        )?
        .finish(LIMIT)?;
    println!("{}{}", done.stdout, done.stderr);
    Ok((serde_json::from_str(&done.stdout)?, done.code))
}

fn finding<'a>(report: &'a Report, check: &str) -> Result<&'a Finding> {
    let found = report.checks.iter().find(|f| f.check == check);
    found.ok_or_else(|| Failure(format!("nothing about {check}: {report:?}")))
}

#[test]
fn check_tries_what_an_agent_would_meet() -> Result<()> {
    let lab = Lab::new("fresh")?;
    let agent = agent_of(&lab)?;
    let (report, exit) = check(&lab, &agent)?;
    assert_eq!((report.ok, exit), (true, Some(0)));
    let programs = program::hooks().map(|(program, _)| program);
    for program in programs.chain([program::SK_LOOKUP, program::ITER_SOCKS]) {
        let line = format!("program {}", program.trim_start_matches("up_"));
        let found = finding(&report, &line)?;
        assert_eq!(found.result, Mark::Ok, "{found:?}");
        assert!(found.detail.contains("instructions verified"), "{found:?}");
    }
    for line in ["capabilities", "other agents", "conflicts"] {
        assert_eq!(finding(&report, line)?.result, Mark::Ok);
    }
    let socket = finding(&report, "agent")?;
    assert_eq!(socket.code.as_deref(), Some("UP0410 API_UNREACHABLE"));
    assert!(socket.hint.is_some(), "{socket:?}");
    // Nothing is left of it.
    assert_eq!(programs_of(&lab)?, 0);
    assert!(!lab.pin_dir.exists());
    Ok(())
}

#[test]
fn check_names_what_else_works_on_the_node() -> Result<()> {
    let lab = Lab::new("beside")?;
    let agent = agent_of(&lab)?;
    let _foreign = Foreign::attach(&lab.cgroup_root())?;
    let mut first = lab.agent(&[])?;
    let before = Installed::on(&lab)?;
    let (report, exit) = check(&lab, &agent)?;
    assert_eq!((report.ok, exit), (true, Some(0)));
    let cases = [
        ("conflicts", "UP0417 CONFLICT", "clear (id ".to_owned()),
        (
            "other agents",
            "UP0405 NODE_BUSY",
            format!("process {} holds ", first.proc().pid()),
        ),
    ];
    for (line, code, start) in cases {
        let found = finding(&report, line)?;
        assert_eq!(found.result, Mark::Warning, "{found:?}");
        assert_eq!(found.code.as_deref(), Some(code), "{found:?}");
        assert!(found.hint.is_some(), "{found:?}");
        assert!(found.detail.starts_with(&start), "{found:?}");
    }
    assert!(
        finding(&report, "conflicts")?
            .detail
            .ends_with(") at sock_ops")
    );
    assert_eq!(Installed::on(&lab)?, before);

    // The same from the agent itself.
    let done = first.cli.run(&["check", "-o", "json"])?;
    let report: Report = serde_json::from_str(&done.stdout)?;
    let told = finding(&report, "conflicts")?;
    assert_eq!(told.result, Mark::Warning, "{told:?}");
    assert!(told.detail.starts_with("clear (id "), "{told:?}");
    assert_eq!((report.ok, done.code), (true, Some(0)));
    Ok(())
}

#[test]
fn check_says_what_it_could_not_try() -> Result<()> {
    let lab = Lab::new("noagent")?;
    let missing = lab.dir.join("missing").to_string_lossy().into_owned();
    for (agent, why) in [
        (missing.as_str(), "No such file or directory"),
        // Any program that knows nothing of this.
        ("/bin/false", "no report, exit status: 1"),
    ] {
        let (report, exit) = check(&lab, agent)?;
        let found = finding(&report, "programs")?;
        assert_eq!(found.result, Mark::Warning, "{found:?}");
        assert_eq!(found.code.as_deref(), Some("UP0421 NOT_TRIED"));
        assert!(
            found.detail.starts_with(agent) && found.detail.contains(why),
            "{found:?}"
        );
        // What can be seen without it is shown.
        assert_eq!(finding(&report, "btf")?.result, Mark::Ok);
        assert_eq!((report.ok, exit), (true, Some(0)));
    }
    Ok(())
}
