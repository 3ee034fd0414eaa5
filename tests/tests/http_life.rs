//! Agent, vendor and worker come and go while requests are under way.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use underpass_tests::{
    Result,
    http::{LIMIT, Scene, answers, split, stop, stop_clean, web},
    lab::{until, vend::number},
    scene::metric_sum,
};

const PAUSE: Duration = Duration::from_millis(700);

#[test]
fn the_agent_is_killed_and_started_again_under_load() -> Result<()> {
    let mut scene = Scene::new("httpagent", &[])?;
    scene.route(&split(0, 100))?;
    let client = &scene.client.place.clone();
    let keep = scene.load(client, web(), &["--connections", "8", "--rate", "500"])?;
    let fresh = scene.load(
        client,
        web(),
        &["--connections", "4", "--rate", "300", "--new"],
    )?;
    for _ in 0..3 {
        thread::sleep(PAUSE);
        scene.agent.kill9()?;
        thread::sleep(PAUSE);
        scene.agent.restart()?;
        thread::sleep(PAUSE);
    }
    for load in [keep, fresh] {
        let report = stop_clean(load)?;
        // Had one connection been the kernel's, half of its requests were v1's.
        let all = report["ok"].as_u64().unwrap();
        assert_eq!(answers(&report, "v2"), all, "{report}");
        println!("{all} requests over three restarts of the agent, 0 failed, all routed");
    }
    let tenants = scene.vend.tenant("app")?;
    assert_eq!(tenants["crashes"], "0", "{tenants:?}");
    // What has changed meanwhile is obeyed by the worker that went on.
    scene.route(&split(100, 0))?;
    until("the new weights", LIMIT, || {
        let report = scene.requests(client, web(), 20, &[]).map_err(|f| f.0)?;
        if answers(&report, "v1") == 20 {
            Ok(())
        } else {
            Err(report.to_string())
        }
    })?;
    let metrics = scene.scrape()?;
    let labels = [
        "layer=\"kernel\"",
        "source=\"app/client\"",
        "service=\"app/web:8080\"",
    ];
    let in_kernel = metric_sum(&metrics, "tcp_open_total", &labels).unwrap_or(0.0);
    assert_eq!(in_kernel, 0.0, "no connection changed its layer");
    Ok(())
}

#[test]
fn a_killed_worker_is_back_at_once_and_others_notice_nothing() -> Result<()> {
    let scene = Scene::new("httpworker", &[])?;
    scene.route(&split(50, 50))?;
    scene.wait_layer("other/client", "app/web", "http")?;
    let mut mine = scene.load(
        &scene.client.place,
        web(),
        &["--connections", "8", "--rate", "800"],
    )?;
    let other = scene.load(
        &scene.other.place,
        web(),
        &["--connections", "4", "--rate", "400"],
    )?;
    thread::sleep(PAUSE);
    let mut back = Vec::new();
    for crash in 1..=3 {
        let line = scene.vend.wait("app", "state", "running")?;
        let worker = number(&line, "worker")?;
        mine.tell("reset")?;
        let killed = Instant::now();
        kill_process(Pid::from_raw(worker as i32).unwrap(), Signal::KILL).unwrap();
        scene.vend.wait("app", "crashes", &crash.to_string())?;
        let report = until("a good request", LIMIT, || {
            let report = mine.ask("report").map_err(|f| f.0)?;
            if report["ok"].as_u64() > Some(20) {
                Ok(report)
            } else {
                Err(report.to_string())
            }
        })?;
        // Each of the eight connections was the worker's.
        let failed = report["failed"].as_u64().unwrap();
        assert!((1..=16).contains(&failed), "{report}");
        println!(
            "worker killed: {failed} requests failed, a good one {} us after the last bad one began, the longest took {} us, 20 good ones after {:?}: {}",
            report["back_us"],
            report["max_us"],
            killed.elapsed(),
            report["errors"]
        );
        back.extend(report["back_us"].as_u64());
        // Longer waits only if it crashes often.
        thread::sleep(PAUSE);
    }
    assert!(
        back.len() == 3 && back.iter().all(|us| *us < 2_000_000),
        "{back:?}"
    );
    drop(mine);
    let report = stop_clean(other)?;
    println!(
        "the other tenant: {} requests, 0 failed, p99 {} us",
        report["ok"], report["p99_us"]
    );
    let rejected = scene.status()?["workers"]["tenants"].to_string();
    assert!(!rejected.contains("REJECTED"), "{rejected}");
    Ok(())
}

#[test]
fn a_killed_vendor_is_told_everything_again() -> Result<()> {
    let mut scene = Scene::new("httpvend", &[])?;
    scene.route(&split(0, 100))?;
    let client = scene.client.place.clone();
    let before = scene.requests(&client, web(), 100, &[])?;
    assert_eq!(answers(&before, "v2"), 100, "{before}");

    let mut load = scene.load(&client, web(), &["--rate", "200", "--new"])?;
    thread::sleep(PAUSE);
    load.tell("reset")?;
    scene.vend.proc.kill9()?;
    scene
        .agent
        .wait_status("the vendor is away", |s| s["workers"]["vendor"] == "away")?;
    let lab = &scene.lab;
    scene.vend.restart(lab)?;
    scene.wait_layer("app/client", "app/web", "http")?;
    let good = until("routed requests", LIMIT, || {
        let report = scene.requests(&client, web(), 50, &[]).map_err(|f| f.0)?;
        if report["failed"] == 0 && answers(&report, "v2") == 50 {
            Ok(report)
        } else {
            Err(report.to_string())
        }
    })?;
    assert_eq!(good["by_status"]["200"], 50);
    let report = stop(&mut load)?;
    println!(
        "vendor killed: {} failed, {} answered, good again {} us after the last bad one began: {}",
        report["failed"], report["ok"], report["back_us"], report["errors"]
    );
    assert_eq!(
        answers(&report, "v1"),
        0,
        "what cannot be routed is refused, not sent elsewhere: {report}"
    );
    let status = scene.agent.wait_status("the vendor answers", |s| {
        s["workers"]["vendor"] == "answers"
    })?;
    assert_eq!(status["counters"]["vendor_lost"], 1, "{status}");
    Ok(())
}

#[test]
fn a_vendor_that_stays_away_is_gone_without() -> Result<()> {
    let mut scene = Scene::new("httpgone", &[])?;
    scene.route(&split(0, 100))?;
    scene.vend.proc.signal(Signal::TERM).unwrap();
    // Until then connections are refused; later they go as if there had never been a vendor.
    scene.wait_layer("app/client", "app/web", "kernel")?;
    let report = scene.requests(&scene.client.place, web(), 100, &["--new"])?;
    assert_eq!(report["failed"], 0, "{report}");
    assert!(answers(&report, "v1") > 20, "{report}");
    let lab = &scene.lab;
    scene.vend.restart(lab)?;
    scene.wait_layer("app/client", "app/web", "http")?;
    let report = scene.requests(&scene.client.place, web(), 100, &[])?;
    assert_eq!(
        (answers(&report, "v2"), &report["failed"]),
        (100, &0.into()),
        "{report}"
    );
    Ok(())
}
