//! HTTP/2 between peers that behave: what each of them sees.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "of tests, which fail there")]

use std::{collections::HashMap, future::poll_fn, rc::Rc};

use bytes::Bytes;
use h2::{Reason, ext::Protocol as Extended, server};
use http::{Method, Response};
use tokio::net::TcpListener;
use underpass_l7::Refusal;
use underpass_proxy::{
    counters::Count,
    plan::{Backend, Plan},
    shard::Settings,
};

#[path = "support/peers.rs"]
#[allow(dead_code, reason = "each test file uses some of it")]
mod peers;
#[path = "support/rig.rs"]
#[allow(dead_code, reason = "each test file uses some of it")]
mod rig;

use peers::{all, answer, client, endpoint, fields, get, grpc, ok, post, rig_of};
use rig::{Rig, run};

fn plain() -> server::Builder {
    server::Builder::new()
}

#[test]
fn streams_of_one_connection_go_to_different_endpoints() {
    run(async {
        let mut rig = Rig::with(Settings::default(), 2).await;
        let service = |name: &str, id: u64, listener: &TcpListener| {
            let backend = Backend::new(1, [(id, listener.local_addr().unwrap(), 1)]);
            ((name.into(), 80), Rc::new(backend))
        };
        let routes = rig::routes(&[("/a", "default/a"), ("/b", "default/b")], None);
        rig.shard.set_plan(Plan {
            routes: Some(routes.into()),
            backends: Rc::new(HashMap::from([
                service("default/a", 0, &rig.endpoints[0]),
                service("default/b", 1, &rig.endpoints[1]),
            ])),
            ..Plan::default()
        });
        let mut b = endpoint(rig.endpoints.remove(1), plain());
        let mut a = endpoint(rig.endpoints.remove(0), plain());
        let mut client = client(&rig).await;
        let to_b = client.send_request(get("//x/../b?q=1"), true).unwrap().0;
        let to_a = client.send_request(get("/a"), true).unwrap().0;
        let none = client.send_request(get("/c"), true).unwrap().0;
        let (request, mut respond) = a.next().await;
        assert_eq!(request.uri(), "http://shop/a");
        respond.send_response(ok(), true).unwrap();
        let (request, mut respond) = b.next().await;
        // In the form that was routed by.
        assert_eq!(request.uri(), "http://shop/b?q=1");
        respond.send_response(ok(), true).unwrap();
        assert_eq!(answer(to_a).await.0.status(), 200);
        assert_eq!(answer(to_b).await.0.status(), 200);
        let (response, text, _) = answer(none).await;
        assert_eq!(response.status(), 404);
        assert_eq!(text, format!("{}\n", Refusal::NoRoute).into_bytes());
        assert_eq!(rig.count(Count::H2Connections), 1);
        assert_eq!(rig.count(Count::Opened), 2);
    });
}

#[test]
fn heads_bodies_and_trailers_come_as_they_were() {
    run(async {
        let (rig, mut endpoint) = rig_of(plain()).await;
        let mut client = client(&rig).await;
        let mut request = grpc("/x.Y/Z");
        let sent = fields(&[
            ("cookie", "a=1"),
            ("cookie", "b=2"),
            ("host", "SHOP"),
            ("x-y", "z"),
        ]);
        request.headers_mut().extend(sent);
        let (response, mut body) = client.send_request(request, false).unwrap();
        body.send_data("hello".into(), false).unwrap();
        let (request, mut respond) = endpoint.next().await;
        let (parts, mut received) = request.into_parts();
        let expected = fields(&[
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
            ("x-y", "z"),
        ]);
        assert_eq!(parts.headers, expected);
        assert_eq!(received.data().await.unwrap().unwrap(), "hello");
        // A stream in both directions: nothing waits for an end.
        let mut head = ok();
        *head.headers_mut() = fields(&[("set-cookie", "a"), ("set-cookie", "b")]);
        let mut back = respond.send_response(head, false).unwrap();
        back.send_data("one".into(), false).unwrap();
        let (parts, mut from) = response.await.unwrap().into_parts();
        assert_eq!(
            parts.headers,
            fields(&[("set-cookie", "a"), ("set-cookie", "b")])
        );
        assert_eq!(from.data().await.unwrap().unwrap(), "one");
        body.send_data("more".into(), false).unwrap();
        assert_eq!(received.data().await.unwrap().unwrap(), "more");
        body.send_trailers(fields(&[("x-end", "1")])).unwrap();
        assert_eq!(
            all(&mut received).await.unwrap().1,
            Some(fields(&[("x-end", "1")]))
        );
        back.send_trailers(fields(&[("grpc-status", "0")])).unwrap();
        assert_eq!(
            all(&mut from).await.unwrap().1,
            Some(fields(&[("grpc-status", "0")]))
        );
    });
}

