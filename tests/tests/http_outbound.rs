//! Connections of a workload with a door go to its worker: what the application sees, what the worker is
//! told, what is counted, and what is refused.

use std::net::{Ipv4Addr, SocketAddr};

use underpass_abi::{
    reason::code,
    sock::{EventKind, Layer, SockState, flag},
    tables::{door, maps, workload as bits},
    worker::kind,
};
use underpass_tests::{
    Result,
    doors::Doors,
    lab::{Pod, Proc},
    scene::{ECONNREFUSED, LIMIT, PORT, SERVICE, SERVICE_V6},
};

const ENOENT: u64 = 2;
const BYTES: usize = 40_000;

fn services() -> [SocketAddr; 2] {
    [SERVICE, SERVICE_V6].map(|ip| SocketAddr::new(ip.parse().expect("a constant"), PORT))
}

/// The client pod's worker, in front of the server's echo.
fn served(doors: &Doors) -> Result<(Proc, Proc)> {
    let server = doors.echo()?;
    let to = SocketAddr::from((doors.server.v4, PORT));
    let worker = doors.worker(&doors.client, door::OUTBOUND, Some(to))?;
    doors.open_door("client", bits::DOOR | bits::OUTBOUND)?;
    Ok((server, worker))
}

fn is_at(text: &serde_json::Value, pod: &Pod) -> bool {
    let at: Option<SocketAddr> = text.as_str().and_then(|t| t.parse().ok());
    at.is_some_and(|a| [pod.v4.into(), pod.v6.into()].contains(&a.ip().to_canonical()))
}

#[test]
fn the_application_sees_the_service_and_the_worker_what_was_dialed() -> Result<()> {
    let doors = Doors::new("outbound")?;
    let (_server, mut worker) = served(&doors)?;
    let echo = BYTES.to_string();
    let forms: [(SocketAddr, &[&str]); 3] = [
        (services()[0], &["--echo", &echo]),
        (services()[0], &["--echo", &echo, "--mapped"]),
        (services()[1], &["--echo", &echo]),
    ];
    for (i, (service, flags)) in forms.into_iter().enumerate() {
        let seen = doors.dial(&doors.client.place, service, flags)?;
        assert_eq!(seen["errno"], 0, "{seen}");
        assert_eq!(seen["echo_errno"], 0, "{seen}");
        let peer: SocketAddr = seen["peer"]
            .as_str()
            .unwrap_or("")
            .parse()
            .expect("an address");
        assert_eq!(
            SocketAddr::new(peer.ip().to_canonical(), peer.port()),
            service
        );
        assert!(
            is_at(&seen["local"], &doors.client),
            "its own address: {seen}"
        );
        let told = worker.line(1 + 2 * i, "original", LIMIT)?;
        let told: serde_json::Value = serde_json::from_str(&told)?;
        assert_eq!(told["original"], service.to_string(), "{told}");
        assert!(is_at(&told["peer"], &doors.client), "{told}");
        let who = serde_json::json!([kind::WORKLOAD, doors.index("client")?]);
        assert_eq!(told["who"], who, "{told}");
        worker.line(2 + 2 * i, "ended", LIMIT)?;
    }
    let client = |s: &SockState| s.flags & flag::ACTIVE != 0;
    let rows = doors.events(EventKind::Closed, 6, client)?;
    let is_leg = |s: &&SockState| s.flags & flag::LEG != 0;
    let (legs, own): (Vec<&SockState>, Vec<&SockState>) = rows.iter().partition(is_leg);
    assert_eq!((own.len(), legs.len()), (3, 3), "{rows:#?}");
    for s in own {
        assert_eq!(
            (s.layer, s.remote_port),
            (Layer::Http as u8, door::OUTBOUND)
        );
        assert_eq!(s.remote, s.local);
        assert!(services().contains(&SocketAddr::new(s.dialed.into(), s.dialed_port)));
        assert_eq!((s.tcp.sent, s.tcp.received), (BYTES as u64, BYTES as u64));
    }
    for s in legs {
        assert_eq!((s.layer, s.service), (Layer::Kernel as u8, 0));
        assert_eq!((s.tcp.sent, s.tcp.received), (BYTES as u64, BYTES as u64));
    }
    // Applications and legs are counted apart, byte for byte the same.
    let own = doors.totals(|k| !k.is_leg(), |t| t.closed == 3)?;
    let legs = doors.totals(|k| k.is_leg(), |t| t.closed == 3)?;
    let bytes = 3 * BYTES as u64;
    assert_eq!((own.opened, own.sent, own.received), (3, bytes, bytes));
    assert_eq!((legs.opened, legs.sent, legs.received), (3, bytes, bytes));
    assert_eq!(
        doors.totals(|k| k.source == 0, |_| true)?.opened,
        0,
        "the worker is no process of the node"
    );
    doors.wait_empty(maps::ORIGINALS, LIMIT)
}

#[test]
fn who_was_not_sent_to_the_door_is_refused_there() -> Result<()> {
    let doors = Doors::new("uninvited")?;
    let (_server, _worker) = served(&doors)?;
    let at = |pod: &Pod| SocketAddr::from((pod.v4, door::OUTBOUND));
    for (from, to) in [
        (&doors.client.place, at(&doors.client)),
        (
            &doors.client.place,
            SocketAddr::from((doors.client.v6, door::OUTBOUND)),
        ),
        (
            &doors.client.place,
            SocketAddr::from((Ipv4Addr::LOCALHOST, door::OUTBOUND)),
        ),
        (&doors.server.place, at(&doors.client)),
        (&doors.lab.host(), at(&doors.client)),
    ] {
        let seen = doors.dial(from, to, &[])?;
        assert_eq!(seen["errno"], ECONNREFUSED, "{to}: {seen}");
    }
    let refused = |s: &SockState| s.reason == code::NOT_INVITED;
    let rows = doors.events(EventKind::Refused, 5, refused)?;
    assert_eq!(rows.len(), 5);
    assert!(
        rows.iter().all(|s| s.local_port == door::OUTBOUND),
        "{rows:#?}"
    );
    Ok(())
}

