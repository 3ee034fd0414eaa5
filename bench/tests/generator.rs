//! Client and server as processes of their own, without a lab: they count the same, and an error is
//! told, not averaged away.
#![forbid(unsafe_code)]

use std::{
    net::{Ipv4Addr, TcpListener},
    path::Path,
    time::Duration,
};

use underpass_bench::{
    generator::{
        Kind, Load, Order, Targets, now,
        protocol::{Answer, Command},
    },
    lab::Place,
    party::Party,
};

fn party(role: &[&str]) -> Party {
    let program = Path::new(env!("CARGO_BIN_EXE_underpass-bench"));
    Party::start_program(program, role[role.len() - 1], role, &Place::default())
        .expect("a party starts")
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("a bound port").port()
}

/// 20 addresses, all of which the server's wildcard listener answers.
fn load(port: u16, kind: Kind, concurrency: u32) -> Load {
    let targets = Targets {
        base: Ipv4Addr::new(127, 77, 0, 250),
        count: 20,
        port,
    };
    Load {
        kind,
        concurrency,
        targets,
        order: Order::Sequential,
        seconds: 10.0,
        operations: 500,
    }
}

#[test]
fn client_and_server_count_the_same() {
    let port = free_port();
    let mut server = party(&["--port", &port.to_string(), "server"]);
    let mut client = party(&["client"]);
    for (kind, concurrency, connections) in [
        (Kind::Connect, 1, 500),
        (Kind::Connect, 16, 500),
        (Kind::Request, 1, 1),
        (Kind::Request, 16, 16),
    ] {
        server.tally(kind == Kind::Connect).unwrap();
        let outcome = client.run(&load(port, kind, concurrency)).unwrap();
        let counted = server.count().unwrap();
        assert_eq!(
            (outcome.operations, outcome.errors),
            (500, 0),
            "{:?}",
            outcome.first_error
        );
        assert_eq!(
            (outcome.connections, counted.connections),
            (connections, connections)
        );
        assert_eq!(counted.requests, 500);
        assert_eq!(
            counted.addresses,
            if kind == Kind::Connect { 20 } else { 0 }
        );
        let latency = &outcome.latency;
        assert!(latency.p50 > 0 && latency.p50 <= latency.p99 && latency.p99 <= latency.max);
    }
}

#[test]
fn a_run_ends_in_time() {
    let port = free_port();
    let _server = party(&["--port", &port.to_string(), "server"]);
    let mut client = party(&["client"]);
    let load = Load {
        seconds: 0.2,
        operations: u64::MAX,
        ..load(port, Kind::Request, 4)
    };
    let outcome = client.run(&load).unwrap();
    assert!((0.2..2.0).contains(&outcome.seconds), "{}", outcome.seconds);
}

#[test]
fn a_refused_connect_is_an_error_and_ends_the_run() {
    let mut client = party(&["client"]);
    for concurrency in [1, 16] {
        let outcome = client
            .run(&load(free_port(), Kind::Connect, concurrency))
            .unwrap();
        assert_eq!(outcome.operations, 0);
        assert!((100..120).contains(&outcome.errors), "{}", outcome.errors);
        assert!(outcome.first_error.unwrap().contains("refused"));
    }
}

#[test]
fn watching_tells_when_an_address_first_answered() {
    let port = free_port();
    let mut server = party(&["--port", &port.to_string(), "server"]);
    server.tally(true).unwrap();
    let mut client = party(&["client"]);
    let wanted = Ipv4Addr::new(127, 77, 1, 1);
    let target = std::net::SocketAddrV4::new(wanted, port);
    let begin = now().as_nanos() as u64;
    let watch = Command::Watch {
        target,
        wanted,
        seconds: 1.0,
        rest_us: 0,
    };
    match client.ask(&watch, Duration::from_secs(2)).unwrap() {
        Answer::Watched(w) => {
            assert!(begin < w.before_ns && w.before_ns < w.after_ns);
            assert_eq!((w.connects, w.errors), (1, 0));
        }
        other => panic!("{other:?}"),
    }
    let other = Command::Watch {
        target,
        wanted: Ipv4Addr::new(127, 77, 1, 2),
        seconds: 0.1,
        rest_us: 0,
    };
    let error = client
        .ask(&other, Duration::from_secs(2))
        .unwrap_err()
        .to_string();
    assert!(error.contains("did not answer"), "{error}");
}
