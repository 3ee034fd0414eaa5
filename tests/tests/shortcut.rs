//! The shortcut: non-blocking connections of one node take it, others stay on TCP and say why, and
//! every byte is the same on either way.

use std::{fs, time::Duration};

use underpass_abi::{
    VERSION,
    shortcut::{programs, switch},
};
use underpass_agent::kernel::{program::SK_SKB, shortcut::set_switches};
use underpass_tests::{
    Failure, Result,
    lab::{
        Proc,
        cli::{number, text},
        place,
    },
    manifest::{self, Source, Target},
    rpc::{Rpc, counter, row, shortcut},
    scene::{EPERM, LIMIT, PORT, Scene, service_at},
};

const ON: u64 = switch::INSERT | switch::REDIRECT | switch::NODE_ON;

fn switches(scene: &Scene, bits: u64) -> Result<()> {
    let dir = scene.lab.pin_dir.join(format!("v{VERSION}/maps"));
    Ok(set_switches(&dir, bits)?)
}

#[test]
fn requests_of_every_size_take_it_and_are_counted_to_the_byte() -> Result<()> {
    let scene = Scene::new("scsize", &["--shortcut", "on"])?;
    let mut rpc = Rpc::start(&scene, &[], &[])?;
    let mut sent = 0;
    for size in [0, 1, 64, 1_000, 16_000, 64 << 10, 128 << 10, 1 << 20] {
        sent += rpc.ask(50, size)?;
    }
    let open = row(&scene, "established", sent)?;
    assert!(counter(&scene, "shortcut_taken")? > 700, "{open}");
    rpc.client.finish(LIMIT)?;
    for row in [open, row(&scene, "closed", sent)?] {
        assert_eq!(number(&row, "/bytes_received"), Some(sent), "{row}");
        assert_eq!(number(&row, "/bytes_delivered"), Some(sent), "{row}");
        assert!(shortcut(&row) > sent, "{row}");
    }
    Ok(())
}

#[test]
fn the_kill_switch_holds_at_the_next_message() -> Result<()> {
    let scene = Scene::new("sckill", &["--shortcut", "on"])?;
    let mut rpc = Rpc::start(&scene, &[], &[])?;
    let mut sent = rpc.ask(10, 100)?;
    let before = row(&scene, "established", sent)?;
    let mut by_shortcut = 2 * sent;
    assert_eq!(shortcut(&before), by_shortcut, "all of it: {before}");
    // In the map without redirection, then back, many times: no byte is lost or out of order.
    for round in 0..18 {
        switches(&scene, switch::INSERT)?;
        let taken = counter(&scene, "shortcut_taken")?;
        sent += rpc.ask(10, 1 << round)?;
        assert_eq!(counter(&scene, "shortcut_taken")?, taken);
        switches(&scene, ON)?;
        let bytes = rpc.ask(10, 1 << round)?;
        (sent, by_shortcut) = (sent + bytes, by_shortcut + 2 * bytes);
        assert!(counter(&scene, "shortcut_taken")? > taken);
    }
    let after = row(&scene, "established", sent)?;
    assert_eq!(number(&after, "/bytes_received"), Some(sent), "{after}");
    assert_eq!(shortcut(&after), by_shortcut, "{after}");
    assert_eq!(text(&after, "/shortcut_reason"), "SHORTCUT_OFF");
    Ok(())
}

#[test]
fn who_stays_on_tcp_says_why() -> Result<()> {
    let scene = Scene::new("scwhy", &["--shortcut", "on"])?;
    let ends: [(&[&str], &[&str], &str); 3] = [
        (&["--blocking"], &[], "SHORTCUT_BLOCKING"),
        (&[], &["--blocking"], "SHORTCUT_BLOCKING"),
        (&[], &[], "SHORTCUT_OFF"),
    ];
    for (server, client, why) in ends {
        if why == "SHORTCUT_OFF" {
            scene.agent.wait_plan(|| {
                let namespace = manifest::namespace("app")
                    + "  annotations:\n    underpass.dev/shortcut: \"off\"\n";
                scene.lab.mesh_file("05-namespace.yaml", &namespace)?;
                let workloads = scene.lab.mesh_dir().join("10-workloads.yaml");
                let text = fs::read_to_string(workloads)?;
                let (_, without) = text.split_once("---\n").unwrap_or_default();
                scene.lab.mesh_file("10-workloads.yaml", without)
            })?;
        }
        let mut rpc = Rpc::start(&scene, server, client)?;
        let sent = rpc.ask(10, 1_000)?;
        let row = row(&scene, "established", sent)?;
        assert_eq!(text(&row, "/shortcut_reason"), why, "{row}");
        assert_eq!(shortcut(&row), 0, "{row}");
        rpc.end(&scene, &row)?;
    }
    Ok(())
}

