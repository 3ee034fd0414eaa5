//! The HTTP and gRPC parties without a lab: they count the same over each protocol and way, and a wrong
//! answer is an error.
#![forbid(unsafe_code)]

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpListener},
    path::{Path, PathBuf},
    time::Duration,
};

use underpass_bench::{
    generator::{
        Outcome,
        protocol::{Answer, Command},
    },
    lab::Place,
    party::Party,
    web::{MESSAGE, Protocol, WebLoad},
};

fn party(role: &[&str]) -> Party {
    let program = Path::new(env!("CARGO_BIN_EXE_underpass-bench"));
    Party::start_program(program, role[role.len() - 1], role, &Place::default())
        .expect("a party starts")
}

fn load(protocol: Protocol, concurrency: u32, port: u16, unix: Option<PathBuf>) -> WebLoad {
    WebLoad {
        protocol,
        bytes: MESSAGE as u32,
        connections: protocol.connections(concurrency),
        concurrency,
        rate: None,
        target: SocketAddrV4::new(Ipv4Addr::LOCALHOST, port),
        unix,
        seconds: 0.05,
    }
}

fn run(client: &mut Party, load: WebLoad) -> Outcome {
    match client.ask(&Command::RunWeb(load), Duration::from_secs(1)) {
        Ok(Answer::Ran(outcome)) => outcome,
        other => panic!("{other:?}"),
    }
}

/// A file that goes with the test, also after a panic.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn client_and_server_count_the_same() {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let unix = std::env::temp_dir().join(format!("up-bench-web-{}.sock", std::process::id()));
    let _removed = Removed(unix.clone());
    let role = [
        "--port",
        &port.to_string(),
        "--unix",
        unix.to_str().unwrap(),
    ];
    let mut server = party(&[&role[..], &["web-server"]].concat());
    let mut client = party(&["web-client"]);
    for protocol in [Protocol::Http1, Protocol::Http2, Protocol::Grpc] {
        server
            .order(&Command::Speak(protocol, MESSAGE as u32))
            .unwrap();
        for (concurrency, unix) in [(1, None), (16, None), (16, Some(unix.clone()))] {
            let outcome = run(&mut client, load(protocol, concurrency, port, unix));
            let counted = server.count().unwrap();
            assert_eq!(outcome.first_error, None);
            assert!(outcome.operations >= concurrency.into(), "{outcome:?}");
            assert_eq!(outcome.operations, counted.requests);
            assert_eq!(outcome.connections, counted.connections);
            let connections = protocol.connections(concurrency);
            assert_eq!(outcome.connections, u64::from(connections));
            assert_eq!(counted.wrong, 0);
            let latency = &outcome.latency;
            assert!(
                latency.p50 > 1_000 && latency.p50 <= latency.p99,
                "{latency:?}"
            );
        }
        server.order(&Command::Listen).unwrap();
    }
    // What it does not speak is an error.
    let outcome = run(&mut client, load(Protocol::Http1, 1, port, None));
    assert_eq!((outcome.operations, outcome.errors), (0, 1));
}

#[test]
fn open_loop_begins_as_many_as_its_schedule_has() {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let unix = std::env::temp_dir().join(format!("up-bench-open-{}.sock", std::process::id()));
    let _removed = Removed(unix.clone());
    let (at, path) = (port.to_string(), unix.display().to_string());
    let mut server = party(&["--port", &at, "--unix", &path, "web-server"]);
    let mut client = party(&["web-client"]);
    for protocol in [Protocol::Http1, Protocol::Http2, Protocol::Grpc] {
        const BYTES: u32 = 3_000;
        server.order(&Command::Speak(protocol, BYTES)).unwrap();
        let connections = if protocol == Protocol::Http1 { 8 } else { 2 };
        let load = WebLoad {
            bytes: BYTES,
            connections,
            rate: Some(200.0),
            seconds: 0.5,
            ..load(protocol, 8, port, None)
        };
        let outcome = run(&mut client, load);
        let counted = server.count().unwrap();
        assert_eq!((outcome.operations, &outcome.first_error), (100, &None));
        assert_eq!((counted.requests, counted.wrong), (100, 0));
        assert_eq!(counted.connections, u64::from(connections));
        // One that began before its time would have taken none.
        assert!(
            (1_000..400_000_000).contains(&outcome.latency.p50),
            "{outcome:?}"
        );
    }
}

/// Answers each connection's first request with this.
fn impostor(answer: Vec<u8>) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = listener.local_addr().expect("a bound port").port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 4096];
            let mut got = 0;
            while got < MESSAGE {
                got += stream.read(&mut request).expect("a request");
            }
            stream.write_all(&answer).expect("somebody reads");
        }
    });
    port
}

#[test]
fn a_wrong_answer_is_an_error() {
    let mut client = party(&["web-client"]);
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {MESSAGE}\r\n\r\n");
    let other = [head.as_bytes(), &[b'u'; MESSAGE][..]].concat();
    let refusal = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n".to_vec();
    for (answer, why) in [(other, "differs"), (refusal, "503"), (Vec::new(), "")] {
        let load = load(Protocol::Http1, 1, impostor(answer), None);
        let outcome = run(&mut client, load);
        assert_eq!((outcome.operations, outcome.errors), (0, 1), "{outcome:?}");
        let error = outcome.first_error.unwrap();
        assert!(error.contains(why), "{error}");
    }
}
