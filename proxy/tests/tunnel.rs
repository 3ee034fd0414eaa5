//! Upgrades and CONNECT: bytes both ways, and none of them too early.
#![forbid(unsafe_code)]

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use underpass_l7::Refusal;
use underpass_proxy::{counters::Count, shard::Settings};

#[path = "support/rig.rs"]
#[allow(dead_code, reason = "each test file uses some of it")]
mod rig;

use rig::{Peer, Rig, run, run_paused};

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: shop\r\nSec-WebSocket-Key: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: y\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";

async fn tunnel(rig: &Rig) -> (Peer, Peer) {
    let mut client = rig.client().await;
    // The first bytes of the tunnel are too early; they wait.
    client.say(&format!("{UPGRADE}early")).await;
    let mut peer = rig.accept().await;
    peer.expect(UPGRADE).await;
    peer.expect_nothing().await;
    peer.say(&format!("{SWITCHING}hello")).await;
    client.expect(&format!("{SWITCHING}hello")).await;
    peer.expect("early").await;
    (client, peer)
}

#[test]
fn an_upgrade_passes_bytes_and_ends_both_ways() {
    run(async {
        let rig = Rig::start().await;
        let (mut client, mut peer) = tunnel(&rig).await;
        peer.say("\0\r\nGET").await;
        client.expect("\0\r\nGET").await;
        client.say("last").await;
        client.0.shutdown().await.unwrap();
        assert_eq!(peer.rest().await, "last");
        // The other direction goes on.
        peer.say("still here").await;
        client.expect("still here").await;
        drop(peer);
        client.expect_end().await;
        assert_eq!(rig.count(Count::Tunnels), 1);
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(rig.shard.open(), 0);
        assert!(rig.shard.pool.is_empty());
    });
}

#[test]
fn a_tunnel_carries_much_both_ways_at_once() {
    run(async {
        const SIZE: usize = 20 << 20;
        let rig = Rig::start().await;
        let (client, peer) = tunnel(&rig).await;
        let mut tasks = Vec::new();
        for (stream, seed) in [(client.0, 1u8), (peer.0, 2)] {
            let (mut read, mut write) = stream.into_split();
            let sent: Vec<u8> = (0..SIZE).map(|i| (i / 251) as u8 ^ seed).collect();
            tasks.push(tokio::task::spawn_local(async move {
                write.write_all(&sent).await.unwrap();
                write.shutdown().await.unwrap();
            }));
            tasks.push(tokio::task::spawn_local(async move {
                let mut got = Vec::new();
                read.read_to_end(&mut got).await.unwrap();
                let other = 3 - seed;
                assert_eq!(got.len(), SIZE);
                assert!(
                    got.iter()
                        .enumerate()
                        .all(|(i, b)| *b == (i / 251) as u8 ^ other)
                );
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
    });
}

#[test]
fn a_reset_resets_the_other_end() {
    run(async {
        let rig = Rig::start().await;
        let (client, mut peer) = tunnel(&rig).await;
        client.0.set_zero_linger().unwrap();
        drop(client);
        peer.expect_reset().await;
    });
}

#[test]
fn an_upgrade_that_is_not_granted_is_a_request_like_others() {
    run(async {
        let rig = Rig::start().await;
        let mut client = rig.client().await;
        client.say(UPGRADE).await;
        let mut peer = rig.accept().await;
        peer.expect(UPGRADE).await;
        peer.say(
            "HTTP/1.1 426 No\r\nContent-Length: 0\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        )
        .await;
        client
            .expect(
                "HTTP/1.1 426 No\r\nContent-Length: 0\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
            )
            .await;
        // What came too early is no request, whatever it looks like.
        client
            .say(&format!(
                "{UPGRADE}GET /smuggled HTTP/1.1\r\nHost: shop\r\n\r\n"
            ))
            .await;
        peer.expect(UPGRADE).await;
        peer.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await;
        client
            .expect("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await;
        client.expect_end().await;
        peer.expect_nothing().await;
    });
}

#[test]
fn nobody_switches_unasked() {
    run(async {
        let rig = Rig::start().await;
        for request in [
            "GET / HTTP/1.1\r\nHost: shop\r\n\r\n",
            // HTTP/2 in disguise would hide its requests.
            "GET / HTTP/1.1\r\nHost: shop\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\nConnection: Upgrade, HTTP2-Settings\r\n\r\n",
            // Nobody named it.
            "GET / HTTP/1.1\r\nHost: shop\r\nUpgrade: websocket\r\n\r\n",
        ] {
            let mut client = rig.client().await;
            client.say(request).await;
            let mut peer = rig.accept().await;
            peer.expect("GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await;
            peer.say(SWITCHING).await;
            client.expect("HTTP/1.1 502 Bad Gateway\r\n").await;
        }
        assert_eq!(rig.shard.counters.refused(Refusal::UnaskedUpgrade), 3);
    });
}

#[test]
fn connect_is_granted_by_the_endpoint() {
    run(async {
        let rig = Rig::start().await;
        let connect = "CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\n\r\n";
        let mut client = rig.client().await;
        client.say(&format!("{connect}early")).await;
        let mut peer = rig.accept().await;
        peer.expect(connect).await;
        peer.expect_nothing().await;
        peer.say("HTTP/1.1 200 Go\r\nContent-Length: 5\r\n\r\n")
            .await;
        client.expect("HTTP/1.1 200 Go\r\n\r\n").await;
        peer.expect("early").await;
        let mut client = rig.client().await;
        client
            .say(&format!(
                "{connect}GET /smuggled HTTP/1.1\r\nHost: shop\r\n\r\n"
            ))
            .await;
        let mut peer = rig.accept().await;
        peer.expect(connect).await;
        peer.say("HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno")
            .await;
        client
            .expect("HTTP/1.1 403 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
            .await;
        client.expect_end().await;
        peer.expect_nothing().await;
    });
}

#[test]
fn an_idle_tunnel_ends() {
    run_paused(async {
        let rig = Rig::start().await;
        let mut client = rig.client().await;
        client.say(UPGRADE).await;
        let mut peer = rig.accept().await;
        peer.expect(UPGRADE).await;
        peer.say(SWITCHING).await;
        client.expect(SWITCHING).await;
        let start = tokio::time::Instant::now();
        client.expect_end().await;
        assert!(start.elapsed() >= Settings::default().tunnel);
        assert_eq!(rig.count(Count::TunnelIdle), 1);
    });
}
