//! The engine between mock peers when something goes wrong: what each of them is told.
#![forbid(unsafe_code)]

use tokio::io::AsyncWriteExt as _;
use underpass_l7::Refusal;
use underpass_proxy::counters::Count;

#[path = "support/rig.rs"]
#[allow(dead_code, reason = "each test file uses some of it")]
mod rig;

use rig::{GET, OK, Rig, run};

#[test]
fn a_response_that_is_cut_ends_with_a_reset() {
    run(async {
        for head in ["Content-Length: 9", "Transfer-Encoding: chunked"] {
            let rig = Rig::start().await;
            let mut client = rig.client().await;
            let mut peer = rig.ask(&mut client).await;
            peer.say(&format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n1\r\n"))
                .await;
            client
                .expect(&format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n1\r\n"))
                .await;
            drop(peer);
            client.expect_reset().await;
            assert_eq!(rig.count(Count::Truncated), 1);
        }
    });
}

#[test]
fn a_waiting_connection_that_failed_is_tried_once_more() {
    run(async {
        let rig = Rig::start().await;
        let mut client = rig.client().await;
        let mut peer = rig.exchange(&mut client).await;
        // It ends only when the next request comes.
        client.say(GET).await;
        peer.expect(GET).await;
        drop(peer);
        let mut peer = rig.accept().await;
        peer.expect(GET).await;
        assert_eq!(rig.count(Count::Retried), 1);
        // A new connection is no waiting one.
        drop(peer);
        client.expect("HTTP/1.1 502 Bad Gateway\r\n").await;
        assert_eq!(rig.count(Count::Retried), 1);
        assert_eq!(rig.shard.counters.refused(Refusal::EndpointClosed), 1);
        assert_eq!(rig.plan().backends.values().next().unwrap().under_way(0), 0);
    });
}

#[test]
fn what_might_act_twice_is_not_repeated() {
    run(async {
        let rig = Rig::start().await;
        let mut client = rig.client().await;
        let mut peer = rig.exchange(&mut client).await;
        let post = "POST /a HTTP/1.1\r\nHost: shop\r\nContent-Length: 1\r\n\r\nx";
        client.say(post).await;
        peer.expect(post).await;
        drop(peer);
        client.expect("HTTP/1.1 502 Bad Gateway\r\n").await;
        assert_eq!(rig.count(Count::Retried), 0);
    });
}

#[test]
fn a_connection_with_bytes_nobody_asked_for_is_not_used_again() {
    run(async {
        let rig = Rig::start().await;
        let mut client = rig.client().await;
        for response in [format!("{OK}{OK}"), OK.to_owned()] {
            let mut peer = rig.ask(&mut client).await;
            peer.say(&response).await;
            client.expect(OK).await;
            // Late ones are found when it would be used again.
            let _ = peer.0.write_all(OK.as_bytes()).await;
            client.expect_nothing().await;
        }
        client.say(GET).await;
        rig.accept().await.expect(GET).await;
        assert_eq!(rig.count(Count::Reused), 0);
        assert_eq!(rig.count(Count::Stale), 1);
    });
}

#[test]
fn what_is_refused_reaches_no_endpoint() {
    run(async {
        let rig = Rig::start().await;
        let mut client = rig.client().await;
        client.say("GET / HTTP/1.1\r\nHost: shop\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        let answer = client.rest().await;
        assert!(
            answer.starts_with("HTTP/1.1 400 Bad Request\r\n"),
            "{answer}"
        );
        assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
        assert!(answer.contains("UP0642 LENGTH_AND_CODING"), "{answer}");
        assert_eq!(rig.shard.counters.refused(Refusal::LengthAndCoding), 1);
        assert_eq!(rig.count(Count::Opened), 0);
        // As a response the same becomes 502.
        let mut client = rig.client().await;
        let mut peer = rig.ask(&mut client).await;
        peer.say("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await;
        client.expect("HTTP/1.1 502 Bad Gateway\r\n").await;
        assert_eq!(rig.shard.counters.refused(Refusal::LengthAndCoding), 2);
    });
}

#[test]
fn a_body_that_turns_out_bad_is_not_passed_on() {
    run(async {
        let rig = Rig::start().await;
        let mut client = rig.client().await;
        let head = "POST / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n";
        client.say(head).await;
        let mut peer = rig.accept().await;
        peer.expect(head).await;
        client.say("0x1\r\n").await;
        peer.expect_end().await;
        let answer = client.rest().await;
        assert!(answer.contains("UP0649 BAD_CHUNK"), "{answer}");
    });
}

#[test]
fn without_an_endpoint_the_connection_stays() {
    run(async {
        let mut rig = Rig::start().await;
        rig.endpoints.clear();
        let mut client = rig.client().await;
        for _ in 0..2 {
            client.say(GET).await;
            client.expect("HTTP/1.1 503 Service Unavailable\r\n").await;
            let text = format!("{}\n", Refusal::NoConnection);
            client
                .expect(&format!(
                    "Content-Type: text/plain\r\nContent-Length: {}\r\n\r\n{text}",
                    text.len()
                ))
                .await;
        }
    });
}

#[test]
fn a_client_that_leaves_takes_its_request_along() {
    run(async {
        let rig = Rig::start().await;
        let mut client = rig.client().await;
        client
            .say("POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 9\r\n\r\nabc")
            .await;
        let mut peer = rig.accept().await;
        peer.expect("POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 9\r\n\r\nabc")
            .await;
        drop(client);
        peer.expect_end().await;
        assert_eq!(rig.count(Count::ClientGone), 1);
        assert_eq!(rig.shard.open(), 0);
        // One that only says that it will send no more gets its response.
        let mut client = rig.client().await;
        client.say(GET).await;
        client.0.shutdown().await.unwrap();
        let mut peer = rig.accept().await;
        peer.expect(GET).await;
        peer.say(OK).await;
        assert_eq!(
            client.rest().await,
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
        );
    });
}
