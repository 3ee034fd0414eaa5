//! gRPC: what its callers are told by us, deadlines, and requests that go once more.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "of tests, which fail there")]

use std::time::Duration;

use h2::{Reason, server};
use http::Response;
use tokio::time::Instant;
use underpass_proxy::{counters::Count, plan::Plan};

#[path = "support/peers.rs"]
#[allow(dead_code, reason = "each test file uses some of it")]
mod peers;
#[path = "support/rig.rs"]
#[allow(dead_code, reason = "each test file uses some of it")]
mod rig;

use peers::{all, answer, client, fields, get, grpc, ok, rig_of};
use rig::{Rig, run, run_paused};

fn plain() -> server::Builder {
    server::Builder::new()
}

/// Of trailers, in the head or not.
fn status(response: &Response<()>) -> &str {
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/grpc");
    response.headers()["grpc-status"].to_str().unwrap()
}

#[test]
fn our_refusals_are_statuses_of_grpc() {
    run(async {
        let (rig, _endpoint) = rig_of(plain()).await;
        let mut client = client(&rig).await;
        let at = rig::plan(&[rig.at]);
        // Nothing listens there.
        let gone = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let unreachable = rig::plan(&[gone]);
        let routed = Plan {
            routes: Some(rig::routes(&[("/x.Y/Known", "default/shop")], None).into()),
            ..at
        };
        for (plan, expected, code) in [
            (unreachable, "14", "UP0665 NO_CONNECTION"),
            (routed, "12", "UP0660 NO_ROUTE"),
            (rig::plan(&[]), "14", "NO_ENDPOINTS"),
        ] {
            rig.shard.set_plan(plan);
            let (response, _body) = client.send_request(grpc("/x.Y/Z"), false).unwrap();
            let response = answer(response).await.0;
            assert_eq!(status(&response), expected, "{response:?}");
            let message = response.headers()["grpc-message"].to_str().unwrap();
            assert!(message.contains(code), "{message}");
        }
        // Others have theirs as ever.
        let response = client.send_request(get("/"), true).unwrap().0;
        assert_eq!(answer(response).await.0.status(), 503);
    });
}

/// Until the deadline of a request with these two.
async fn deadline_of(caller: Option<&str>, route: Option<u64>) -> Duration {
    let (rig, mut endpoint) = rig_of(plain()).await;
    let seconds = route.map(Duration::from_secs);
    let plan = rig.plan();
    rig.shard.set_plan(Plan {
        routes: Some(rig::routes(&[("/x.Y/Z", "default/shop")], seconds).into()),
        default: plan.default.clone(),
        backends: plan.backends.clone(),
        ..Plan::default()
    });
    let mut client = client(&rig).await;
    let mut request = grpc("/x.Y/Z");
    if let Some(caller) = caller {
        request
            .headers_mut()
            .insert("grpc-timeout", caller.parse().unwrap());
    }
    let start = Instant::now();
    let (response, _body) = client.send_request(request, false).unwrap();
    let (request, _respond) = endpoint.next().await;
    // The endpoint is told too.
    let why = all(&mut request.into_body()).await.unwrap_err();
    assert_eq!(why.reason(), Some(Reason::CANCEL));
    assert_eq!(status(&answer(response).await.0), "4");
    assert_eq!(rig.count(Count::RequestTimeout), 1);
    start.elapsed()
}

#[test]
fn a_caller_s_deadline_is_respected_at_most_as_the_route_s() {
    run_paused(async {
        for (caller, route, expected) in [
            (Some("2S"), None, 2),
            (Some("2S"), Some(5), 2),
            (Some("8S"), Some(5), 5),
            (None, Some(5), 5),
        ] {
            let took = deadline_of(caller, route).await;
            let expected = Duration::from_secs(expected);
            let most = expected + Duration::from_secs(1);
            assert!(
                (expected..most).contains(&took),
                "{took:?}, expected {expected:?}"
            );
        }
    });
}

