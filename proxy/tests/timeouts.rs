//! Each wait ends, after its time and not before. Time is tokio's, which jumps when there is nothing to do.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "of tests, which fail there")]

use std::time::Duration;

use tokio::{io::AsyncWriteExt as _, time::Instant};
use underpass_l7::Refusal;
use underpass_proxy::{counters::Count, plan::Plan, shard::Settings};

#[path = "support/rig.rs"]
#[allow(dead_code, reason = "each test file uses some of it")]
mod rig;

use rig::{GET, Rig, run_paused};

const POST: &str = "POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 9\r\n\r\nabc";

/// It took so long, and some more for what happens at its end.
fn assert_took(start: Instant, expected: Duration) {
    let took = start.elapsed();
    let most = expected + Duration::from_secs(3);
    assert!(
        (expected..most).contains(&took),
        "{took:?}, expected {expected:?}"
    );
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    run_paused(async {
        let rig = Rig::start().await;
        let mut client = rig.client().await;
        let start = Instant::now();
        client.expect_end().await;
        assert_took(start, Settings::default().idle);
        assert_eq!(rig.count(Count::IdleTimeout), 1);
    });
}

#[test]
fn a_head_has_its_time_from_the_first_byte() {
    run_paused(async {
        let rig = Rig::start().await;
        let mut client = rig.client().await;
        tokio::time::sleep(Duration::from_secs(100)).await;
        let start = Instant::now();
        for piece in ["GET / HTTP/1.1\r\n", "Host: a\r\n", "X: y\r\n"] {
            client.say(piece).await;
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert_took(start, Settings::default().head);
        assert_eq!(rig.shard.counters.refused(Refusal::HeadTimeout), 1);
    });
}

#[test]
fn a_body_may_be_slow_but_not_stop() {
    run_paused(async {
        let rig = Rig::start().await;
        let mut client = rig.client().await;
        client.say(POST).await;
        let mut peer = rig.accept().await;
        peer.expect(POST).await;
        tokio::time::sleep(Settings::default().body - Duration::from_secs(1)).await;
        client.say("d").await;
        peer.expect("d").await;
        let start = Instant::now();
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert_took(start, Settings::default().body);
        peer.expect_end().await;
        assert_eq!(rig.count(Count::BodyTimeout), 1);
    });
}

#[test]
fn a_response_that_stops_is_cut() {
    run_paused(async {
        let rig = Rig::start().await;
        let mut client = rig.client().await;
        let mut peer = rig.ask(&mut client).await;
        // Its head may take for ever.
        tokio::time::sleep(Duration::from_secs(1_000_000)).await;
        peer.say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
            .await;
        client
            .expect("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
            .await;
        let start = Instant::now();
        client.expect_reset().await;
        assert_took(start, Settings::default().response);
        assert_eq!(rig.count(Count::ResponseStalled), 1);
    });
}

#[test]
fn who_does_not_read_is_cut_off() {
    run_paused(async {
        let rig = Rig::start().await;
        let client = rig.client().await;
        let mut client = client;
        let mut peer = rig.ask(&mut client).await;
        peer.say("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
            .await;
        let start = Instant::now();
        // Until the proxy closes, since nobody reads.
        let sent = peer.0.write_all(&vec![b'x'; 100_000_000]).await;
        assert!(sent.is_err());
        assert_took(start, Settings::default().write);
        assert_eq!(rig.count(Count::SlowClient), 1);

        let mut client = rig.client().await;
        client
            .say("POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 100000000\r\n\r\n")
            .await;
        let _peer = rig.accept().await;
        let start = Instant::now();
        let sent = client.0.write_all(&vec![b'x'; 100_000_000]).await;
        assert!(sent.is_err());
        assert_took(start, Settings::default().write);
        assert_eq!(rig.count(Count::SlowEndpoint), 1);
    });
}

#[test]
fn the_route_bounds_a_request() {
    run_paused(async {
        let rig = Rig::start().await;
        let timeout = Duration::from_secs(7);
        let plan = rig.plan();
        rig.shard.set_plan(Plan {
            authority: plan.authority.clone(),
            routes: Some(rig::routes(&[("/a", "default/shop")], Some(timeout)).into()),
            default: plan.default.clone(),
            backends: plan.backends.clone(),
            ..Plan::default()
        });
        let mut client = rig.client().await;
        let start = Instant::now();
        let mut peer = rig.ask(&mut client).await;
        client.expect("HTTP/1.1 504 Gateway Timeout\r\n").await;
        assert_took(start, timeout);
        let (_, text) = client_body(&mut client).await;
        assert!(text.contains("UP0664 REQUEST_TIMEOUT"), "{text}");
        peer.expect_end().await;
        // The client's connection is as good as before; no rule is for this path.
        client.say(&GET.replace("/a", "/b")).await;
        client.expect("HTTP/1.1 404 Not Found\r\n").await;
        assert_eq!(rig.count(Count::RequestTimeout), 1);
        assert!(rig.plan().backends.values().all(|b| b.under_way(0) == 0));
    });
}

/// Head and body of our own answer.
async fn client_body(client: &mut rig::Peer) -> (String, String) {
    let text = format!("{}\n", Refusal::RequestTimeout);
    let head = format!(
        "Content-Type: text/plain\r\nContent-Length: {}\r\n\r\n",
        text.len()
    );
    client.expect(&head).await;
    client.expect(&text).await;
    (head, text)
}

#[test]
fn an_endpoint_that_does_not_answer_to_syn_is_given_up() {
    run_paused(async {
        let rig = Rig::start().await;
        // A network for documentation (RFC 5737): either nothing answers, or there is no route.
        let nowhere = "192.0.2.1:9".parse().unwrap();
        rig.shard.set_plan(rig::plan(&[nowhere]));
        let mut client = rig.client().await;
        let start = Instant::now();
        client.say(GET).await;
        client.expect("HTTP/1.1 503 Service Unavailable\r\n").await;
        assert!(start.elapsed() <= Settings::default().connect + Duration::from_secs(1));
    });
}

#[test]
fn waiting_connections_to_endpoints_are_closed() {
    run_paused(async {
        let rig = Rig::start().await;
        let shard = rig.shard.clone();
        tokio::task::spawn_local(async move { shard.sweep().await });
        let mut client = rig.client().await;
        let mut peer = rig.ask(&mut client).await;
        let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        peer.say(ok).await;
        client.expect(ok).await;
        assert_eq!(rig.shard.pool.len(), 1);
        let start = Instant::now();
        peer.expect_end().await;
        assert!(start.elapsed() >= underpass_proxy::pool::IDLE_FOR);
        assert_eq!(rig.count(Count::Dropped), 1);
    });
}

#[test]
fn so_many_connections_and_no_more() {
    run_paused(async {
        let settings = Settings {
            connections: 1,
            ..Settings::default()
        };
        let rig = Rig::with(settings, 1).await;
        let client = rig.client().await;
        rig.client().await.expect_end().await;
        assert_eq!(rig.count(Count::NoRoom), 1);
        drop(client);
        tokio::time::sleep(Duration::from_millis(1)).await;
        let mut client = rig.client().await;
        client.say(GET).await;
        rig.accept().await.expect(GET).await;
    });
}
