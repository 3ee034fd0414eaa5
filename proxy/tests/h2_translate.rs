//! Between HTTP/1 and HTTP/2: what the other side is sent, byte for byte where it is HTTP/1.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "of tests, which fail there")]

use h2::{Reason, ext::Protocol as Extended, server};
use http::{Method, Response};
use underpass_mesh::snapshot::Protocol;
use underpass_proxy::counters::Count;

#[path = "support/peers.rs"]
#[allow(dead_code, reason = "each test file uses some of it")]
mod peers;
#[path = "support/rig.rs"]
#[allow(dead_code, reason = "each test file uses some of it")]
mod rig;

use peers::{Endpoint, all, answer, client, endpoint, fields, get, grpc, ok, post, speak};
use rig::{Rig, run};

/// Clients of HTTP/2, an endpoint of HTTP/1.
async fn to_h1() -> Rig {
    let rig = Rig::start().await;
    speak(&rig, Protocol::Http1);
    rig
}

/// Clients of HTTP/1, an endpoint of HTTP/2.
async fn to_h2() -> (Rig, Endpoint) {
    let mut rig = Rig::start().await;
    speak(&rig, Protocol::Http2);
    let endpoint = endpoint(rig.endpoints.remove(0), server::Builder::new());
    (rig, endpoint)
}

