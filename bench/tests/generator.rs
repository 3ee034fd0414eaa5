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
        Exchange, Kind, LARGEST, Load, Order, Targets, now,
        protocol::{Answer, Command, Stall},
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

const CONNECT: Exchange = Exchange::connect(1024);
const REQUEST: Exchange = Exchange::request(1024);

/// 20 addresses, all of which the server's wildcard listener answers.
fn load(port: u16, exchange: Exchange, concurrency: u32) -> Load {
    let targets = Targets {
        base: Ipv4Addr::new(127, 77, 0, 250),
        count: 20,
        port,
    };
    Load {
        exchange,
        concurrency,
        blocking: concurrency == 1,
        targets,
        unix: None,
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
    for (exchange, concurrency, connections) in [
        (CONNECT, 1, 500),
        (CONNECT, 16, 500),
        (REQUEST, 1, 1),
        (REQUEST, 16, 16),
    ] {
        let addresses = exchange.kind == Kind::Connect;
        server.tally(addresses).unwrap();
        let outcome = client.run(&load(port, exchange, concurrency)).unwrap();
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
        assert_eq!((counted.requests, counted.wrong), (500, 0));
        assert_eq!(counted.addresses, if addresses { 20 } else { 0 });
        let latency = &outcome.latency;
        assert!(latency.p50 > 0 && latency.p50 <= latency.p99 && latency.p99 <= latency.max);
    }
}

#[test]
fn a_reader_that_does_not_read_stalls_its_sender_and_no_other() {
    let port = free_port();
    let mut server = party(&["--port", &port.to_string(), "server"]);
    let mut client = party(&["client"]);
    server.order(&Command::Ignore(true)).unwrap();
    let wanted = Command::Stall(Stall {
        target: load(port, REQUEST, 1).targets.at(0),
        connections: 3,
        write: 1 << 10,
    });
    let bytes = match client.ask(&wanted, Duration::from_secs(10)).unwrap() {
        Answer::Stalled(bytes) => bytes,
        other => panic!("{other:?}"),
    };
    // A reader would let it go on without end.
    assert_eq!(bytes.len(), 3);
    assert!(bytes.iter().all(|b| (1..64 << 20).contains(b)), "{bytes:?}");
    let counted = server.count().unwrap();
    assert_eq!((counted.connections, counted.requests), (3, 0));
    server.order(&Command::Ignore(false)).unwrap();
    client.order(&Command::Release).unwrap();
    let outcome = client.run(&load(port, REQUEST, 16)).unwrap();
    assert_eq!((outcome.operations, outcome.errors), (500, 0));
    assert_eq!(server.count().unwrap().requests, 500);
}

/// A file that goes with the test, also after a panic.
struct Removed(std::path::PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn every_exchange_goes_over_both_kinds_of_sockets() {
    let port = free_port();
    let path = std::env::temp_dir().join(format!("up-bench-generator-{port}.sock"));
    let _removed = Removed(path.clone());
    let unix = path.display().to_string();
    let mut server = party(&["--port", &port.to_string(), "--unix", &unix, "server"]);
    let mut client = party(&["client"]);
    for exchange in [
        CONNECT,
        Exchange::request(64),
        Exchange::request(LARGEST),
        Exchange::pipeline(64, 16),
        Exchange::stream(64),
        Exchange::stream(128 << 10),
    ] {
        let reply = exchange.kind != Kind::Stream;
        let message = exchange.message;
        server.order(&Command::Expect { message, reply }).unwrap();
        server.order(&Command::Listen).unwrap();
        for (concurrency, unix) in [(1, None), (16, None), (1, Some(&path)), (16, Some(&path))] {
            let load = Load {
                blocking: false,
                unix: unix.cloned(),
                operations: 100,
                ..load(port, exchange, concurrency)
            };
            let outcome = client.run(&load).unwrap();
            let counted = server.count().unwrap();
            assert_eq!(outcome.first_error, None, "{load:?}");
            let all = match exchange.kind {
                Kind::Connect => 100,
                // The first slots take a full pipeline each.
                _ => u64::from(concurrency.min(100_u32.div_ceil(exchange.depth))),
            };
            assert_eq!((outcome.connections, outcome.operations), (all, 100));
            assert_eq!(
                (counted.connections, counted.requests),
                (all, 100),
                "{load:?}"
            );
            assert_eq!(counted.wrong, 0);
        }
    }
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_message_of_another_size_is_noticed_at_both_ends() {
    let port = free_port();
    let mut server = party(&["--port", &port.to_string(), "server"]);
    let mut client = party(&["client"]);
    let expect = |message, reply| Command::Expect { message, reply };
    // The number is not where the server looks for it.
    server.order(&expect(32, true)).unwrap();
    let outcome = client.run(&load(port, Exchange::request(64), 4)).unwrap();
    assert_eq!(outcome.operations, 0);
    assert!(server.count().unwrap().wrong > 0);
    // The last message ends in its middle.
    server.order(&expect(512 << 10, false)).unwrap();
    let outcome = client.run(&Load {
        blocking: false,
        operations: 1,
        ..load(port, Exchange::stream(4096), 1)
    });
    assert_eq!(outcome.unwrap().errors, 0, "a stream is not answered");
    assert_eq!(server.count().unwrap().wrong, 1);
}

#[test]
fn a_run_ends_in_time() {
    let port = free_port();
    let _server = party(&["--port", &port.to_string(), "server"]);
    let mut client = party(&["client"]);
    let load = Load {
        seconds: 0.2,
        operations: u64::MAX,
        ..load(port, REQUEST, 4)
    };
    let outcome = client.run(&load).unwrap();
    assert!((0.2..2.0).contains(&outcome.seconds), "{}", outcome.seconds);
}

#[test]
fn a_refused_connect_is_an_error_and_ends_the_run() {
    let mut client = party(&["client"]);
    for concurrency in [1, 16] {
        let outcome = client
            .run(&load(free_port(), CONNECT, concurrency))
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

/// Requests of the load by a schedule.
fn run_at(client: &mut Party, load: Load, rate: f64) -> underpass_bench::generator::Outcome {
    match client.ask(&Command::RunAt(load, rate), Duration::from_secs(2)) {
        Ok(Answer::Ran(outcome)) => outcome,
        other => panic!("{other:?}"),
    }
}

#[test]
fn open_loop_keeps_its_schedule_and_latency_counts_from_it() {
    let port = free_port();
    let mut server = party(&["--port", &port.to_string(), "server"]);
    let mut client = party(&["client"]);
    let load = |seconds| Load {
        blocking: false,
        seconds,
        ..load(port, REQUEST, 4)
    };
    let outcome = run_at(&mut client, load(0.5), 200.0);
    assert_eq!((outcome.operations, outcome.errors), (100, 0));
    assert!(outcome.seconds >= 0.5, "{outcome:?}");
    assert_eq!(server.count().unwrap().requests, 100);
    let recorded: u64 = outcome.distribution.iter().map(|(_, count)| count).sum();
    assert_eq!(recorded, 100);
    // More than four connections can carry: it ends late, and what waited for its turn waited long.
    let closed = client.run(&load(0.2)).unwrap().latency;
    let outcome = run_at(&mut client, load(0.2), 900_000.0);
    let reached = outcome.operations as f64 / outcome.seconds;
    assert!(reached < 0.9 * 900_000.0, "{outcome:?}");
    assert!(
        outcome.latency.p50 > 10 * closed.p50,
        "{outcome:?} {closed:?}"
    );
    // Each of these is refused, not run in another way.
    let wrong = Load {
        exchange: CONNECT,
        ..load(0.1)
    };
    for (load, rate) in [(wrong, 100.0), (load(0.1), 0.0), (load(0.1), f64::NAN)] {
        assert!(
            client
                .ask(&Command::RunAt(load, rate), Duration::ZERO)
                .is_err()
        );
    }
}
