//! Connections to steered ports go to the workload's worker: from whom they come, what is let past it, and
//! that nothing reaches the application unjudged.

use std::net::SocketAddr;

use serde_json::{Value, json};
use underpass_abi::{
    reason::code,
    sock::{EventKind, Layer, SockState, TotalKey, flag},
    tables::{door, workload as bits},
    worker::kind,
};
use underpass_agent::kernel::Netns;
use underpass_tests::{
    Result,
    doors::Doors,
    lab::{Place, Proc},
    manifest::{self, Target},
    scene::{ECONNREFUSED, EPERM, LIMIT, PORT, SERVICE},
};

const BYTES: u64 = 30_000;

/// The server's application and its worker, with the application's port steered.
fn served(doors: &Doors) -> Result<(Proc, Proc)> {
    let server = doors.echo()?;
    let worker = doors.worker_with(&doors.server, door::INBOUND, None, &["--inbound"])?;
    doors.steer("server", PORT)?;
    doors.open_door("server", bits::DOOR | bits::INBOUND)?;
    Ok((server, worker))
}

fn server_at(doors: &Doors) -> SocketAddr {
    (doors.server.v4, PORT).into()
}

fn echo(doors: &Doors, from: &Place, to: SocketAddr) -> Result<Value> {
    let seen = doors.dial(from, to, &["--echo", &BYTES.to_string()])?;
    assert_eq!(
        (&seen["errno"], &seen["echo_errno"]),
        (&json!(0), &json!(0)),
        "{seen}"
    );
    Ok(seen)
}

/// The worker's lines about the next connection: who and where, then the sums.
fn told(worker: &mut Proc, from: &mut usize) -> Result<Value> {
    let line = worker.line(*from, "original", LIMIT)?;
    worker.line(*from + 1, "ended", LIMIT)?;
    *from += 2;
    Ok(serde_json::from_str(&line)?)
}

#[test]
fn the_worker_is_told_who_dialed_and_passes_on() -> Result<()> {
    let doors = Doors::new("inbound")?;
    let (_server, mut worker) = served(&doors)?;
    let outside = doors.lab.outside()?;
    let service = SocketAddr::new(SERVICE.parse().expect("a constant"), PORT);
    let six = SocketAddr::from((doors.server.v6, PORT));
    let client = doors.client.place.clone();
    let own = doors.server.place.clone();
    let index = |name| doors.index(name);
    let cases = [
        (&client, service, json!([kind::WORKLOAD, index("client")?])),
        (&client, six, json!([kind::WORKLOAD, index("client")?])),
        (
            &own,
            server_at(&doors),
            json!([kind::WORKLOAD, index("server")?]),
        ),
        (&doors.lab.host(), server_at(&doors), json!([kind::HOST, 0])),
        (&outside.place, server_at(&doors), json!([kind::OUTSIDE, 0])),
        (&outside.place, six, json!([kind::OUTSIDE, 0])),
    ];
    let mut line = 1;
    let total = cases.len();
    for (from, to, who) in cases {
        echo(&doors, from, to)?;
        let told = told(&mut worker, &mut line)?;
        assert_eq!(told["who"], who, "{to}: {told}");
        let at: SocketAddr = told["original"]
            .as_str()
            .unwrap_or("")
            .parse()
            .expect("an address");
        assert_eq!(at.port(), PORT, "the application's own port: {told}");
    }
    // One row for each connection, and one for each leg, byte for byte the same.
    let rows = doors.events(EventKind::Closed, 2 * total, |_| true)?;
    let is_leg = |s: &&SockState| s.flags & flag::LEG != 0;
    let (legs, rows): (Vec<&SockState>, Vec<&SockState>) = rows.iter().partition(is_leg);
    assert_eq!((legs.len(), rows.len()), (total, total), "{rows:#?}");
    let all = legs.iter().chain(&rows);
    assert!(
        all.clone()
            .all(|s| s.tcp.sent == BYTES && s.tcp.received == BYTES),
        "{rows:#?}"
    );
    assert!(
        legs.iter()
            .all(|s| s.source == s.destination && s.remote_port == PORT)
    );
    let inbound = rows.iter().filter(|s| s.flags & flag::ACTIVE == 0);
    assert_eq!(inbound.clone().count(), 2);
    assert!(
        inbound.clone().all(|s| s.layer == Layer::Http as u8),
        "{rows:#?}"
    );
    let sum = doors.totals(|k| !k.is_leg(), |t| t.closed == total as u64)?;
    assert_eq!((sum.opened, sum.sent), (total as u64, total as u64 * BYTES));
    let legs = doors.totals(TotalKey::is_leg, |t| t.closed == total as u64)?;
    assert_eq!(
        (legs.opened, legs.sent),
        (total as u64, total as u64 * BYTES)
    );
    Ok(())
}

