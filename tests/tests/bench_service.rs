//! `underpass bench`: a service of somebody's is measured from inside the mesh and from outside, what stands
//! in the way has a code, and nothing of it stays.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{fs, path::Path, time::Duration};

use rustix::process::Signal;
use serde_json::Value;
use underpass_tests::{
    Lab, Result,
    http::{PORT, Scene, WEB},
    lab::{Proc, cli::text, until},
};

const LIMIT: Duration = Duration::from_secs(40);

/// Exit code, standard output and standard error.
fn bench(scene: &Scene, args: &[&str]) -> Result<(Option<i32>, String, String)> {
    let done = start(scene, args)?.finish(LIMIT)?;
    Ok((done.code, done.stdout, done.stderr))
}

fn start(scene: &Scene, args: &[&str]) -> Result<Proc> {
    let api = scene.lab.dir.join("api.sock").display().to_string();
    let command = [&["underpass", "bench"], args, &["--api", &api]].concat();
    scene.lab.run(&scene.lab.backstage(), &command)
}

/// Everything that a benchmark of process `pid` makes and the machine knows by its name.
fn traces(lab: &Lab, pid: u32) -> Vec<String> {
    let id = format!("up-bench-{pid}-0");
    let dirs = [
        Path::new("/run/netns").to_owned(),
        lab.mesh_dir(),
        lab.cgroup_root(),
    ];
    let entries = dirs
        .iter()
        .flat_map(|dir| fs::read_dir(dir).unwrap().flatten());
    let names = entries.map(|e| e.path().display().to_string());
    names.filter(|name| name.contains(&id)).collect()
}

fn gone(lab: &Lab, pid: u32) -> Result<()> {
    until("nothing is left", Duration::from_secs(15), || {
        let left = traces(lab, pid);
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    })
}

#[test]
fn both_clients_are_measured_and_nothing_stays() -> Result<()> {
    let scene = Scene::new("benchown", &[])?;
    let files = ["json", "html"].map(|end| scene.lab.dir.join(format!("bench.{end}")));
    let names = files.clone().map(|file| file.display().to_string());
    let service = format!("app/web:{PORT}");
    let args = [
        &service, "--quick", "--json", &names[0], "--html", &names[1],
    ];
    let running = start(&scene, &args)?;
    let pid = running.pid();
    let done = running.finish(LIMIT)?;
    assert_eq!(done.code, Some(0), "{}{}", done.stdout, done.stderr);
    gone(&scene.lab, pid)?;

    let report: Value = serde_json::from_slice(&fs::read(&files[0])?)?;
    let rows = report["rows"].as_array().unwrap();
    let systems: Vec<&str> = rows.iter().map(|row| text(row, "/system")).collect();
    assert_eq!(systems, ["outside", "inside"], "{report}");
    for row in rows {
        assert_eq!(text(row, "/case"), "http1-c16");
        assert!(
            row["rps"].as_f64() > Some(10.0) && row["p50_us"].as_f64() > Some(1.0),
            "{row}"
        );
        let low = row["ci95"]["ratio_p50"][0].as_f64();
        assert!(low.is_some() && row["ratio_p50"].as_f64() >= low, "{row}");
        assert!(text(row, "/command_lines/0").contains(WEB), "{row}");
    }
    assert!(
        done.stdout
            .contains("\nhttp1-c16: GET http://web.app:8080/ by HTTP/1.1")
    );
    let page = fs::read_to_string(&files[1])?;
    assert_eq!(page.matches("<polyline").count(), 2);

    // The mesh knew who called: one of them.
    let inside = format!("app/up-bench-{pid}-0");
    let rows = scene.agent.cli.conns(&["--service", "app/web"])?;
    let from = |name: &str| {
        rows.iter()
            .filter(|r| text(r, "/source/workload") == name)
            .count()
    };
    assert!(from(&inside) >= 16, "{rows:?}");
    assert!(rows.len() - from(&inside) >= 16, "none from outside");
    Ok(())
}

#[test]
fn what_stands_in_the_way_is_told_by_its_code() -> Result<()> {
    let policy = "apiVersion: underpass.dev/v1alpha1\nkind: AuthorizationPolicy\n\
        metadata: { name: few, namespace: app }\nspec:\n  targetRefs:\n  \
        - { kind: Service, name: web-v1 }\n  rules:\n  \
        - sources: [{ serviceAccounts: [{ name: somebody }] }]\n";
    let scene = Scene::with("benchno", &[], &[("60-policy.yaml", policy)])?;
    for (args, code) in [
        (
            [&format!("app/web-v1:{PORT}"), "--quick"],
            "UP0514 CLIENT_REFUSED",
        ),
        // Nobody listens there.
        (["10.42.0.1:9", "--quick"], "UP0513 SERVICE_UNREACHABLE"),
        (["app/web:81", "--quick"], "UP0502 NOT_FOUND"),
        (["app/nothing:80", "--quick"], "UP0502 NOT_FOUND"),
    ] {
        let running = start(&scene, &[&args[..], &["--as", "app/other"]].concat())?;
        let pid = running.pid();
        let done = running.finish(LIMIT)?;
        assert_eq!(done.code, Some(1), "{args:?}: {}", done.stderr);
        assert!(done.stderr.contains(code), "{args:?}: {}", done.stderr);
        gone(&scene.lab, pid)?;
    }
    // Not the path of a service that answers anything, so its gRPC is.
    let grpc = [&format!("app/web:{PORT}"), "--quick", "--protocol", "grpc"];
    let (code, _, told) = bench(&scene, &grpc)?;
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("UP0515 NO_SUCCESS"), "{told}");
    Ok(())
}

#[test]
fn nothing_stays_after_an_interrupt() -> Result<()> {
    let scene = Scene::new("benchint", &[])?;
    let args = [&format!("app/web:{PORT}"), "--seconds", "20"];
    for signal in [Signal::INT, Signal::KILL] {
        let running = start(&scene, &args)?;
        let pid = running.pid();
        until("the benchmark", LIMIT, || {
            let said = running.stderr();
            // A namespace each, a file, a cgroup.
            let made = traces(&scene.lab, pid).len();
            if made == 4 && said.contains("trying") {
                Ok(())
            } else {
                Err(said)
            }
        })?;
        running.signal(signal)?;
        gone(&scene.lab, pid)?;
    }
    Ok(())
}