#[test]
fn without_a_record_the_worker_is_told_that_there_is_none() -> Result<()> {
    let doors = Doors::new("unrecorded")?;
    let (_server, mut worker) = served(&doors)?;
    // The door is withdrawn and its listener still there.
    doors.open_door("client", 0)?;
    let to = SocketAddr::from((doors.client.v4, door::OUTBOUND));
    assert_eq!(doors.dial(&doors.client.place, to, &[])?["errno"], 0);
    let told = worker.line(1, "failed", LIMIT)?;
    let told: serde_json::Value = serde_json::from_str(&told)?;
    assert_eq!(told["errno"], ENOENT, "{told}");
    let service = services()[0];
    let seen = doors.dial(&doors.client.place, service, &["--echo", "10"])?;
    assert_eq!(
        seen["echo_errno"], 0,
        "new connections do without the worker: {seen}"
    );
    assert_eq!(worker.stdout().len(), 2, "{:?}", worker.stdout());
    Ok(())
}

#[test]
fn who_has_no_door_or_cannot_use_it_stays_with_the_kernel() -> Result<()> {
    let doors = Doors::new("nodoor")?;
    let (_server, worker) = served(&doors)?;
    let service = services()[0];
    // The server has no door.
    let seen = doors.dial(&doors.server.place, service, &["--echo", "10"])?;
    assert_eq!(
        (&seen["errno"], &seen["echo_errno"]),
        (&0.into(), &0.into()),
        "{seen}"
    );
    // Nor has a process of the node.
    let seen = doors.dial(&doors.lab.host(), service, &["--echo", "10"])?;
    assert_eq!(
        (&seen["errno"], &seen["echo_errno"]),
        (&0.into(), &0.into()),
        "{seen}"
    );
    // A socket that is bound to a device does not reach its own address.
    let seen = doors.dial(
        &doors.client.place,
        service,
        &["--echo", "10", "--device", "eth0"],
    )?;
    assert_eq!(
        (&seen["errno"], &seen["echo_errno"]),
        (&0.into(), &0.into()),
        "{seen}"
    );
    // What is no service's goes where it was dialed.
    let direct = SocketAddr::from((doors.server.v4, PORT));
    let seen = doors.dial(&doors.client.place, direct, &["--echo", "10"])?;
    assert_eq!(
        (&seen["errno"], &seen["echo_errno"]),
        (&0.into(), &0.into()),
        "{seen}"
    );
    assert_eq!(worker.stdout().len(), 1, "{:?}", worker.stdout());
    let rows = doors.events(EventKind::Closed, 4, |s| s.flags & flag::ACTIVE != 0)?;
    assert!(
        rows.iter().all(|s| s.layer == Layer::Kernel as u8),
        "{rows:#?}"
    );
    Ok(())
}

#[test]
fn a_bound_source_address_goes_to_the_door_and_is_kept() -> Result<()> {
    let doors = Doors::new("bound")?;
    let (_server, mut worker) = served(&doors)?;
    let from = format!("{}:0", doors.client.v4);
    let flags = ["--echo", "10", "--from", &from];
    let seen = doors.dial(&doors.client.place, services()[0], &flags)?;
    assert_eq!(
        (&seen["errno"], &seen["echo_errno"]),
        (&0.into(), &0.into()),
        "{seen}"
    );
    assert!(is_at(&seen["local"], &doors.client), "{seen}");
    let told = worker.line(1, "original", LIMIT)?;
    assert!(told.contains(&services()[0].to_string()), "{told}");
    Ok(())
}

#[test]
fn nothing_is_left_of_connections_that_fail_or_were_many() -> Result<()> {
    let mut doors = Doors::new("leak")?;
    let (_server, mut worker) = served(&doors)?;
    let service = services()[0].to_string();
    let connects = |doors: &Doors, count: &str| -> Result<serde_json::Value> {
        let command = ["underpass-peer", "connects", &service, "--count", count];
        doors.lab.json(&doors.client.place, &command, 6 * LIMIT)
    };
    let done = connects(&doors, "10000")?;
    assert_eq!(done["ok"], 10_000, "{done}");
    doors.wait_empty(maps::ORIGINALS, LIMIT)?;
    worker.kill9()?;
    // Nobody listens: the entries of refused connects go too.
    let done = connects(&doors, "1000")?;
    assert_eq!(done["ok"], 0, "{done}");
    doors.wait_empty(maps::ORIGINALS, LIMIT)?;
    assert_eq!(doors.used(maps::FLOWS), 0);
    // A policy of the service is asked at the door.
    doors.install(
        "30-policy.yaml",
        &underpass_tests::manifest::allow(
            "app",
            "nobody",
            underpass_tests::manifest::Target::Service("server"),
            &[],
        ),
    )?;
    doors.open_door("client", bits::DOOR | bits::OUTBOUND)?;
    let seen = doors.dial(&doors.client.place, services()[0], &[])?;
    assert_eq!(seen["errno"], underpass_tests::scene::EPERM, "{seen}");
    Ok(())
}
