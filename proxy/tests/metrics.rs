//! What is counted of requests is what clients saw, and of what is sent again each attempt at its
//! destination.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{rc::Rc, sync::Arc, time::Duration};

use tokio::net::TcpListener;
use underpass_api::report::{Direction, Labels, Method, Outcome, Report};
use underpass_l7::Refusal;
use underpass_mesh::snapshot::{Allow, Inbound, Protocol, Rate, Sources};
use underpass_proxy::{
    book::{Arrived, Side},
    connector::Connector,
    draft::Draft,
    forward,
    metrics::{Metrics, reporter::Reporter},
    shard::{Settings, Shard},
};

#[path = "support/rig.rs"]
#[allow(dead_code, reason = "each test file uses some of it")]
mod rig;

use rig::{GET, OK, Peer, run};

/// Of a series: requests, and how those that are over ended.
type Settled = (Direction, u64, Vec<(Outcome, u64)>);

/// `shop/web` dials `shop/api:80`, at which one endpoint answers.
struct Mesh {
    shard: Rc<Shard>,
    reporter: Reporter,
    endpoint: TcpListener,
    listener: TcpListener,
}

impl Mesh {
    /// `change` sees the snapshot as JSON before the worker does.
    async fn start(same_worker: bool, inbound: Option<Inbound>) -> Self {
        let endpoint = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = endpoint.local_addr().unwrap().port();
        let inbound = inbound.map(|i| Inbound { port, ..i });
        let snapshot = serde_json::json!({
            "format": 1, "version": 1, "tenant": "shop",
            "workloads": [
                {"name": "shop/web", "identity": "spiffe://m/ns/shop/sa/web", "addresses": ["10.0.0.1"], "inbound": []},
                {"name": "shop/api-1", "identity": "spiffe://m/ns/shop/sa/api", "addresses": ["127.0.0.1"],
                 "inbound": inbound.into_iter().collect::<Vec<_>>()},
            ],
            "services": [{"name": "shop/api", "port": 80, "addresses": ["10.9.0.1"], "protocol": "Http1", "routes": []}],
            "backends": [{"service": "shop/api", "port": 80, "protocol": "Http1", "endpoints": [
                {"address": "127.0.0.1", "port": port, "weight": 1, "workload": "shop/api-1",
                 "identity": "spiffe://m/ns/shop/sa/api", "same_worker": same_worker}]}],
        });
        let mut reporter = Reporter::default();
        let counters = Arc::default();
        let metrics = Metrics::new(Arc::clone(&counters), reporter.shard(Arc::clone(&counters)));
        let settings = Settings::default();
        let shard = Shard::reporting(settings, Connector::Own, counters, metrics);
        let snapshot = serde_json::from_value(snapshot).unwrap();
        shard.set_draft(&Draft::new(snapshot).unwrap());
        Self {
            shard,
            reporter,
            endpoint,
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        }
    }

    /// A connection of an application, as the kernel brings it to the worker.
    async fn client(&self, side: Side) -> Peer {
        let at = self.listener.local_addr().unwrap();
        let client = tokio::net::TcpStream::connect(at).await.unwrap();
        let (stream, _) = self.listener.accept().await.unwrap();
        let (name, original) = match side {
            Side::Outbound => ("shop/web", "10.9.0.1:80".parse().unwrap()),
            Side::Inbound => ("shop/api-1", self.endpoint.local_addr().unwrap()),
        };
        let arrived = Arrived {
            workload: self.shard.workload(side as u64, name),
            side,
            original,
            who: Default::default(),
        };
        forward::spawn(&self.shard, stream, arrived);
        Peer(client)
    }

    async fn accept(&self) -> Peer {
        Peer(self.endpoint.accept().await.unwrap().0)
    }

    /// Lets the worker's tasks end what they have begun.
    async fn report(&mut self) -> Report {
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.reporter.report(None)
    }

    fn settled(&mut self) -> Vec<Settled> {
        let report = self.reporter.report(None);
        let all = report.series.into_iter().map(|series| {
            let all = series
                .responses
                .iter()
                .map(|r| (r.outcome, r.latency.count()));
            (series.labels.direction, series.requests, all.collect())
        });
        all.collect()
    }
}

fn get(status: u16, code: u16) -> Outcome {
    Outcome {
        method: Method::Get,
        status,
        code,
        failure: underpass_api::report::is_failure(status, None),
        ..Outcome::default()
    }
}

