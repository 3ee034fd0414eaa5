//! Calls of gRPC are counted by what their trailers say, as their callers saw them.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{sync::Arc, time::Duration};

use h2::{Reason, server};
use underpass_api::report::{Direction, Outcome};
use underpass_l7::Refusal;
use underpass_proxy::{
    metrics::{Metrics, Scope, reporter::Reporter},
    plan::Plan,
};

#[path = "support/peers.rs"]
#[allow(dead_code, reason = "each test file uses some of it")]
mod peers;
#[path = "support/rig.rs"]
#[allow(dead_code, reason = "each test file uses some of it")]
mod rig;

use peers::{Asked, answer, client, endpoint, fields, get, grpc, ok};
use rig::{Rig, run};

/// What is counted of one request, that the endpoint answers like this as often as it is asked.
async fn counted(
    request: http::Request<()>,
    respond: impl Fn(usize, Asked) + 'static,
) -> (u64, Outcome) {
    let mut rig = Rig::start().await;
    let at = rig.endpoints[0].local_addr().unwrap();
    let mut asked = endpoint(rig.endpoints.remove(0), server::Builder::new());
    let mut reporter = Reporter::default();
    let counters = Arc::clone(&rig.shard.counters);
    let metrics = Metrics::new(Arc::clone(&counters), reporter.shard(counters));
    let source = "shop/web".into();
    rig.shard.set_plan(Plan {
        scope: Scope::new(metrics, Direction::Outbound, source, "shop/api:80".into()),
        ..rig::plan(&[at])
    });
    tokio::task::spawn_local(async move {
        let mut n = 0;
        loop {
            let next = asked.next().await;
            respond(n, next);
            n += 1;
        }
    });
    let mut client = client(&rig).await;
    let response = client.send_request(request, true).unwrap().0;
    if let Ok(response) = response.await {
        let _ = peers::all(&mut response.into_body()).await;
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    let report = reporter.report(None);
    let [series] = report.series.as_slice() else {
        panic!("{report:?}");
    };
    let [one] = series.responses.as_slice() else {
        panic!("{series:?}");
    };
    assert_eq!((one.latency.count(), one.duration.count()), (1, 1));
    (series.requests, one.outcome)
}

fn trailers(code: &'static str) -> impl Fn(usize, Asked) {
    move |_, (_, mut respond)| {
        let mut body = respond.send_response(ok(), false).unwrap();
        body.send_data("some".into(), false).unwrap();
        body.send_trailers(fields(&[("grpc-status", code)]))
            .unwrap();
    }
}

#[test]
fn trailers_say_how_a_call_ended() {
    run(async {
        for (code, grpc_code, failure) in [
            ("0", 0, false),
            ("5", 5, false),
            ("13", 13, true),
            ("x", 2, true),
        ] {
            let (requests, outcome) = counted(grpc("/x.Y/Z"), trailers(code)).await;
            assert_eq!((requests, outcome.status), (1, 200));
            assert_eq!(
                (outcome.grpc, outcome.failure),
                (Some(grpc_code), failure),
                "{code}"
            );
        }
        // Of others they say nothing.
        let (_, outcome) = counted(get("/"), trailers("13")).await;
        assert_eq!((outcome.grpc, outcome.failure), (None, false));
        // A head that has no more.
        let head = |_, (_, mut respond): Asked| {
            let mut head = ok();
            *head.headers_mut() = fields(&[("grpc-status", "14")]);
            respond.send_response(head, true).unwrap();
        };
        let (_, outcome) = counted(grpc("/x.Y/Z"), head).await;
        assert_eq!((outcome.grpc, outcome.failure), (Some(14), true));
        // And one that says nothing at all.
        let silent = |_, (_, mut respond): Asked| {
            respond.send_response(ok(), true).unwrap();
        };
        let (_, outcome) = counted(grpc("/x.Y/Z"), silent).await;
        assert_eq!((outcome.grpc, outcome.failure), (Some(2), true));
    });
}

#[test]
fn a_call_that_goes_once_more_is_one() {
    run(async {
        let twice = |n, (request, mut respond): Asked| match n {
            0 => respond.send_reset(Reason::REFUSED_STREAM),
            _ => trailers("0")(n, (request, respond)),
        };
        let (requests, outcome) = counted(grpc("/x.Y/Z"), twice).await;
        assert_eq!(
            (requests, outcome.grpc, outcome.failure),
            (1, Some(0), false)
        );
        // Its client sees the reset of the second.
        let never = |_, (_, mut respond): Asked| respond.send_reset(Reason::REFUSED_STREAM);
        let (requests, outcome) = counted(grpc("/x.Y/Z"), never).await;
        assert_eq!((requests, outcome.failure), (1, true));
    });
}

#[test]
fn what_is_cut_off_is_a_failure_with_a_code() {
    run(async {
        let cut = |_, (_, mut respond): Asked| {
            let mut body = respond.send_response(ok(), false).unwrap();
            body.send_data("some".into(), false).unwrap();
            body.send_reset(Reason::INTERNAL_ERROR);
        };
        for request in [get("/"), grpc("/x.Y/Z")] {
            let (_, outcome) = counted(request, cut).await;
            assert_eq!(outcome.code, Refusal::EndpointClosed.code());
            assert!(outcome.failure);
        }
        let unanswered = |_, (_, mut respond): Asked| respond.send_reset(Reason::INTERNAL_ERROR);
        let (_, outcome) = counted(get("/"), unanswered).await;
        assert_eq!((outcome.status, outcome.failure), (0, true));
    });
}

#[test]
fn what_we_say_of_a_call_is_what_is_counted() {
    run(async {
        let rig = Rig::start().await;
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = gone.local_addr().unwrap();
        drop(gone);
        let mut reporter = Reporter::default();
        let counters = Arc::clone(&rig.shard.counters);
        let metrics = Metrics::new(Arc::clone(&counters), reporter.shard(counters));
        let source = "shop/web".into();
        rig.shard.set_plan(Plan {
            scope: Scope::new(metrics, Direction::Outbound, source, "shop/api:80".into()),
            routes: Some(
                rig::routes(&[("/x.Y/Z", "default/shop"), ("/", "default/shop")], None).into(),
            ),
            ..rig::plan(&[at])
        });
        let mut client = client(&rig).await;
        let response = client.send_request(grpc("/x.Y/Z"), true).unwrap().0;
        assert_eq!(answer(response).await.0.headers()["grpc-status"], "14");
        let response = client.send_request(grpc("/no"), true).unwrap().0;
        assert_eq!(answer(response).await.0.headers()["grpc-status"], "12");
        let response = client.send_request(get("/"), true).unwrap().0;
        assert_eq!(answer(response).await.0.status(), 503);
        let report = reporter.report(None);
        let told = |r: &underpass_api::report::Responses| {
            let o = r.outcome;
            (o.status, o.grpc, o.code, o.failure)
        };
        let all = report.series.iter().flat_map(|s| &s.responses).map(told);
        let mut all: Vec<_> = all.collect();
        all.sort_unstable();
        let code = Refusal::NoConnection.code();
        // UNIMPLEMENTED is no failure.
        let routed = (200, Some(12), Refusal::NoRoute.code(), false);
        assert_eq!(
            all,
            [routed, (200, Some(14), code, true), (503, None, code, true)]
        );
    });
}