#[test]
fn the_end_of_a_stream_stays_where_it_was() {
    run(async {
        let (rig, mut endpoint) = rig_of(plain()).await;
        let mut client = client(&rig).await;
        let mut head = get("/");
        *head.method_mut() = Method::HEAD;
        let response = client.send_request(head, true).unwrap().0;
        let (request, mut respond) = endpoint.next().await;
        assert!(request.body().is_end_stream());
        let mut trailers_only = ok();
        *trailers_only.headers_mut() = fields(&[("content-length", "5")]);
        respond.send_response(trailers_only, true).unwrap();
        let response = response.await.unwrap();
        assert!(response.body().is_end_stream());
        assert_eq!(response.headers(), &fields(&[("content-length", "5")]));
    });
}

#[test]
fn interim_responses_pass() {
    run(async {
        let (rig, mut endpoint) = rig_of(plain()).await;
        let mut client = client(&rig).await;
        let mut request = post("/");
        *request.headers_mut() = fields(&[("expect", "100-continue")]);
        let (mut response, mut body) = client.send_request(request, false).unwrap();
        let (request, mut respond) = endpoint.next().await;
        assert_eq!(request.headers(), &fields(&[("expect", "100-continue")]));
        for status in [100, 103] {
            let interim = Response::builder().status(status).body(()).unwrap();
            respond.send_informational(interim).unwrap();
            let came = poll_fn(|cx| response.poll_informational(cx)).await;
            assert_eq!(came.unwrap().unwrap().status(), status);
        }
        body.send_data("x".into(), true).unwrap();
        assert_eq!(all(&mut request.into_body()).await.unwrap().0, b"x");
        respond.send_response(ok(), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
        assert_eq!(rig.count(Count::Interim), 2);
    });
}

#[test]
fn resets_pass_both_ways_with_their_codes() {
    run(async {
        let (rig, mut endpoint) = rig_of(plain()).await;
        let mut client = client(&rig).await;
        for reason in [Reason::CANCEL, Reason::INTERNAL_ERROR, Reason::from(77)] {
            // The client, before and after the response's head.
            for answered in [false, true] {
                let (response, mut body) = client.send_request(post("/"), false).unwrap();
                let (request, mut respond) = endpoint.next().await;
                let mut kept = None;
                if answered {
                    kept = Some(respond.send_response(ok(), false).unwrap());
                }
                let waiting = match answered {
                    true => Some(response.await.unwrap()),
                    false => None,
                };
                body.send_reset(reason);
                let seen = all(&mut request.into_body()).await.unwrap_err();
                assert_eq!(seen.reason(), Some(reason), "{seen}");
                drop((kept, waiting));
            }
            // The endpoint, before and after.
            let (response, _body) = client.send_request(post("/"), false).unwrap();
            let (_request, mut respond) = endpoint.next().await;
            respond.send_reset(reason);
            assert_eq!(response.await.unwrap_err().reason(), Some(reason));
            let (response, _body) = client.send_request(post("/"), false).unwrap();
            let (_request, mut respond) = endpoint.next().await;
            let mut back = respond.send_response(ok(), false).unwrap();
            let mut from = response.await.unwrap().into_body();
            back.send_reset(reason);
            assert_eq!(all(&mut from).await.unwrap_err().reason(), Some(reason));
        }
        assert_eq!(rig.count(Count::ClientGone), 6);
        assert_eq!(rig.count(Count::Truncated), 3);
        assert_eq!(rig.count(Count::Opened), 1);
    });
}

#[test]
fn an_early_response_ends_the_upload_without_an_error() {
    run(async {
        let (rig, mut endpoint) = rig_of(plain()).await;
        let mut client = client(&rig).await;
        let (response, mut body) = client.send_request(post("/"), false).unwrap();
        body.send_data("some".into(), false).unwrap();
        let (request, mut respond) = endpoint.next().await;
        let mut refusal = ok();
        *refusal.status_mut() = http::StatusCode::PAYLOAD_TOO_LARGE;
        respond.send_response(refusal, true).unwrap();
        drop((request, respond));
        let (response, _, _) = answer(response).await;
        assert_eq!(response.status(), 413);
        let reason = poll_fn(|cx| body.poll_reset(cx)).await.unwrap();
        assert_eq!(reason, Reason::NO_ERROR);
    });
}

#[test]
fn what_the_endpoint_does_not_read_the_client_cannot_send() {
    run(async {
        let (rig, mut endpoint) = rig_of(plain()).await;
        let mut client = client(&rig).await;
        let (response, mut body) = client.send_request(post("/"), false).unwrap();
        let (request, mut respond) = endpoint.next().await;
        let (mut sent, piece) = (0, Bytes::from(vec![7; 4096]));
        body.reserve_capacity(1 << 20);
        // Until no more fits: the windows of both hops, and what is between them.
        while let Ok(Some(Ok(_))) = tokio::time::timeout(
            std::time::Duration::from_millis(300),
            poll_fn(|cx| match body.capacity() {
                0 => body.poll_capacity(cx),
                room => std::task::Poll::Ready(Some(Ok(room))),
            }),
        )
        .await
        {
            let len = body.capacity().min(piece.len());
            body.send_data(piece.slice(..len), false).unwrap();
            body.reserve_capacity(1 << 20);
            sent += len;
            assert!(sent < 1 << 20, "endless");
        }
        assert!(
            (65_535..=65_535 * 2 + (64 << 10) + 4096).contains(&sent),
            "{sent}"
        );
        body.send_data(Bytes::new(), true).unwrap();
        let received = all(&mut request.into_body()).await.unwrap().0;
        assert_eq!(received.len(), sent);
        // The other way as well.
        let mut back = respond.send_response(ok(), false).unwrap();
        back.send_data(vec![9; 1 << 20].into(), true).unwrap();
        let response = response.await.unwrap();
        let mut from = response.into_body();
        assert_eq!(all(&mut from).await.unwrap().0.len(), 1 << 20);
    });
}

#[test]
fn tunnels_pass_when_they_are_granted() {
    run(async {
        let mut builder = plain();
        builder.enable_connect_protocol();
        let (rig, mut endpoint) = rig_of(builder).await;
        let mut client = client(&rig).await;
        // SETTINGS, of which the extended CONNECT is one, come first.
        answer_one(&mut client, &mut endpoint).await;
        let mut websocket = get("/chat");
        *websocket.method_mut() = Method::CONNECT;
        websocket
            .extensions_mut()
            .insert(Extended::from_static("websocket"));
        let mut plain = get("");
        *plain.method_mut() = Method::CONNECT;
        *plain.uri_mut() = "shop:80".parse().unwrap();
        for request in [websocket, plain] {
            let extended = request.extensions().get::<Extended>().cloned();
            let (response, mut body) = client.send_request(request, false).unwrap();
            body.send_data("early".into(), false).unwrap();
            let (request, mut respond) = endpoint.next().await;
            assert_eq!(request.extensions().get::<Extended>(), extended.as_ref());
            let mut received = request.into_body();
            // Not before it is granted.
            let early =
                tokio::time::timeout(std::time::Duration::from_millis(100), received.data());
            assert!(early.await.is_err());
            let mut back = respond.send_response(ok(), false).unwrap();
            assert_eq!(received.data().await.unwrap().unwrap(), "early");
            back.send_data("x".into(), true).unwrap();
            let mut from = response.await.unwrap().into_body();
            assert_eq!(all(&mut from).await.unwrap().0, b"x");
            // One direction has ended, the other has not.
            body.send_data("late".into(), true).unwrap();
            assert_eq!(all(&mut received).await.unwrap().0, b"late");
        }
        assert_eq!(rig.count(Count::Tunnels), 2);
    });
}

async fn answer_one(client: &mut h2::client::SendRequest<Bytes>, endpoint: &mut peers::Endpoint) {
    let response = client.send_request(get("/"), true).unwrap().0;
    endpoint.next().await.1.send_response(ok(), true).unwrap();
    assert_eq!(response.await.unwrap().status(), 200);
}

#[test]
fn an_endpoint_without_extended_connect_is_not_asked() {
    run(async {
        let (rig, _endpoint) = rig_of(plain()).await;
        let mut client = client(&rig).await;
        poll_fn(|cx| client.poll_ready(cx)).await.unwrap();
        while !client.is_extended_connect_protocol_enabled() {
            tokio::task::yield_now().await;
        }
        let mut websocket = get("/chat");
        *websocket.method_mut() = Method::CONNECT;
        websocket
            .extensions_mut()
            .insert(Extended::from_static("websocket"));
        let response = client.send_request(websocket, false).unwrap().0;
        assert_eq!(answer(response).await.0.status(), 501);
    });
}
