//! Other roads than one loopback: veth between namespaces, equal addresses in two of them, and a
//! node whose socket memory is short.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::Command,
    thread,
    time::Duration,
};

use rustix::{
    event::PollFlags,
    net::{Shutdown, bind, connect, getpeername, getsockname},
};

use super::{
    Case, Done, Stage, Takes,
    cases_open::exchange,
    pattern::Pattern,
    poller::{Poller, Reader},
    script::{End, PATIENCE},
    stage::{Listener, NONBLOCKING, in_netns},
    task::Task,
};

pub const CASES: &[Case] = &[
    Case {
        name: "veth",
        about: "between two pods over veth",
        takes: Takes::Shortcut,
        run: |s| {
            let (client, server) = s.veth_pair()?;
            exchange(s, client, server)
        },
    },
    Case {
        name: "veth_data_before_accept",
        about: "between two pods, with data before accept",
        takes: Takes::Either,
        run: veth_before_accept,
    },
    Case {
        name: "veth_bulk",
        about: "8 MB each way over veth (packet steering on), the path changes now and then",
        takes: Takes::Shortcut,
        run: veth_bulk,
    },
    Case {
        name: "overlapping_retransmission",
        about: "a retransmission brings bytes that have come, and new ones behind them",
        takes: Takes::Either,
        run: overlapping_retransmission,
    },
    Case {
        name: "equal_addresses",
        about: "three namespaces use the same addresses and ports at once; none sees another's bytes",
        takes: Takes::Shortcut,
        run: equal_addresses,
    },
    Case {
        name: "node_memory_short",
        about: "the node's bound on socket memory is passed in mid-stream, with unread bytes, and is kept again",
        takes: Takes::Shortcut,
        run: node_memory_short,
    },
    Case {
        name: "many_stalled",
        about: "100 connections whose readers stop, all full at once, then all are read",
        takes: Takes::Shortcut,
        run: many_stalled,
    },
];

fn veth_before_accept(stage: &mut Stage) -> Done {
    let peer = stage.peers[0].clone();
    let log = stage.log.clone();
    for len in [100, 50_000] {
        let listener = in_netns(&peer, || {
            Listener::new(&log, NONBLOCKING, peer.v4.into(), 64)
        })?;
        let mut client = stage.dial(NONBLOCKING, listener.at)?;
        client.send_all(len, 1000).ok();
        let mut server = listener.accept("server")?;
        client.send_all(500, 500).ok();
        client.shutdown(Shutdown::Write);
        server.drain(len + 500);
    }
    Ok(())
}

fn veth_bulk(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.veth_pair()?;
    for round in 0_usize..8 {
        stage.engine.redirect(round % 4 != 2)?;
        let chunk = [700, 9_000, 64 << 10, 1 << 20][round % 4];
        let writer = Task::start(client, move |end| {
            let _ = end.send_all(1 << 20, chunk);
        })?;
        server.recv_all(1 << 20, 64 << 10);
        client = writer.join()?;
        let writer = Task::start(server, move |end| {
            let _ = end.send_all(1 << 20, chunk);
        })?;
        client.recv_all(1 << 20, 64 << 10);
        server = writer.join()?;
    }
    Ok(())
}

/// TCP joins small segments when it retransmits them. If the first one had come and only its ACK was
/// lost, the receiver gets a segment whose first bytes it already has: read, unread, or read with a
/// redirected message behind them.
fn overlapping_retransmission(stage: &mut Stage) -> Done {
    overlap(stage, true, 0)?;
    overlap(stage, false, 0)?;
    overlap(stage, true, 200)
}

fn overlap(stage: &mut Stage, read: bool, redirected: usize) -> Done {
    const LEN: usize = 600;
    let peer = stage.peers[0].clone();
    stage.engine.redirect(false)?;
    let (mut client, mut server) = stage.veth_pair()?;
    let there = getpeername(&client)?.ok_or(io::ErrorKind::NotConnected)?;
    let there = SocketAddr::try_from(there)?.ip();
    let here = SocketAddr::try_from(getsockname(&client)?)?.ip();
    let _ = client.send(LEN);
    server.recv_all(LEN as u64, 4096);
    in_netns(&peer, || mislead(here))?;
    let _ = client.send(LEN);
    server.ready(PollFlags::IN, PATIENCE);
    if read {
        server.recv_all(LEN as u64, 4096);
    }
    mislead(there)?;
    if redirected > 0 {
        stage.engine.redirect(true)?;
        let _ = client.send(redirected);
        stage.engine.redirect(false)?;
    }
    let _ = client.send(LEN);
    // Until a retransmission timer has joined them.
    thread::sleep(Duration::from_millis(700));
    in_netns(&peer, || lead(here))?;
    lead(there)?;
    let unread = if read { redirected } else { LEN };
    server.recv_all((unread + LEN) as u64, 4096);
    stage.engine.redirect(true)?;
    exchange(stage, client, server)
}