fn inbound(rate: Option<Rate>, allow: Option<Vec<Allow>>) -> Inbound {
    Inbound {
        port: 0,
        protocol: Protocol::Http1,
        service: Some("shop/api".into()),
        rate,
        allow,
    }
}

#[test]
fn a_client_is_counted_as_it_saw_it() {
    run(async {
        let mut mesh = Mesh::start(false, None).await;
        let mut client = mesh.client(Side::Outbound).await;
        client.say(GET).await;
        let mut peer = mesh.accept().await;
        peer.expect(GET).await;
        assert_eq!(
            mesh.settled(),
            [(Direction::Outbound, 1, vec![])],
            "under way"
        );
        tokio::time::sleep(Duration::from_millis(15)).await;
        peer.say(OK).await;
        client.expect(OK).await;
        client.say(GET).await;
        peer.expect(GET).await;
        peer.say("HTTP/1.1 503 x\r\nContent-Length: 2\r\n\r\n")
            .await;
        client.expect("HTTP/1.1 503 x\r\n").await;
        tokio::time::sleep(Duration::from_millis(15)).await;
        peer.say("no").await;
        client.expect("Content-Length: 2\r\n\r\nno").await;
        // A head that is refused, too.
        client
            .say("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
            .await;
        client.rest().await;

        let report = mesh.report().await;
        let labels = |destination: &str, backend: &str| Labels {
            source: "shop/web".into(),
            destination: destination.into(),
            service: "shop/api:80".into(),
            backend: backend.into(),
            ..Labels::default()
        };
        let [refused, routed] = report.series.as_slice() else {
            panic!("{report:?}");
        };
        assert_eq!(refused.labels, labels("", ""));
        assert_eq!(
            refused.responses[0].outcome,
            get(400, Refusal::HostTwice.code())
        );
        assert_eq!(routed.labels, labels("shop/api-1", "shop/api:80"));
        assert_eq!((refused.requests, routed.requests), (1, 2));
        let [good, bad] = routed.responses.as_slice() else {
            panic!("{routed:?}");
        };
        assert_eq!((good.outcome, bad.outcome), (get(200, 0), get(503, 0)));
        // Latency ends with the head, duration with the body.
        assert!(good.latency.sum_ns >= 15_000_000, "{good:?}");
        assert!(
            bad.duration.sum_ns >= bad.latency.sum_ns + 15_000_000,
            "{bad:?}"
        );
        assert_eq!(report.counters["requests"], 2);
        assert_eq!(report.counters["refused_631"], 1);
    });
}

#[test]
fn who_gets_no_answer_is_a_failure() {
    run(async {
        let mut mesh = Mesh::start(false, None).await;
        // The client goes away.
        let mut client = mesh.client(Side::Outbound).await;
        client.say(GET).await;
        let mut peer = mesh.accept().await;
        peer.expect(GET).await;
        client.0.set_zero_linger().unwrap();
        drop((client, peer));
        // The endpoint does, in the middle of a response.
        let mut client = mesh.client(Side::Outbound).await;
        client.say(GET).await;
        let mut peer = mesh.accept().await;
        peer.expect(GET).await;
        peer.say("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nsome")
            .await;
        drop(peer);
        client.expect_cut("some").await;
        // And nobody listens.
        let at = mesh.endpoint.local_addr().unwrap();
        mesh.endpoint = TcpListener::bind("127.0.0.1:0").await.unwrap();
        assert_ne!(at, mesh.endpoint.local_addr().unwrap());
        let mut client = mesh.client(Side::Outbound).await;
        client.say(GET).await;
        client.expect("HTTP/1.1 503 Service Unavailable\r\n").await;

        mesh.report().await;
        let [(_, requests, outcomes)] = &mesh.settled()[..] else {
            panic!("one series");
        };
        let cut = Outcome {
            failure: true,
            ..get(200, Refusal::EndpointClosed.code())
        };
        let unanswered = get(503, Refusal::NoConnection.code());
        assert_eq!(*requests, 3);
        assert_eq!(outcomes, &[(get(0, 0), 1), (cut, 1), (unanswered, 1)]);
    });
}

#[test]
fn a_request_that_is_sent_again_is_one_at_its_source_and_two_at_its_destination() {
    run(async {
        let mut mesh = Mesh::start(true, Some(inbound(None, None))).await;
        let mut client = mesh.client(Side::Outbound).await;
        client.say(GET).await;
        let mut first = mesh.accept().await;
        first.expect(GET).await;
        first.say(OK).await;
        client.expect(OK).await;
        client.say(GET).await;
        first.expect(GET).await;
        drop(first);
        let mut second = mesh.accept().await;
        second.expect(GET).await;
        second.say(OK).await;
        client.expect(OK).await;
        let report = mesh.report().await;
        let inbound = report
            .series
            .iter()
            .find(|s| s.labels.direction == Direction::Inbound);
        let labels = &inbound.expect("there is one").labels;
        assert_eq!(
            (&*labels.source, &*labels.destination),
            ("shop/web", "shop/api-1")
        );
        assert_eq!(
            mesh.settled(),
            [
                (Direction::Outbound, 2, vec![(get(200, 0), 2)]),
                (
                    Direction::Inbound,
                    3,
                    vec![(get(0, 0), 1), (get(200, 0), 2)]
                ),
            ]
        );
    });
}

#[test]
fn what_protects_a_port_holds_for_whoever_comes() {
    run(async {
        let rate = Rate {
            requests: 1,
            per: Duration::from_secs(60),
            burst: 2,
        };
        let allow = Allow {
            policy: "shop/p".into(),
            sources: None,
            methods: vec!["GET".into()],
            paths: vec!["/a".into(), "/public/*".into()],
        };
        let mut mesh = Mesh::start(true, Some(inbound(Some(rate), Some(vec![allow])))).await;
        let forbidden = "HTTP/1.1 403 Forbidden\r\n";
        for side in [Side::Inbound, Side::Outbound] {
            let mut client = mesh.client(side).await;
            for bad in ["POST /a", "GET /", "GET /public/../b", "GET /A"] {
                client
                    .say(&format!("{bad} HTTP/1.1\r\nHost: shop\r\n\r\n"))
                    .await;
                client.expect(forbidden).await;
                client.rest_of_answer("NOT_ALLOWED").await;
            }
            // Both ways to the port share its limit.
            client.say(GET).await;
            let mut peer = mesh.accept().await;
            peer.expect(GET).await;
            peer.say(OK).await;
            client.expect(OK).await;
        }
        let mut client = mesh.client(Side::Inbound).await;
        client.say(GET).await;
        client.expect("HTTP/1.1 429 Too Many Requests\r\n").await;
        let rest = client.rest_of_answer("RATE_LIMITED").await;
        assert!(rest.contains("\r\nRetry-After: 60\r\n"), "{rest}");

        mesh.report().await;
        let all = mesh.settled();
        let sum = |direction, outcome| {
            let all = all.iter().filter(|(d, ..)| *d == direction);
            let all = all.flat_map(|(_, _, outcomes)| outcomes);
            let all = all.filter(|(o, _)| *o == outcome);
            all.map(|(_, count)| count).sum::<u64>()
        };
        let denied = get(403, Refusal::NotAllowed.code());
        let late = get(429, Refusal::RateLimited.code());
        use Direction::{Inbound as In, Outbound as Out};
        assert_eq!((sum(Out, get(200, 0)), sum(In, get(200, 0))), (1, 2));
        // Without the POSTs.
        assert_eq!((sum(Out, denied), sum(In, denied)), (3, 6));
        assert_eq!((sum(Out, late), sum(In, late)), (0, 1));
    });
}

#[test]
fn a_rule_that_names_its_sources_holds_in_one_hop_and_denies_whom_it_does_not_know() {
    run(async {
        let allow = Allow {
            policy: "shop/p".into(),
            sources: Some(Sources {
                identities: vec!["spiffe://m/ns/shop/sa/web".into()],
                ..Sources::default()
            }),
            methods: Vec::new(),
            paths: Vec::new(),
        };
        let mesh = Mesh::start(true, Some(inbound(None, Some(vec![allow])))).await;
        let mut client = mesh.client(Side::Outbound).await;
        client.say(GET).await;
        let mut peer = mesh.accept().await;
        peer.expect(GET).await;
        let mut stranger = mesh.client(Side::Inbound).await;
        stranger.say(GET).await;
        stranger.expect("HTTP/1.1 403 Forbidden\r\n").await;
        stranger.rest_of_answer("PEER_UNKNOWN").await;
    });
}