#[test]
fn without_its_worker_a_steered_port_is_closed() -> Result<()> {
    let doors = Doors::new("doorless")?;
    let (mut server, mut worker) = served(&doors)?;
    let outside = doors.lab.outside()?;
    let netns = Netns::open(&doors.server.place.netns_path())?.cookie;
    assert_eq!(doors.kernel.doors()?, [netns]);
    worker.kill9()?;
    assert_eq!(doors.kernel.doors()?, [0; 0]);
    for from in [
        &doors.client.place,
        &doors.lab.host(),
        &outside.place,
        &doors.server.place,
    ] {
        let seen = doors.dial(from, server_at(&doors), &[])?;
        assert_eq!(seen["errno"], ECONNREFUSED, "{seen}");
    }
    let closed = |s: &SockState| s.reason == code::DOOR_CLOSED;
    let rows = doors.events(EventKind::Refused, 4, closed)?;
    assert!(rows.iter().all(|s| s.local_port == PORT), "{rows:#?}");
    assert_eq!(underpass_tests::scene::accepted(&mut server)?, [0, 0]);
    // Another worker of the same port takes the place of the first.
    let _worker = doors.worker_with(&doors.server, door::INBOUND, None, &["--inbound"])?;
    echo(&doors, &doors.client.place, server_at(&doors))?;
    // What is steered no more goes to the application.
    doors.open_door("server", bits::DOOR)?;
    echo(&doors, &doors.client.place, server_at(&doors))?;
    Ok(())
}

#[test]
fn a_worker_of_the_same_tenant_and_a_probe_are_let_past() -> Result<()> {
    let doors = Doors::new("past")?;
    let (_server, worker) = served(&doors)?;
    let to = Some(server_at(&doors));
    let mut outbound = doors.worker(&doors.client, door::OUTBOUND, to)?;
    doors.open_door("client", bits::DOOR | bits::OUTBOUND)?;
    let service = SocketAddr::new(SERVICE.parse().expect("a constant"), PORT);
    echo(&doors, &doors.client.place, service)?;
    outbound.line(2, "ended", LIMIT)?;
    let probe = doors.lab.host();
    doors.kernel.set_probes(Some(&probe.cgroup))?;
    echo(&doors, &probe, server_at(&doors))?;
    assert_eq!(worker.stdout().len(), 1, "{:?}", worker.stdout());
    doors.kernel.set_probes(None)?;
    echo(&doors, &probe, server_at(&doors))?;
    assert!(worker.stdout().len() > 1, "no probe any more");
    Ok(())
}

#[test]
fn policies_come_first_and_the_door_itself_takes_nobody() -> Result<()> {
    let mut doors = Doors::new("doorrules")?;
    let (_server, worker) = served(&doors)?;
    for from in [&doors.client.place, &doors.server.place] {
        let at = SocketAddr::from((doors.server.v4, door::INBOUND));
        assert_eq!(doors.dial(from, at, &[])?["errno"], ECONNREFUSED);
    }
    doors.events(EventKind::Refused, 2, |s| s.reason == code::NOT_INVITED)?;
    let nobody = manifest::allow("app", "nobody", Target::Workload("server"), &[]);
    doors.install("30-policy.yaml", &nobody)?;
    doors.open_door("server", bits::DOOR | bits::INBOUND)?;
    let seen = doors.dial(&doors.client.place, server_at(&doors), &[])?;
    assert_eq!(seen["errno"], EPERM, "{seen}");
    let outside = doors.lab.outside()?;
    let seen = doors.dial(&outside.place, server_at(&doors), &[])?;
    assert_eq!(seen["errno"], ECONNREFUSED, "{seen}");
    doors.events(EventKind::Refused, 1, |s| {
        s.reason == code::POLICY_DENIED && s.flags & flag::SOURCE_OUTSIDE != 0
    })?;
    assert_eq!(worker.stdout().len(), 1, "{:?}", worker.stdout());
    Ok(())
}
