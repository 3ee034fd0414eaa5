//! Both legs of a connection through a worker may take the shortcut, and every byte is the same whatever
//! way it went.

use std::net::SocketAddr;

use underpass_abi::{
    VERSION,
    reason::code,
    shortcut::{Mode, switch},
    sock::{EventKind, SockState, flag},
    tables::{door, maps, workload as bits},
};
use underpass_agent::kernel::shortcut::set_switches;
use underpass_tests::{
    Result,
    doors::Doors,
    lab::Proc,
    scene::{LIMIT, PORT, SERVICE},
};

const ON: u64 = switch::INSERT | switch::REDIRECT | switch::NODE_ON;

fn server(doors: &Doors, flags: &[&str]) -> Result<Proc> {
    let at = SocketAddr::from((doors.server.v4, PORT));
    let place = &doors.server.place;
    let at_text = at.to_string();
    let command = [&["underpass-peer", "rpc-server", &at_text], flags].concat();
    let server = doors.lab.run(place, &command)?;
    server.wait_listening(at)?;
    Ok(server)
}

/// Requests of many sizes, with redirection off and on in between. Returns the bytes of one direction.
fn talk(doors: &Doors) -> Result<u64> {
    doors.kernel.watch_splice();
    let dir = doors.lab.pin_dir.join(format!("v{VERSION}/maps"));
    let to = format!("{SERVICE}:{PORT}");
    let mut client = doors
        .lab
        .run(&doors.client.place, &["underpass-peer", "rpc", &to])?;
    client.line(0, "local", LIMIT)?;
    let mut bytes = 0;
    for round in 0..16 {
        set_switches(&dir, if round % 4 == 1 { switch::INSERT } else { ON })?;
        let answer = client.ask(&format!("20 {}", 1 << round))?;
        bytes += answer["bytes"].as_u64().unwrap_or(0);
    }
    client.finish(LIMIT)?;
    assert!(bytes > 20 << 15, "{bytes}");
    Ok(bytes)
}

/// Rows of both legs: all bytes, most of them past TCP, some by TCP.
fn check(doors: &Doors, bytes: u64) -> Result<()> {
    let active = |s: &SockState| s.flags & flag::ACTIVE != 0 && s.tcp.sent != 0;
    let rows = doors.events(EventKind::Closed, 2, active)?;
    assert_eq!(
        rows.iter().filter(|s| s.flags & flag::LEG != 0).count(),
        1,
        "{rows:#?}"
    );
    for s in &rows {
        assert_eq!((s.tcp.sent, s.tcp.received), (bytes, bytes), "{s:#?}");
        let past = s.tcp.shortcut_sent + s.tcp.shortcut_received;
        assert!(past > bytes, "{s:#?}");
        assert!(past < 2 * bytes, "the switch was off now and then: {s:#?}");
    }
    doors.wait_empty(maps::PAIRS, LIMIT)
}

#[test]
fn both_legs_of_an_outbound_connection_go_past_tcp() -> Result<()> {
    let doors = Doors::with("scdoor", Mode::On)?;
    let _server = server(&doors, &[])?;
    let to = SocketAddr::from((doors.server.v4, PORT));
    let _worker = doors.worker(&doors.client, door::OUTBOUND, Some(to))?;
    doors.open_door("client", bits::DOOR | bits::OUTBOUND)?;
    check(&doors, talk(&doors)?)
}

#[test]
fn both_legs_of_a_steered_connection_go_past_tcp() -> Result<()> {
    let doors = Doors::with("scsteer", Mode::On)?;
    let _server = server(&doors, &[])?;
    let _worker = doors.worker_with(&doors.server, door::INBOUND, None, &["--inbound"])?;
    doors.steer("server", PORT)?;
    doors.open_door("server", bits::DOOR | bits::INBOUND)?;
    check(&doors, talk(&doors)?)
}

#[test]
fn it_is_the_workers_listener_that_a_steered_connection_is_judged_by() -> Result<()> {
    let doors = Doors::with("scwhose", Mode::On)?;
    let _server = server(&doors, &["--blocking"])?;
    let _worker = doors.worker_with(&doors.server, door::INBOUND, None, &["--inbound"])?;
    doors.steer("server", PORT)?;
    doors.open_door("server", bits::DOOR | bits::INBOUND)?;
    let bytes = talk(&doors)?;
    let active = |s: &SockState| s.flags & flag::ACTIVE != 0 && s.tcp.sent != 0;
    for s in doors.events(EventKind::Closed, 2, active)? {
        assert_eq!((s.tcp.sent, s.tcp.received), (bytes, bytes), "{s:#?}");
        if s.flags & flag::LEG != 0 {
            // The application's own listener.
            assert_eq!(s.tcp.off_shortcut, code::SHORTCUT_BLOCKING, "{s:#?}");
        } else {
            assert!(s.tcp.shortcut_sent > 0, "{s:#?}");
        }
    }
    Ok(())
}
