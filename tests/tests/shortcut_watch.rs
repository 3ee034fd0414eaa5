//! The watch for splice: there while something could take the shortcut or is in its map, and at no other
//! time; no connection enters without it.

use std::{fs, time::Duration};

use underpass_abi::VERSION;
use underpass_agent::kernel::{
    feature::SPLICE_WATCH,
    program::{SK_MSG, SK_SKB, SPLICE},
};
use underpass_tests::{
    Result,
    lab::{cli::text, until},
    manifest,
    rpc::{Rpc, row, shortcut},
    scene::Scene,
};

/// Pinned links of the shortcut.
fn links(scene: &Scene) -> Vec<&'static str> {
    let dir = scene.lab.pin_dir.join(format!("v{VERSION}/links"));
    let mut links = vec![SK_MSG, SK_SKB, SPLICE];
    links.retain(|name| dir.join(name).exists());
    links
}

/// What `status` says; it must be what is pinned.
fn attached(scene: &Scene) -> Result<bool> {
    let status = scene.agent.cli.status()?;
    let features = status["features"].as_array().cloned().unwrap_or_default();
    let watch = features.iter().find(|f| f["name"] == SPLICE_WATCH);
    let on = watch.is_some_and(|w| w["on"] == true);
    assert_eq!(on, links(scene).contains(&SPLICE), "{watch:?}");
    Ok(on)
}

fn wait_detached(scene: &Scene) -> Result<()> {
    until(
        "the end of the watch",
        Duration::from_secs(20),
        || match attached(scene) {
            Ok(false) => Ok(()),
            Ok(true) => Err("still attached".into()),
            Err(failure) => Err(failure.0),
        },
    )
}

#[test]
fn it_comes_with_the_first_candidate_and_goes_after_the_last_socket() -> Result<()> {
    let mut scene = Scene::new("swcome", &["--shortcut", "on"])?;
    assert!(!attached(&scene)?, "nobody listens");
    let mut rpc = Rpc::start(&scene, &["--blocking"], &[])?;
    assert!(!attached(&scene)?, "a blocking listener is no candidate");
    rpc.server.kill9()?;
    drop(rpc);
    let mut rpc = Rpc::start(&scene, &[], &[])?;
    assert!(attached(&scene)?);
    let mut sent = rpc.ask(10, 1_000)?;
    assert_eq!(shortcut(&row(&scene, "established", sent)?), 2 * sent);
    // It is in the kernel, whoever dies.
    scene.agent.kill9()?;
    assert!(links(&scene).contains(&SPLICE));
    sent += rpc.ask(10, 1_000)?;
    scene.agent.restart()?;
    assert!(attached(&scene)?);
    assert_eq!(shortcut(&row(&scene, "established", sent)?), 2 * sent);
    rpc.server.kill9()?;
    rpc.client.kill9()?;
    wait_detached(&scene)
}

#[test]
fn a_namespace_that_is_switched_off_and_on_takes_it_along() -> Result<()> {
    let scene = Scene::new("swmode", &["--shortcut", "on"])?;
    let annotate = |mode: &str| {
        scene.agent.wait_plan(|| {
            let namespace = manifest::namespace("app")
                + &format!("  annotations:\n    underpass.dev/shortcut: \"{mode}\"\n");
            scene.lab.mesh_file("05-namespace.yaml", &namespace)?;
            let workloads = scene.lab.mesh_dir().join("10-workloads.yaml");
            let text = fs::read_to_string(workloads)?;
            let (_, without) = text.split_once("---\n").unwrap_or_default();
            if text.starts_with(&manifest::namespace("app")) {
                scene.lab.mesh_file("10-workloads.yaml", without)?;
            }
            Ok(())
        })
    };
    annotate("off")?;
    let mut rpc = Rpc::start(&scene, &[], &[])?;
    let sent = rpc.ask(10, 1_000)?;
    let off = row(&scene, "established", sent)?;
    assert_eq!(text(&off, "/shortcut_reason"), "SHORTCUT_OFF", "{off}");
    assert!(!attached(&scene)?);
    annotate("on")?;
    assert!(attached(&scene)?, "the listener was there before");
    rpc.client.kill9()?;
    // A connection that is open when its owner changes his mind, and changes it back.
    let mut rpc = Rpc::again(&scene, rpc.server)?;
    let (mut sent, mut by_shortcut) = (0, 0);
    for mode in ["on", "off", "on"] {
        if sent > 0 {
            annotate(mode)?;
        }
        let bytes = rpc.ask(20, 1_000)?;
        sent += bytes;
        by_shortcut += if mode == "on" { 2 * bytes } else { 0 };
        let open = row(&scene, "established", sent)?;
        assert_eq!(shortcut(&open), by_shortcut, "{mode}: {open}");
    }
    annotate("off")?;
    rpc.client.kill9()?;
    wait_detached(&scene)
}

#[test]
fn nothing_enters_before_it_is_attached() -> Result<()> {
    let mut scene = Scene::new("swrace", &["--shortcut", "on"])?;
    // Nobody answers the first candidate.
    scene.agent.stop()?;
    let mut rpc = Rpc::begin(&scene, ("underpass-peer", &[]), ("underpass-peer", &[]))?;
    let sent = rpc.ask(10, 1_000)?;
    scene.agent.go_on()?;
    let early = row(&scene, "established", sent)?;
    assert_eq!(shortcut(&early), 0, "{early}");
    assert_eq!(text(&early, "/shortcut_reason"), "SHORTCUT_UNWATCHED");
    assert!(attached(&scene)?, "by the listener's notice");
    scene.agent.restart()?;
    rpc.server.kill9()?;
    rpc.client.kill9()?;
    let mut rpc = Rpc::start(&scene, &[], &[])?;
    let sent = rpc.ask(20, 1_000)?;
    assert_eq!(shortcut(&row(&scene, "established", sent)?), 2 * sent);
    Ok(())
}

#[test]
fn with_the_shortcut_off_nothing_of_it_is_attached() -> Result<()> {
    let mut scene = Scene::new("swoff", &["--shortcut", "on"])?;
    let mut rpc = Rpc::start(&scene, &[], &[])?;
    let sent = rpc.ask(10, 1_000)?;
    let before = row(&scene, "established", sent)?;
    assert_eq!(shortcut(&before), 2 * sent, "{before}");
    assert_eq!(links(&scene), [SK_MSG, SK_SKB, SPLICE]);
    scene.agent.restart_with("on", "off")?;
    // Two sockets are still in the map, so they are watched.
    assert_eq!(links(&scene), [SPLICE]);
    let more = rpc.ask(10, 1_000)?;
    let after = row(&scene, "established", sent + more)?;
    assert_eq!(shortcut(&after), 2 * sent, "{after}");
    rpc.server.kill9()?;
    rpc.client.kill9()?;
    wait_detached(&scene)?;
    assert!(links(&scene).is_empty());
    let mut rpc = Rpc::start(&scene, &[], &[])?;
    let sent = rpc.ask(10, 2_000)?;
    let off = row(&scene, "established", sent)?;
    assert_eq!(text(&off, "/shortcut_reason"), "SHORTCUT_OFF", "{off}");
    assert!(links(&scene).is_empty());
    Ok(())
}
