//! What a connection speaks is found out from its first bytes, and nobody waits for a clock but a client
//! that is silent.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use underpass_l7::Refusal;
use underpass_mesh::snapshot::{Inbound, Protocol, Rate};
use underpass_proxy::{
    counters::Count,
    detect::{PROBES, SILENT_FOR, UNDECIDED_WITHIN},
    plan::Plan,
    port::Port,
    shard::Settings,
};

#[path = "support/rig.rs"]
#[allow(dead_code, reason = "each test file uses some of it")]
mod rig;

use rig::{GET, OK, Peer, Rig, run};

const CLIENT_HELLO: &[u8] = b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03";
const GREETING: &str = "220 mail.example ESMTP\r\n";

/// A shard that is told nothing of what is spoken.
async fn detecting(settings: Settings) -> Rig {
    let rig = Rig::with(settings, 1).await;
    rig.shard.set_plan(unknown(&rig, Protocol::Detect));
    rig
}

fn unknown(rig: &Rig, protocol: Protocol) -> Plan {
    let addresses: Vec<_> = rig
        .endpoints
        .iter()
        .map(|e| e.local_addr().unwrap())
        .collect();
    Plan {
        protocol,
        ..rig::plan(&addresses)
    }
}

async fn expect_bytes(peer: &mut Peer, expected: &[u8]) {
    let mut bytes = vec![0; expected.len()];
    peer.0.read_exact(&mut bytes).await.unwrap();
    assert_eq!(bytes, expected);
}