#[test]
fn without_the_verdict_program_nothing_is_redirected() -> Result<()> {
    let scene = Scene::new("scverd", &["--shortcut", "on"])?;
    fs::remove_file(scene.lab.pin_dir.join(format!("v{VERSION}/links/{SK_SKB}")))?;
    let mut rpc = Rpc::start(&scene, &[], &[])?;
    let mut sent = rpc.ask(10, 1_000)?;
    let safe = row(&scene, "established", sent)?;
    assert_eq!(text(&safe, "/shortcut_reason"), "SHORTCUT_NO_VERDICT");
    assert_eq!(shortcut(&safe), 0);
    // The suite's control.
    switches(&scene, ON | switch::WITHOUT_VERDICT)?;
    let bytes = rpc.ask(10, 1_000)?;
    sent += bytes;
    assert_eq!(shortcut(&row(&scene, "established", sent)?), 2 * bytes);
    Ok(())
}

#[test]
fn policy_and_restart_hold_for_it_too() -> Result<()> {
    let mut scene = Scene::new("scpol", &["--shortcut", "on"])?;
    let mut rpc = Rpc::start(&scene, &[], &[])?;
    let mut sent = rpc.ask(10, 1_000)?;
    // The kernel's side goes on without the agent, and the next agent adopts it.
    scene.agent.kill9()?;
    sent += rpc.ask(10, 1_000)?;
    scene.agent.restart()?;
    sent += rpc.ask(10, 1_000)?;
    let adopted = row(&scene, "established", sent)?;
    assert_eq!(shortcut(&adopted), 2 * sent, "{adopted}");
    // A policy that denies the connection ends it.
    let nobody = Source::Account("app", "nobody");
    let policy = manifest::allow("app", "nobody", Target::Workload("server"), &[nobody]);
    scene.policies(&[policy])?;
    assert!(rpc.ask(1, 1).is_err());
    drop(rpc);
    let ended = row(&scene, "closed", sent)?;
    assert_eq!(text(&ended, "/close_reason"), "POLICY_CHANGED", "{ended}");
    assert_eq!(scene.errno(&scene.client.place, service_at())?, EPERM);
    Ok(())
}

#[test]
fn the_self_test_passes_and_auto_takes_tested_programs_only() -> Result<()> {
    let scene = Scene::new("scself", &["--shortcut", "auto"])?;
    // As if nothing guarded splice.
    switches(&scene, switch::INSERT | switch::REDIRECT)?;
    let status = scene.agent.cli.status()?;
    let feature = |name: &str| {
        let all = status["features"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|f| f["name"] == name)
    };
    let shortcut_is = feature("shortcut").unwrap_or_default();
    assert_eq!(shortcut_is["on"], true, "{shortcut_is}");
    let says = text(&shortcut_is, "/reason");
    let list = format!("mode auto; list {} ", programs::VERSION);
    assert!(says.starts_with(&list), "{says}");
    // tokio under its own name is on no list; the executable's name is what counts.
    let peer = place::binary("underpass-peer")?;
    let listed = |name: &str| {
        let path = scene.lab.dir.join(name);
        fs::copy(&peer, &path)?;
        Ok::<_, Failure>(path.to_string_lossy().into_owned())
    };
    let (server, client) = (listed("redis-server")?, listed("redis-benchmark")?);
    for (server, client, taken) in [
        ("underpass-peer", client.as_str(), false),
        (&server, "underpass-peer", false),
        (&server, &client, true),
    ] {
        let mut rpc = Rpc::of(&scene, (server, &[]), (client, &[]))?;
        let sent = rpc.ask(10, 1_000)?;
        let row = row(&scene, "established", sent)?;
        let why = if taken { "" } else { "SHORTCUT_NOT_LISTED" };
        assert_eq!(
            text(&row, "/shortcut_reason"),
            why,
            "{server} {client} {row}"
        );
        assert_eq!(shortcut(&row), if taken { 2 * sent } else { 0 });
        rpc.end(&scene, &row)?;
    }
    Ok(())
}

/// What the clients in Python begin with: how to dial the service without blocking.
const DIAL: &str = "
import os, socket, sys, time
def dial():
    s = socket.socket()
    s.setblocking(False)
    try: s.connect((sys.argv[1], int(sys.argv[2])))
    except BlockingIOError: pass
    time.sleep(0.1)
    return s
