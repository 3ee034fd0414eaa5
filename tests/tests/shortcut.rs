//! The shortcut: non-blocking connections of one node take it, others stay on TCP and say why, and
//! every byte is the same on either way.

use serde_json::Value;
use underpass_tests::{
    Result,
    lab::{
        Proc,
        cli::{number, text},
    },
    scene::{LIMIT, PORT, Scene, service_at},
};

struct Rpc {
    server: Proc,
    client: Proc,
}

fn rpc(scene: &Scene, server: &[&str], client: &[&str]) -> Result<Rpc> {
    let at = format!("{}:{PORT}", scene.server.v4);
    let server = scene.lab.run(
        &scene.server.place,
        &[&["underpass-peer", "rpc-server", &at], server].concat(),
    )?;
    server.wait_listening(at.parse().expect("an address"))?;
    let to = service_at().to_string();
    let mut client = scene.lab.run(
        &scene.client.place,
        &[&["underpass-peer", "rpc", &to], client].concat(),
    )?;
    client.line(0, "local", LIMIT)?;
    Ok(Rpc { server, client })
}

/// The open row of the client.
fn row(scene: &Scene) -> Result<Value> {
    let rows = scene
        .agent
        .cli
        .rows("the row", &["--from", "app/client"], 1, |r| {
            text(r, "/state") == "established"
        })?;
    Ok(rows[0].clone())
}

fn shortcut(row: &Value) -> u64 {
    number(row, "/bytes_shortcut").unwrap_or(u64::MAX)
}

#[test]
fn requests_of_every_size_take_the_shortcut() -> Result<()> {
    let scene = Scene::new("short", &["--shortcut", "on"])?;
    let mut rpc = rpc(&scene, &[], &[])?;
    let mut sent = 0;
    for size in [1, 64, 1_000, 16_000, 64 << 10, 128 << 10, 1 << 20] {
        let answer = rpc.client.ask(&format!("200 {size}"))?;
        println!("{size}: {answer}");
        sent += answer["bytes"].as_u64().unwrap_or(0);
    }
    let row = row(&scene)?;
    println!("{row}");
    assert_eq!(number(&row, "/bytes_sent"), Some(sent));
    assert_eq!(number(&row, "/bytes_received"), Some(sent));
    assert!(shortcut(&row) > sent, "{row}");
    println!("{}", scene.agent.cli.status()?);
    drop(rpc.server);
    Ok(())
}