/// What goes to this address from the namespace is lost.
fn mislead(ip: IpAddr) -> io::Result<()> {
    neighbor(&format!(
        "replace {ip} lladdr 02:00:00:00:00:09 nud permanent"
    ))
}

fn lead(ip: IpAddr) -> io::Result<()> {
    neighbor(&format!("del {ip}"))
}

fn neighbor(what: &str) -> io::Result<()> {
    let words = format!("neigh {what} dev eth0");
    let status = Command::new("ip").args(words.split(' ')).status()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("ip {words}: {status}")))
    }
}

/// The same four-tuple in each namespace: bytes that cross over are found, since each connection
/// has its own.
fn equal_addresses(stage: &mut Stage) -> Done {
    // Outside the range from which the kernel takes ports for others.
    let ports = (20_001, 20_002);
    let mut pairs = vec![tuple_pair(stage, ports, 0)?];
    for (i, peer) in stage.peers.clone().iter().enumerate() {
        let stage = &*stage;
        pairs.push(in_netns(peer, move || {
            tuple_pair(stage, ports, i as u64 + 1)
        })?);
    }
    for _ in 0..5 {
        for (client, _) in &mut pairs {
            let _ = client.send(100);
            let _ = client.send(2000);
        }
        for (_, server) in &mut pairs {
            server.recv_all(2100, 4096);
            let _ = server.send(100);
        }
        for (client, _) in &mut pairs {
            client.recv_all(100, 4096);
        }
    }
    // Without TIME_WAIT, so that the next run finds the ports free.
    for (client, _) in pairs {
        client.abort();
    }
    Ok(())
}

fn tuple_pair(stage: &Stage, ports: (u16, u16), i: u64) -> io::Result<(End, End)> {
    let ip = Ipv4Addr::LOCALHOST;
    let fd = NONBLOCKING.socket()?;
    let at = SocketAddr::from((ip, ports.1));
    let listener = Listener::on(&stage.log, NONBLOCKING, fd, at, 8)?;
    let fd = NONBLOCKING.socket()?;
    bind(&fd, &SocketAddr::from((ip, ports.0)))?;
    let _ = connect(&fd, &listener.at);
    let server = listener.accept("server")?.into_fd();
    let (up, down) = (10 + i, 20 + i);
    let client = End::new(&format!("client{i}"), fd, &stage.log, (up, down));
    let server = End::new(&format!("server{i}"), server, &stage.log, (down, up));
    Ok((client, server))
}

fn node_memory_short(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let poller = Poller::new(&server, Reader::EdgeShortRead.flags())?;
    for _ in 0..3 {
        let _ = client.send(3000);
        stage.engine.short_of_memory(true)?;
        let sent = client.send(3000);
        stage.engine.short_of_memory(false)?;
        sent?;
        server.arrived(6000);
        poller.read(&mut server, Reader::EdgeShortRead, 8192);
    }
    stage.note(format!("{} of {} read", server.got, client.sent));
    Ok(())
}

fn many_stalled(stage: &mut Stage) -> Done {
    const COUNT: usize = 100;
    const EACH_MAX: usize = 1 << 20;
    let mut pairs = Vec::new();
    for _ in 0..COUNT {
        pairs.push(stage.pair()?);
    }
    let pattern = Pattern::new(1);
    let mut total = 0;
    for (client, _) in &mut pairs {
        while client.sent < EACH_MAX as u64 {
            let bytes = pattern.bytes(client.sent, 16 << 10);
            match rustix::net::send(&*client, &bytes, rustix::net::SendFlags::NOSIGNAL) {
                Ok(n) => client.sent += n as u64,
                Err(_) => break,
            }
        }
        total += client.sent;
    }
    let readers: Vec<_> = pairs
        .into_iter()
        .map(|(client, server)| thread::spawn(move || read_quietly(client, server)))
        .collect();
    let mut got = 0;
    for reader in readers {
        let (count, wrong) = reader.join().map_err(|_| io::Error::other("panicked"))?;
        got += count;
        stage.note_unless(wrong.is_empty(), &wrong);
    }
    stage.note(format!("all bytes came: {}", got == total));
    Ok(())
}

/// Reads what the client sent; without a line for each of a hundred connections.
fn read_quietly(client: End, mut server: End) -> (u64, String) {
    let mut buffer = vec![0; 64 << 10];
    let mut wrong = String::new();
    while server.got < client.sent && server.ready(rustix::event::PollFlags::IN, PATIENCE) {
        let flags = rustix::net::RecvFlags::empty();
        let n = rustix::net::recv(&server, &mut buffer[..], flags).map_or(0, |(n, _)| n);
        wrong += &server.check(&buffer[..n]);
        server.got += n as u64;
        if n == 0 {
            break;
        }
    }
    (server.got, wrong)
}