#[test]
fn http_is_found_byte_by_byte() {
    run(async {
        let rig = detecting(Settings::default()).await;
        let mut client = rig.client().await;
        for byte in GET.as_bytes() {
            client.0.write_all(&[*byte]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut peer = rig.accept().await;
        peer.expect(GET).await;
        peer.say(OK).await;
        client.expect(OK).await;
        // Once for a connection: what comes later is a request, good or bad.
        client.say("\x16\x03 / HTTP/1.1\r\n\r\n").await;
        client.expect("HTTP/1.1 400 Bad Request\r\n").await;
        assert_eq!(rig.count(Count::DetectedHttp1), 1);
        assert_eq!((rig.count(Count::Opaque), rig.count(Count::Probes)), (0, 0));
        // By now the port is known: who is silent there has nothing to ask yet.
        let idle = rig.client().await;
        tokio::time::sleep(SILENT_FOR * 2).await;
        assert_eq!(rig.count(Count::Probes), 0);
        drop(idle);
    });
}

#[test]
fn what_is_no_http_passes_as_it_is() {
    run(async {
        let rig = detecting(Settings::default()).await;
        for first in [CLIENT_HELLO, b"PRIVMSG #a :b\r\n", b"\0\0\0\x01"] {
            let start = Instant::now();
            let mut client = rig.client().await;
            client.0.write_all(first).await.unwrap();
            let mut peer = rig.accept().await;
            expect_bytes(&mut peer, first).await;
            assert!(start.elapsed() < SILENT_FOR, "{:?}", start.elapsed());
            peer.say("answer").await;
            client.expect("answer").await;
            client.say("more").await;
            // Its end is passed on, and the other direction goes on.
            client.0.shutdown().await.unwrap();
            assert_eq!(peer.rest().await, "more");
            peer.say("last").await;
            drop(peer);
            assert_eq!(client.rest().await, "last");
        }
        assert_eq!(rig.count(Count::DetectedOpaque), 3);
        assert_eq!(rig.count(Count::Opaque), 3);
        assert!(
            rig.shard.pool.is_empty(),
            "nobody else may have such a connection"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(rig.shard.open(), 0);
        assert_eq!(rig.plan().backends[&rig.plan().default].under_way(0), 0);
    });
}

#[test]
fn a_server_that_speaks_first_is_heard_and_known_from_then_on() {
    run(async {
        let rig = detecting(Settings::default()).await;
        for attempt in 0..2 {
            let start = Instant::now();
            let mut client = rig.client().await;
            let mut peer = rig.accept().await;
            peer.say(GREETING).await;
            client.expect(GREETING).await;
            let waited = start.elapsed();
            match attempt {
                0 => assert!(waited >= SILENT_FOR, "{waited:?}"),
                _ => assert!(waited < SILENT_FOR, "{waited:?}"),
            }
            client.say("EHLO a\r\n").await;
            peer.expect("EHLO a\r\n").await;
            peer.say("250 a\r\n").await;
            client.expect("250 a\r\n").await;
            drop(peer);
            client.expect_end().await;
        }
        assert_eq!(rig.count(Count::ServerFirst), 2);
        // What was learnt is no verdict: a client that speaks is listened to.
        let mut client = rig.client().await;
        client.say(GET).await;
        let mut peer = rig.accept().await;
        peer.expect(GET).await;
        peer.say(OK).await;
        client.expect(OK).await;
        assert_eq!(rig.count(Count::DetectedHttp1), 1);
    });
}

#[test]
fn a_silent_client_may_speak_at_any_time() {
    run(async {
        let rig = detecting(Settings::default()).await;
        let mut client = rig.client().await;
        let mut asked = rig.accept().await;
        client.say(GET).await;
        // The server that was asked is not needed any more.
        asked.expect_end().await;
        let mut peer = rig.accept().await;
        peer.expect(GET).await;
        peer.say(OK).await;
        client.expect(OK).await;
        assert_eq!(rig.count(Count::Probes), 1);
        assert_eq!(rig.plan().backends[&rig.plan().default].under_way(0), 0);
    });
}

#[test]
fn one_byte_then_silence_is_passed_on() {
    run(async {
        let rig = detecting(Settings::default()).await;
        for start in ["G", "PRI", "SELECT 1"] {
            let since = Instant::now();
            let mut client = rig.client().await;
            client.say(start).await;
            let mut peer = rig.accept().await;
            peer.expect(start).await;
            assert!(since.elapsed() >= UNDECIDED_WITHIN);
            peer.say("?").await;
            client.expect("?").await;
        }
        assert_eq!(rig.count(Count::Undecided), 3);
        // And if it sends no more, at once.
        let mut client = rig.client().await;
        client.say("PING").await;
        client.0.shutdown().await.unwrap();
        let mut peer = rig.accept().await;
        assert_eq!(peer.rest().await, "PING");
        assert_eq!(rig.count(Count::Undecided), 3);
    });
}

#[test]
fn what_is_declared_opaque_is_dialed_at_once() {
    run(async {
        let rig = Rig::with(Settings::default(), 1).await;
        rig.shard.set_plan(unknown(&rig, Protocol::Opaque));
        let start = Instant::now();
        let mut client = rig.client().await;
        let mut peer = rig.accept().await;
        peer.say(GREETING).await;
        client.expect(GREETING).await;
        assert!(start.elapsed() < SILENT_FOR);
        client.say(GET).await;
        peer.expect(GET).await;
        // A reset of one end is the other's.
        peer.0.set_zero_linger().unwrap();
        drop(peer);
        client.expect_reset().await;
        let none = [Count::Probes, Count::DetectedHttp1, Count::DetectedOpaque];
        assert!(none.iter().all(|what| rig.count(*what) == 0));
    });
}

#[test]
fn rules_about_requests_let_nothing_else_pass() {
    run(async {
        let rig = Rig::with(Settings::default(), 1).await;
        let port = || {
            let inbound = Inbound {
                port: 80,
                protocol: Protocol::Detect,
                service: None,
                rate: Some(Rate {
                    requests: 100,
                    per: Duration::from_secs(1),
                    burst: 100,
                }),
                allow: None,
            };
            Some(Rc::new(Port::new(inbound, 1, None)))
        };
        rig.shard.set_plan(Plan {
            inbound: port(),
            ..unknown(&rig, Protocol::Opaque)
        });
        let mut client = rig.client().await;
        client.expect_reset().await;
        assert_eq!(rig.shard.counters.refused(Refusal::NotHttp), 1);
        assert_eq!(rig.count(Count::OpaqueRefused), 1);
        rig.shard.set_plan(Plan {
            inbound: port(),
            ..unknown(&rig, Protocol::Detect)
        });
        let mut client = rig.client().await;
        client.0.write_all(CLIENT_HELLO).await.unwrap();
        client.say("\r\n\r\n").await;
        client.expect("HTTP/1.1 400 Bad Request\r\n").await;
        let silent = rig.client().await;
        tokio::time::sleep(SILENT_FOR * 2).await;
        assert_eq!(rig.count(Count::Probes), 0);
        drop(silent);
        let mut client = rig.client().await;
        rig.exchange(&mut client).await;
    });
}

#[test]
fn an_opaque_connection_without_an_endpoint_or_a_byte_ends() {
    run(async {
        let settings = Settings {
            tunnel: Duration::from_millis(80),
            ..Settings::default()
        };
        let mut rig = detecting(settings).await;
        let mut client = rig.client().await;
        client.0.write_all(CLIENT_HELLO).await.unwrap();
        let mut peer = rig.accept().await;
        expect_bytes(&mut peer, CLIENT_HELLO).await;
        client.expect_end().await;
        assert_eq!(rig.count(Count::TunnelIdle), 1);
        rig.endpoints.clear();
        let mut client = rig.client().await;
        client.0.write_all(CLIENT_HELLO).await.unwrap();
        client.expect_reset().await;
        assert_eq!(rig.shard.counters.refused(Refusal::NoConnection), 1);
    });
}

#[test]
fn servers_are_asked_for_so_many_silent_clients_only() {
    run(async {
        let rig = detecting(Settings::default()).await;
        let mut silent = Vec::new();
        for _ in 0..PROBES + 5 {
            silent.push(rig.client().await);
        }
        tokio::time::sleep(SILENT_FOR * 3).await;
        assert_eq!(rig.count(Count::Probes), PROBES as u64);
        assert_eq!(rig.count(Count::ProbesFull), 5);
        // They are listened to all the same.
        let last = silent.last_mut().unwrap();
        last.0.write_all(CLIENT_HELLO).await.unwrap();
        last.say("more").await;
        for _ in 0..PROBES {
            rig.accept().await;
        }
        let mut peer = rig.accept().await;
        expect_bytes(&mut peer, CLIENT_HELLO).await;
        peer.expect("more").await;
        silent.clear();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let next = rig.client().await;
        tokio::time::sleep(SILENT_FOR * 2).await;
        // By then it is known that clients speak first.
        assert_eq!(rig.count(Count::Probes), PROBES as u64);
        drop(next);
    });
}

#[test]
fn an_opaque_upload_to_a_slow_reader_is_whole() {
    run(async {
        const SIZE: usize = 8 << 20;
        let rig = detecting(Settings::default()).await;
        let client = rig.client().await;
        let mut sent = CLIENT_HELLO.to_vec();
        sent.extend((0..SIZE).map(|i| ((i * 31) >> 3) as u8));
        let expected = sent.clone();
        let mut writer = client.0;
        let writing = tokio::task::spawn_local(async move {
            writer.write_all(&sent).await.unwrap();
            writer.shutdown().await.unwrap();
            let mut rest = Vec::new();
            writer.read_to_end(&mut rest).await.unwrap();
            rest
        });
        let mut peer = rig.accept().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        let mut got = Vec::new();
        peer.0.read_to_end(&mut got).await.unwrap();
        assert!(got == expected);
        peer.say("done").await;
        drop(peer);
        assert_eq!(writing.await.unwrap(), b"done");
    });
}