#[test]
fn a_stream_goes_on_for_hours_and_not_for_ever_without_a_byte() {
    run_paused(async {
        let (rig, mut endpoint) = rig_of(plain()).await;
        let mut client = client(&rig).await;
        let (response, mut body) = client.send_request(grpc("/x.Y/Z"), false).unwrap();
        let (request, mut respond) = endpoint.next().await;
        let mut received = request.into_body();
        let mut back = respond.send_response(ok(), false).unwrap();
        let mut from = response.await.unwrap().into_body();
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_secs(3000)).await;
            body.send_data("ping".into(), false).unwrap();
            assert_eq!(received.data().await.unwrap().unwrap(), "ping");
            received.flow_control().release_capacity(4).unwrap();
            tokio::time::sleep(Duration::from_secs(3000)).await;
            back.send_data("pong".into(), false).unwrap();
            assert_eq!(from.data().await.unwrap().unwrap(), "pong");
            from.flow_control().release_capacity(4).unwrap();
        }
        let start = Instant::now();
        let trailers = all(&mut from).await.unwrap().1.unwrap();
        assert_eq!(trailers["grpc-status"], "4");
        let (took, expected) = (start.elapsed(), underpass_proxy::h2::STREAM_IDLE);
        let most = expected + Duration::from_secs(60);
        assert!((expected..most).contains(&took), "{took:?}");
        assert_eq!(rig.count(Count::StreamIdle), 1);
        drop(back);
    });
}

#[test]
fn a_refused_stream_goes_once_more_with_its_body() {
    run(async {
        let (rig, mut endpoint) = rig_of(plain()).await;
        let mut client = client(&rig).await;
        let (response, mut body) = client.send_request(grpc("/x.Y/Z"), false).unwrap();
        body.send_data("hello".into(), false).unwrap();
        let (request, mut respond) = endpoint.next().await;
        let mut received = request.into_body();
        assert_eq!(received.data().await.unwrap().unwrap(), "hello");
        respond.send_reset(Reason::REFUSED_STREAM);
        let (request, mut respond) = endpoint.next().await;
        assert_eq!(request.uri().path(), "/x.Y/Z");
        body.send_data(" more".into(), true).unwrap();
        let whole = all(&mut request.into_body()).await.unwrap().0;
        assert_eq!(whole, b"hello more");
        let mut head = ok();
        *head.headers_mut() = fields(&[("grpc-status", "0")]);
        respond.send_response(head, true).unwrap();
        assert_eq!(answer(response).await.0.headers()["grpc-status"], "0");
        assert_eq!(rig.count(Count::Retried), 1);
        // Not a third time: the code is the client's to act on.
        let response = client.send_request(get("/"), true).unwrap().0;
        for _ in 0..2 {
            endpoint.next().await.1.send_reset(Reason::REFUSED_STREAM);
        }
        let why = response.await.unwrap_err();
        assert_eq!(why.reason(), Some(Reason::REFUSED_STREAM));
    });
}

#[test]
fn a_long_body_is_not_kept() {
    run(async {
        let (rig, mut endpoint) = rig_of(plain()).await;
        let mut client = client(&rig).await;
        let (response, mut body) = client.send_request(grpc("/x.Y/Z"), false).unwrap();
        let long = vec![1; underpass_proxy::h2::REPLAY_BYTES + 1];
        body.send_data(long.into(), false).unwrap();
        let (request, mut respond) = endpoint.next().await;
        let (mut received, mut len) = (request.into_body(), 0);
        while len <= underpass_proxy::h2::REPLAY_BYTES {
            let data = received.data().await.unwrap().unwrap();
            received
                .flow_control()
                .release_capacity(data.len())
                .unwrap();
            len += data.len();
        }
        respond.send_reset(Reason::REFUSED_STREAM);
        let why = response.await.unwrap_err();
        assert_eq!(why.reason(), Some(Reason::REFUSED_STREAM));
        assert_eq!(rig.count(Count::Retried), 0);
    });
}

#[test]
fn a_lost_connection_takes_its_streams_only() {
    run(async {
        let rig = Rig::start().await;
        let mut client = client(&rig).await;
        // One stream for each connection: that is how many the endpoint takes.
        let settings = [0, 3, 0, 0, 0, 1];
        let (first, _a) = client.send_request(grpc("/x.Y/A"), false).unwrap();
        let mut a = peers::Raw::endpoint(&rig.endpoints[0], &settings).await;
        a.expect(peers::HEADERS).await;
        let (second, _b) = client.send_request(grpc("/x.Y/B"), false).unwrap();
        let mut b = peers::Raw::endpoint(&rig.endpoints[0], &settings).await;
        b.expect(peers::HEADERS).await;
        drop(a);
        assert_eq!(status(&answer(first).await.0), "14");
        // 0x88 is `:status 200` in HPACK.
        let both = peers::END_HEADERS | peers::END_STREAM;
        b.frame(peers::HEADERS, both, 1, b"\x88").await;
        assert_eq!(second.await.unwrap().status(), 200);
        assert_eq!(rig.count(Count::Opened), 2);
    });
}