#[test]
fn a_request_for_http1() {
    run(async {
        let rig = to_h1().await;
        let mut client = client(&rig).await;
        let mut request = grpc("/a/./b?q");
        let sent = fields(&[("cookie", "a=1"), ("cookie", "b=2"), ("x-y", "z")]);
        request.headers_mut().extend(sent);
        let (response, mut body) = client.send_request(request, false).unwrap();
        body.send_data("hello".into(), false).unwrap();
        let mut peer = rig.accept().await;
        peer.expect(
            "POST /a/b?q HTTP/1.1\r\nhost: shop\r\ncontent-type: application/grpc\r\nx-y: z\r\n",
        )
        .await;
        peer.expect("cookie: a=1; b=2\r\nte: trailers\r\nconnection: te\r\n")
            .await;
        peer.expect("transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
            .await;
        body.send_trailers(fields(&[("x-end", "1"), ("content-length", "9")]))
            .unwrap();
        // What frames a message of HTTP/1 is no trailer of it.
        peer.expect("0\r\nx-end: 1\r\n\r\n").await;
        peer.say(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 Fine\r\nTransfer-Encoding: chunked\r\n",
        )
        .await;
        peer.say("Keep-Alive: timeout=5\r\nConnection: x-hop\r\nX-Hop: 1\r\nX-A: b\r\n\r\n")
            .await;
        peer.say("3\r\nabc\r\n0\r\nX-T: 1\r\nx-u: 2\r\n\r\n").await;
        let (response, bytes, trailers) = answer(response).await;
        assert_eq!(response.headers(), &fields(&[("x-a", "b")]));
        assert_eq!(bytes, b"abc");
        assert_eq!(trailers, Some(fields(&[("x-t", "1"), ("x-u", "2")])));
        // The connection is used again, and a length stays what it is.
        let mut request = post("/");
        *request.headers_mut() = fields(&[("content-length", "2")]);
        let (response, mut body) = client.send_request(request, false).unwrap();
        body.send_data("xy".into(), true).unwrap();
        peer.expect("POST / HTTP/1.1\r\nhost: shop\r\ncontent-length: 2\r\n\r\nxy")
            .await;
        peer.say("HTTP/1.1 204 No Content\r\n\r\n").await;
        let (response, bytes, _) = answer(response).await;
        assert_eq!((response.status().as_u16(), bytes.len()), (204, 0));
        assert_eq!(rig.count(Count::Reused), 1);
    });
}

#[test]
fn a_response_of_http1_that_is_cut_is_reset() {
    run(async {
        let rig = to_h1().await;
        let mut client = client(&rig).await;
        let response = client.send_request(get("/"), true).unwrap().0;
        let mut peer = rig.accept().await;
        peer.expect("GET / HTTP/1.1\r\nhost: shop\r\n\r\n").await;
        peer.say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab")
            .await;
        let mut body = response.await.unwrap().into_body();
        drop(peer);
        let why = all(&mut body).await.unwrap_err();
        assert_eq!(why.reason(), Some(Reason::INTERNAL_ERROR));
        assert_eq!(rig.count(Count::Truncated), 1);
        // The client's own stream, cut: the endpoint must not take it for whole.
        let (response, mut body) = client.send_request(post("/"), false).unwrap();
        body.send_data("x".into(), false).unwrap();
        let mut peer = rig.accept().await;
        peer.expect(
            "POST / HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n",
        )
        .await;
        body.send_reset(Reason::CANCEL);
        peer.expect_reset().await;
        drop(response);
    });
}

#[test]
fn a_websocket_of_http2_is_an_upgrade_of_http1() {
    run(async {
        let rig = to_h1().await;
        let mut client = client(&rig).await;
        while !client.is_extended_connect_protocol_enabled() {
            tokio::task::yield_now().await;
        }
        let mut websocket = get("/chat");
        *websocket.method_mut() = Method::CONNECT;
        websocket
            .extensions_mut()
            .insert(Extended::from_static("websocket"));
        websocket
            .headers_mut()
            .extend(fields(&[("sec-websocket-version", "13")]));
        let (response, mut body) = client.send_request(websocket, false).unwrap();
        let mut peer = rig.accept().await;
        peer.expect("GET /chat HTTP/1.1\r\nhost: shop\r\nsec-websocket-version: 13\r\n")
            .await;
        peer.expect("connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: ")
            .await;
        let mut key = [0; 28];
        tokio::io::AsyncReadExt::read_exact(&mut peer.0, &mut key)
            .await
            .unwrap();
        assert!(key.ends_with(b"==\r\n\r\n"), "{key:?}");
        peer.say("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n")
            .await;
        peer.say("Connection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\nhi")
            .await;
        let (parts, mut from) = response.await.unwrap().into_parts();
        assert_eq!((parts.status.as_u16(), parts.headers.len()), (200, 0));
        assert_eq!(from.data().await.unwrap().unwrap(), "hi");
        body.send_data("ho".into(), true).unwrap();
        peer.expect("ho").await;
        peer.expect_end().await;
        drop(peer);
        assert!(all(&mut from).await.unwrap().0.is_empty());
    });
}

#[test]
fn a_request_of_http1() {
    run(async {
        let (rig, mut endpoint) = to_h2().await;
        let mut client = rig.client().await;
        for round in 0..2 {
            client
                .say("POST //a HTTP/1.1\r\nHost: Shop:80\r\nConnection: x-hop, te\r\nX-Hop: 1\r\n")
                .await;
            client
                .say("TE: trailers\r\nTransfer-Encoding: chunked\r\nX-A: b\r\n\r\n5\r\nhel")
                .await;
            let (request, mut respond) = endpoint.next().await;
            let (parts, mut body) = request.into_parts();
            assert_eq!(
                (parts.method, parts.uri.to_string()),
                (Method::POST, "http://Shop:80/a".into())
            );
            assert_eq!(parts.headers, fields(&[("te", "trailers"), ("x-a", "b")]));
            client.say("lo\r\n0\r\nX-T: 1\r\n\r\n").await;
            let (bytes, trailers) = all(&mut body).await.unwrap();
            assert_eq!(
                (bytes, trailers),
                (b"hello".to_vec(), Some(fields(&[("x-t", "1")])))
            );
            let interim = Response::builder().status(103).body(()).unwrap();
            respond.send_informational(interim).unwrap();
            client.expect("HTTP/1.1 103 Early Hints\r\n\r\n").await;
            let mut head = ok();
            *head.headers_mut() = fields(&[("x-r", "s")]);
            let mut back = respond.send_response(head, false).unwrap();
            back.send_data("abc".into(), false).unwrap();
            back.send_trailers(fields(&[("grpc-status", "0")])).unwrap();
            client
                .expect("HTTP/1.1 200 OK\r\nx-r: s\r\ntransfer-encoding: chunked\r\n\r\n")
                .await;
            client
                .expect("3\r\nabc\r\n0\r\ngrpc-status: 0\r\n\r\n")
                .await;
            assert_eq!(rig.count(Count::Reused), round);
        }
        assert_eq!(rig.count(Count::Requests), 2);
        assert_eq!(rig.count(Count::Opened), 1);
        // No body at all, and a length.
        client.say("HEAD /h HTTP/1.1\r\nHost: shop\r\n\r\n").await;
        let (request, mut respond) = endpoint.next().await;
        assert!(request.body().is_end_stream());
        let mut head = ok();
        *head.headers_mut() = fields(&[("content-length", "7")]);
        respond.send_response(head, true).unwrap();
        client
            .expect("HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n")
            .await;
        client
            .say("GET /z HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n")
            .await;
        endpoint.next().await.1.send_response(ok(), true).unwrap();
        client
            .expect("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            .await;
        client.expect_end().await;
    });
}

#[test]
fn what_http2_cannot_do_a_client_of_http1_is_told() {
    run(async {
        let (rig, mut endpoint) = to_h2().await;
        let mut client = rig.client().await;
        client.say("GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await;
        let (_request, mut respond) = endpoint.next().await;
        respond.send_reset(Reason::INTERNAL_ERROR);
        client.expect("HTTP/1.1 502 Bad Gateway\r\n").await;
        assert!(client.rest().await.contains("ENDPOINT_CLOSED"));
        // A response that has begun is cut.
        let mut client = rig.client().await;
        client.say("GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await;
        let (_request, mut respond) = endpoint.next().await;
        let mut back = respond.send_response(ok(), false).unwrap();
        client
            .expect("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            .await;
        back.send_reset(Reason::CANCEL);
        client.expect_reset().await;
        // A client that goes: the endpoint hears of it.
        let mut client = rig.client().await;
        client
            .say("POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 9\r\n\r\nabc")
            .await;
        let (request, _respond) = endpoint.next().await;
        client.0.set_zero_linger().unwrap();
        drop(client);
        let why = all(&mut request.into_body()).await.unwrap_err();
        assert_eq!(why.reason(), Some(Reason::CANCEL));
    });
}

#[test]
fn an_endpoint_that_does_not_speak_http2_is_told_apart() {
    run(async {
        let rig = Rig::start().await;
        speak(&rig, Protocol::Http2);
        let mut client = rig.client().await;
        client.say("GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await;
        let mut peer = rig.accept().await;
        peer.say("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            .await;
        client.expect("HTTP/1.1 502 Bad Gateway\r\n").await;
        assert!(client.rest().await.contains("NOT_HTTP2"));
    });
}
