//! Bytes that are on the wire before the server has accepted.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::PollFlags,
    net::{Shutdown, connect, sendto},
};

use super::{
    Case, Done, Stage, Takes,
    cases_open::exchange,
    opts,
    script::{End, PATIENCE},
    stage::{Listener, NONBLOCKING},
    transcript::shown,
};

pub const CASES: &[Case] = &[
    Case {
        name: "data_before_accept",
        about: "the client sends 1 KB, 100 KB and a FIN before the server accepts",
        takes: Takes::Either,
        run: data_before_accept,
    },
    Case {
        name: "closed_before_accept",
        about: "the client sends and closes, or resets, before the server accepts",
        takes: Takes::Either,
        run: closed_before_accept,
    },
    Case {
        name: "defer_accept",
        about: "TCP_DEFER_ACCEPT: messages sent before and after accept keep their order",
        takes: Takes::Either,
        run: defer_accept,
    },
    Case {
        name: "fast_open",
        about: "TCP Fast Open: data in the SYN, then more messages",
        takes: Takes::Either,
        run: fast_open,
    },
    Case {
        name: "syn_cookies",
        about: "the same through SYN cookies",
        takes: Takes::Either,
        run: syn_cookies,
    },
    Case {
        name: "accept_overflow",
        about: "more clients than the accept queue holds send at once, and are accepted late",
        takes: Takes::Either,
        run: accept_overflow,
    },
];

fn data_before_accept(stage: &mut Stage) -> Done {
    for len in [1000, 100_000] {
        let listener = stage.listener(NONBLOCKING)?;
        let mut client = stage.dial(NONBLOCKING, listener.at)?;
        client.send_all(len, 1000).ok();
        let mut server = listener.accept("server")?;
        client.send_all(500, 500).ok();
        client.shutdown(Shutdown::Write);
        server.drain(len + 500);
        let _ = server.send(10);
        client.arrived(10);
        let _ = client.recv(100);
    }
    Ok(())
}

fn closed_before_accept(stage: &mut Stage) -> Done {
    let listener = stage.listener(NONBLOCKING)?;
    let mut client = stage.dial(NONBLOCKING, listener.at)?;
    let _ = client.send(100);
    client.close();
    let mut server = listener.accept("server")?;
    server.drain(100);
    let mut client = stage.dial(NONBLOCKING, listener.at)?;
    let _ = client.send(100);
    client.abort();
    thread::sleep(Duration::from_millis(20));
    match listener.accept("server2") {
        Ok(mut server) => {
            let _ = server.recv(200);
            let _ = server.recv(200);
        }
        Err(e) => stage.note(super::transcript::errno(&e)),
    }
    Ok(())
}

/// Sends in steps around accept; the order must hold. Redirection is on at all steps.
fn around_accept(stage: &mut Stage, listener: &Listener, mut client: End) -> Done {
    let _ = client.send(100);
    let _ = client.send(200);
    let mut server = listener.accept("server")?;
    let _ = client.send(300);
    server.recv_all(client.sent, 4096);
    let _ = server.send(100);
    client.recv_all(100, 4096);
    exchange(stage, client, server)
}

fn defer_accept(stage: &mut Stage) -> Done {
    let fd = NONBLOCKING.socket()?;
    opts::set_defer_accept(&fd, 2)?;
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = Listener::on(&stage.log, NONBLOCKING, fd, any, 64)?;
    for _ in 0..3 {
        let client = stage.dial(NONBLOCKING, listener.at)?;
        around_accept(stage, &listener, client)?;
    }
    Ok(())
}

fn sysctl(file: &str, value: &str) -> io::Result<()> {
    fs::write(format!("/proc/sys/net/ipv4/{file}"), value)
}

fn fast_open(stage: &mut Stage) -> Done {
    // Client, server, and data in a SYN without a cookie: 1 + 2 + 0x200.
    sysctl("tcp_fastopen", "515")?;
    let fd = NONBLOCKING.socket()?;
    opts::set_fastopen(&fd, 16)?;
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = Listener::on(&stage.log, NONBLOCKING, fd, any, 64)?;
    for _ in 0..3 {
        let mut client = stage.client(NONBLOCKING.socket()?);
        let flags = rustix::net::SendFlags::from_bits_retain(opts::MSG_FASTOPEN);
        let sent = sendto(&client, &client.next_bytes(50), flags, &listener.at);
        // Without a cookie for the address the first connect only asks for one.
        if sent == Err(rustix::io::Errno::INPROGRESS) {
            client.ready(PollFlags::OUT, PATIENCE);
            let _ = client.send(50);
        } else {
            client.note(format!("send 50 = {}", shown(sent)));
            client.sent += sent.unwrap_or(0) as u64;
        }
        client.ready(PollFlags::OUT, PATIENCE);
        around_accept(stage, &listener, client)?;
    }
    sysctl("tcp_fastopen", "1")
}

fn syn_cookies(stage: &mut Stage) -> Done {
    sysctl("tcp_syncookies", "2")?;
    let listener = stage.listener(NONBLOCKING)?;
    for _ in 0..3 {
        let client = stage.dial(NONBLOCKING, listener.at)?;
        around_accept(stage, &listener, client)?;
    }
    sysctl("tcp_syncookies", "1")
}

fn accept_overflow(stage: &mut Stage) -> Done {
    let ip = Ipv4Addr::LOCALHOST.into();
    let listener = Listener::new(&stage.log, NONBLOCKING, ip, 1)?;
    let mut clients = Vec::new();
    for _ in 0..6 {
        let client = stage.client(NONBLOCKING.socket()?);
        let _ = connect(&client, &listener.at);
        clients.push(client);
    }
    let mut servers = Vec::new();
    let start = Instant::now();
    // Some are established at both ends, some only think so, some are not. Who thinks so must send:
    // the server hears of nothing else.
    while servers.len() < clients.len() && start.elapsed() < 2 * PATIENCE {
        for client in clients.iter_mut().filter(|c| c.sent == 0) {
            let (bytes, flags) = (client.next_bytes(100), rustix::net::SendFlags::NOSIGNAL);
            client.sent += rustix::net::send(&*client, &bytes, flags).unwrap_or(0) as u64;
        }
        thread::sleep(Duration::from_millis(50));
        while let Some(server) = listener.accept_now("server") {
            servers.push(server);
        }
    }
    stage.note(format!("{} accepted", servers.len()));
    for client in &mut clients {
        let (bytes, flags) = (client.next_bytes(1000), rustix::net::SendFlags::NOSIGNAL);
        client.sent += rustix::net::send(&*client, &bytes, flags)? as u64;
        rustix::net::shutdown(&*client, Shutdown::Write)?;
    }
    let sent: u64 = clients.iter().map(|c| c.sent).sum();
    let mut got = 0;
    for server in &mut servers {
        let mut buffer = vec![0; 4096];
        while server.ready(PollFlags::IN, PATIENCE) {
            let n = rustix::net::recv(&*server, &mut buffer[..], rustix::net::RecvFlags::empty());
            let n = n.map_or(0, |(n, _)| n);
            stage.note_unless(server.check(&buffer[..n]).is_empty(), "WRONG");
            server.got += n as u64;
            if n == 0 {
                break;
            }
        }
        got += server.got;
    }
    stage.note(format!("all bytes came: {}", got == sent));
    Ok(())
}