";

/// The server, and a client that goes on from [`DIAL`].
fn python(scene: &Scene, script: &str) -> Result<(Proc, Proc)> {
    let at = format!("{}:{PORT}", scene.server.v4);
    let command = ["underpass-peer", "rpc-server", &at];
    let server = scene.lab.run(&scene.server.place, &command)?;
    server.wait_listening(at.parse().expect("an address"))?;
    scene.agent.cli.status()?;
    let (ip, port) = (service_at().ip().to_string(), PORT.to_string());
    let script = format!("{DIAL}{script}");
    let command = ["python3", "-c", &script, &ip, &port];
    let client = scene.lab.run(&scene.client.place, &command)?;
    Ok((server, client))
}

/// A client that leaves an answer unread and closes; then one that turns blocking on the way.
const CARELESS: &str = "
hello = bytes([0, 0, 0, 96]) + bytes(96)
s = dial()
s.send(hello)
time.sleep(0.1)
s.recv(40)
s.close()
s = dial()
s.send(hello)
time.sleep(0.1)
s.setblocking(True)
s.send(hello)
time.sleep(0.1)
s.setblocking(False)
s.send(hello)
time.sleep(0.1)
print('sent', flush=True)
sys.stdin.read()
";

#[test]
fn unread_bytes_are_not_received_and_a_blocking_end_is_out_for_good() -> Result<()> {
    let scene = Scene::new("sccare", &["--shortcut", "on"])?;
    let (_server, mut client) = python(&scene, CARELESS)?;
    client.line(0, "sent", LIMIT)?;
    let unread = row(&scene, "closed", 100)?;
    assert_eq!(number(&unread, "/bytes_received"), Some(40), "{unread}");
    assert_eq!(shortcut(&unread), 140, "{unread}");
    let blocking = row(&scene, "established", 300)?;
    assert_eq!(text(&blocking, "/shortcut_reason"), "SHORTCUT_BLOCKING");
    // The first request; no answer was read.
    assert_eq!(shortcut(&blocking), 100, "{blocking}");
    // Both ends' messages: the server answered while the client was blocking, and is out as well.
    assert_eq!(counter(&scene, "shortcut_blocking")?, 4, "{blocking}");
    Ok(())
}

#[test]
fn a_connection_that_took_it_outlives_uninstall() -> Result<()> {
    let scene = Scene::new("scgone", &["--shortcut", "on"])?;
    let mut rpc = took_it(&scene)?;
    let said = uninstall(&scene, "0")?.finish(LIMIT)?.stdout;
    assert!(said.contains("left 2 sockets"), "{said}");
    assert!(!scene.lab.pin_dir.exists());
    // Its sockets keep the program and its switches, which are off: the client compares each byte.
    for size in [1, 1_000, 1 << 20] {
        rpc.ask(20, size)?;
    }
    Ok(())
}

#[test]
fn uninstall_waits_for_connections_that_took_it() -> Result<()> {
    let scene = Scene::new("scdrain", &["--shortcut", "on"])?;
    let mut rpc = took_it(&scene)?;
    let uninstall = uninstall(&scene, "60")?;
    // Redirection has ended when the pins are still there.
    std::thread::sleep(Duration::from_millis(500));
    assert!(scene.lab.pin_dir.exists());
    rpc.ask(10, 1_000)?;
    drop(rpc);
    let done = uninstall.finish(LIMIT)?;
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(done.stdout.contains("removed map"), "{}", done.stdout);
    assert!(!done.stdout.contains("left "), "{}", done.stdout);
    assert!(!scene.lab.pin_dir.exists());
    Ok(())
}

/// A connection whose bytes went past TCP, and no agent any more.
fn took_it(scene: &Scene) -> Result<Rpc> {
    let mut rpc = Rpc::start(scene, &[], &[])?;
    let sent = rpc.ask(10, 100_000)?;
    assert_eq!(shortcut(&row(scene, "established", sent)?), 2 * sent);
    scene.agent.terminate()?;
    Ok(rpc)
}

fn uninstall(scene: &Scene, drain: &str) -> Result<Proc> {
    let path = |path: &std::path::Path| path.to_string_lossy().into_owned();
    let lab = &scene.lab;
    let command = [
        "underpass-agent",
        "--uninstall",
        "--drain",
        drain,
        "--cgroup-root",
        &path(&lab.cgroup_root()),
        "--pin-dir",
        &path(&lab.pin_dir),
        "--state-dir",
        &path(&lab.dir.join("state")),
    ];
    lab.run(&lab.backstage(), &command)
}
