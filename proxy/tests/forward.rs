//! The engine between mock peers: what each of them is sent, byte for byte.
#![forbid(unsafe_code)]

use std::{collections::HashMap, rc::Rc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use underpass_proxy::{
    counters::Count,
    plan::{Backend, Plan},
    shard::Settings,
};

#[path = "support/rig.rs"]
#[allow(dead_code, reason = "each test file uses some of it")]
mod rig;

use rig::{GET, OK, Rig, run};

#[test]
fn requests_of_one_connection_go_to_different_endpoints() {
    run(async {
        let rig = Rig::with(Settings::default(), 2).await;
        let service = |name: &str, id: u64, listener: &TcpListener| {
            let backend = Backend::new(1, [(id, listener.local_addr().unwrap(), 1)]);
            ((name.into(), 80), Rc::new(backend))
        };
        rig.shard.set_plan(Plan {
            routes: Some(rig::routes(&[("/a/b", "default/a"), ("/b", "default/b")], None).into()),
            backends: Rc::new(HashMap::from([
                service("default/a", 0, &rig.endpoints[0]),
                service("default/b", 1, &rig.endpoints[1]),
            ])),
            ..Plan::default()
        });
        let mut client = rig.client().await;
        let to_a = "GET /a/b?q HTTP/1.1\r\nhOST: shop\r\nX-a: 1\r\n\r\n";
        let to_b = "GET /b HTTP/1.1\r\nHost: shop\r\n\r\n";
        // Routed by its normal form, and forwarded in it.
        client.say(&to_a.replace("/a/b", "//a/./b")).await;
        let mut a = rig.accept().await;
        a.expect(to_a).await;
        a.say("HTTP/1.1 200 Fine thing\r\ncontent-LENGTH: 2\r\nKeep-Alive: timeout=5\r\n\r\nok")
            .await;
        client
            .expect("HTTP/1.1 200 Fine thing\r\ncontent-LENGTH: 2\r\n\r\nok")
            .await;
        client.say(to_b).await;
        let mut b = rig::Peer(rig.endpoints[1].accept().await.unwrap().0);
        b.expect(to_b).await;
        b.say(OK).await;
        client.expect(OK).await;
        // Both wait now, and are used again.
        for (request, peer) in [(to_a, &mut a), (to_b, &mut b)] {
            client.say(request).await;
            peer.expect(request).await;
            peer.say(OK).await;
            client.expect(OK).await;
        }
        assert_eq!(rig.count(Count::Opened), 2);
        assert_eq!(rig.count(Count::Reused), 2);
    });
}

#[test]
fn chunks_extensions_and_trailers_are_passed_on() {
    run(async {
        let rig = Rig::start().await;
        let mut client = rig.client().await;
        let head = "POST / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n";
        client.say(&format!("{head}\r\n3;a=b\r\nabc\r\n")).await;
        let mut peer = rig.accept().await;
        peer.expect(&format!("{head}\r\n3;a=b\r\nabc\r\n")).await;
        // Half a line waits for its other half.
        client.say("1;x").await;
        peer.expect_nothing().await;
        client.say("\r\nd\r\n0\r\nX-Sum: 1\r\n\r\n").await;
        peer.expect("1;x\r\nd\r\n0\r\nX-Sum: 1\r\n\r\n").await;
        let response = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n2\r\nok\r\n0\r\nX: y\r\n\r\n";
        peer.say(response).await;
        client.expect(response).await;
        client.say(GET).await;
        peer.expect(GET).await;
    });
}

#[test]
fn continue_comes_from_the_endpoint() {
    run(async {
        let rig = Rig::start().await;
        let mut client = rig.client().await;
        let head =
            "PUT / HTTP/1.1\r\nHost: shop\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n";
        client.say(head).await;
        let mut peer = rig.accept().await;
        peer.expect(head).await;
        client.expect_nothing().await;
        peer.say("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
            .await;
        client
            .expect("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
            .await;
        peer.say("HTTP/1.1 100 Continue\r\n\r\n").await;
        client.expect("HTTP/1.1 100 Continue\r\n\r\n").await;
        client.say("abc").await;
        peer.expect("abc").await;
        peer.say("HTTP/1.1 102 Wait\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            .await;
        client
            .expect("HTTP/1.1 102 Wait\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            .await;
        assert_eq!(rig.count(Count::Interim), 3);
        assert_eq!(rig.count(Count::Responses), 1);
    });
}

#[test]
fn an_early_response_is_not_lost() {
    run(async {
        let rig = Rig::start().await;
        let mut client = rig.client().await;
        client
            .say("POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 1000000\r\n\r\nabc")
            .await;
        let mut peer = rig.accept().await;
        peer.expect("POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 1000000\r\n\r\nabc")
            .await;
        peer.say("HTTP/1.1 413 No\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno")
            .await;
        drop(peer);
        client
            .expect("HTTP/1.1 413 No\r\nContent-Length: 2\r\n")
            .await;
        // The client sends on before it reads; a reset would be an error of its next write.
        for _ in 0..3 {
            let sent = client.0.write_all(&[b'x'; 100_000]).await;
            assert!(sent.is_ok(), "{sent:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        client.expect("\r\nno").await;
        client.expect_end().await;
    });
}

#[test]
fn an_early_response_over_a_kept_connection_lets_the_rest_pass() {
    run(async {
        let rig = Rig::start().await;
        let mut client = rig.client().await;
        client
            .say("POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 6\r\n\r\nabc")
            .await;
        let mut peer = rig.accept().await;
        peer.expect("POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 6\r\n\r\nabc")
            .await;
        peer.say(OK).await;
        client.expect(OK).await;
        client.say(&format!("def{GET}")).await;
        peer.expect(&format!("def{GET}")).await;
        assert_eq!(rig.count(Count::Reused), 1);
    });
}

#[test]
fn responses_without_a_body_have_none() {
    run(async {
        let rig = Rig::start().await;
        let mut client = rig.client().await;
        client.say("HEAD /a HTTP/1.1\r\nHost: shop\r\n\r\n").await;
        let mut peer = rig.accept().await;
        peer.expect("HEAD /a HTTP/1.1\r\nHost: shop\r\n\r\n").await;
        peer.say(&OK[..OK.len() - 2]).await;
        client.expect(&OK[..OK.len() - 2]).await;
        for (response, seen) in [
            (
                "HTTP/1.1 304 Same\r\nContent-Length: 99\r\n\r\n",
                "HTTP/1.1 304 Same\r\nContent-Length: 99\r\n\r\n",
            ),
            (
                "HTTP/1.1 204 None\r\nContent-Length: 99\r\n\r\n",
                "HTTP/1.1 204 None\r\n\r\n",
            ),
            (OK, OK),
        ] {
            client.say(GET).await;
            peer.expect(GET).await;
            peer.say(response).await;
            client.expect(seen).await;
        }
    });
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    run(async {
        let rig = Rig::start().await;
        let mut client = rig.client().await;
        client
            .say(&format!("{GET}{}{GET}", GET.replace("/a", "/b")))
            .await;
        let mut peer = rig.accept().await;
        peer.expect(GET).await;
        peer.expect_nothing().await;
        peer.say(OK).await;
        peer.expect(&GET.replace("/a", "/b")).await;
        peer.say(OK).await;
        peer.expect(GET).await;
        peer.say(OK).await;
        client.expect(&OK.repeat(3)).await;
    });
}

#[test]
fn http_1_0_gets_what_it_understands() {
    run(async {
        let rig = Rig::start().await;
        let mut client = rig.client().await;
        client
            .say("GET http://other:81/a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            .await;
        let mut peer = rig.accept().await;
        peer.expect("GET /a HTTP/1.1\r\nHost: other:81\r\n\r\n")
            .await;
        peer.say("HTTP/1.1 100 Continue\r\n\r\n").await;
        peer.say(OK).await;
        client
            .expect("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok")
            .await;
        // Nobody names a host.
        client
            .say("GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            .await;
        peer.expect("GET /a HTTP/1.1\r\nHost: shop\r\n\r\n").await;
        peer.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
            .await;
        client
            .expect("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc")
            .await;
        peer.say("2;x\r\nde\r\n0\r\nX: y\r\n\r\n").await;
        assert_eq!(client.rest().await, "de");
        // The endpoint's connection is none the worse.
        let mut client = rig.client().await;
        client.say("GET /a HTTP/1.0\r\n\r\n").await;
        peer.expect("GET /a HTTP/1.1\r\nHost: shop\r\n\r\n").await;
        peer.say(OK).await;
        assert_eq!(
            client.rest().await,
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
        );
    });
}

#[test]
fn a_body_until_the_end_ends_both() {
    run(async {
        let rig = Rig::start().await;
        let mut client = rig.client().await;
        let mut peer = rig.ask(&mut client).await;
        peer.say("HTTP/1.0 200 OK\r\n\r\nsome").await;
        client
            .expect("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nsome")
            .await;
        peer.say("thing").await;
        drop(peer);
        assert_eq!(client.rest().await, "thing");
    });
}

/// 64 MiB to a client that does not read: the endpoint is held back, and then all of it comes.
#[test]
fn a_slow_reader_holds_its_endpoint_back() {
    run(async {
        const SIZE: usize = 64 << 20;
        let rig = Rig::start().await;
        let mut client = rig.client().await;
        let mut peer = rig.ask(&mut client).await;
        peer.say(&format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"
        ))
        .await;
        let sent = std::rc::Rc::new(std::cell::Cell::new(0));
        let counted = sent.clone();
        let sender = tokio::task::spawn_local(async move {
            let piece = vec![b'x'; 1 << 16];
            while counted.get() < SIZE {
                peer.0.write_all(&piece).await.unwrap();
                counted.set(counted.get() + piece.len());
            }
        });
        let mut before = usize::MAX;
        while sent.get() != before {
            before = sent.get();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        // The kernel's buffers of two connections hold most of it.
        assert!(before < SIZE / 2, "{before}");
        client
            .expect(&format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"
            ))
            .await;
        let mut body = vec![0; SIZE];
        client.0.read_exact(&mut body).await.unwrap();
        assert!(body.iter().all(|b| *b == b'x'));
        sender.await.unwrap();
    });
}
