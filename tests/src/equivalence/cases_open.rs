//! How connections begin.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
};

use rustix::{
    event::PollFlags,
    net::{Shutdown, bind, connect, connect_unspec, getsockname, sockopt},
};

use super::{
    Case, Done, Stage, Takes,
    script::{End, PATIENCE, QUIET_MS},
    stage::{BLOCKING, Kind, NONBLOCKING},
    transcript::done,
};

pub const CASES: &[Case] = &[
    Case {
        name: "nonblocking_connect",
        about: "EINPROGRESS, POLLOUT, SO_ERROR, a second connect; then data",
        takes: Takes::Shortcut,
        run: nonblocking_connect,
    },
    Case {
        name: "refused",
        about: "connect to a port where nobody listens, blocking and not",
        takes: Takes::Either,
        run: refused,
    },
    Case {
        name: "server_first",
        about: "the server speaks first",
        takes: Takes::Shortcut,
        run: server_first,
    },
    Case {
        name: "accept_inherits",
        about: "a blocking listener's accepted socket made non-blocking later, and the other way round",
        takes: Takes::Either,
        run: accept_inherits,
    },
    Case {
        name: "blocking_then_nonblocking",
        about: "the client connects blocking, then sets O_NONBLOCK, as curl and many libraries do",
        takes: Takes::Either,
        run: blocking_then_nonblocking,
    },
    Case {
        name: "same_tuple",
        about: "20 connections one after the other with the same addresses and ports",
        takes: Takes::Shortcut,
        run: same_tuple,
    },
    Case {
        name: "self_connect",
        about: "a socket connected to itself",
        takes: Takes::Either,
        run: self_connect,
    },
    Case {
        name: "ipv6",
        about: "over ::1",
        takes: Takes::Shortcut,
        run: |s| {
            let v6 = Kind {
                v6: true,
                ..NONBLOCKING
            };
            let (client, server) = s.pair_of(v6, v6)?;
            exchange(s, client, server)
        },
    },
    Case {
        name: "v4_mapped",
        about: "an IPv6 socket to ::ffff:127.0.0.1",
        takes: Takes::Either,
        run: v4_mapped,
    },
    Case {
        name: "names",
        about: "getsockname and getpeername at both ends agree",
        takes: Takes::Shortcut,
        run: names,
    },
    Case {
        name: "disconnect",
        about: "connect(AF_UNSPEC) breaks the connection; the socket dials again",
        takes: Takes::Shortcut,
        run: disconnect,
    },
];

/// A few messages each way, with a change of path, and an orderly end.
pub fn exchange(stage: &mut Stage, mut client: End, mut server: End) -> Done {
    for round in 0..6 {
        stage.engine.redirect(round != 3)?;
        let _ = client.send(100 + round);
        let _ = client.send(3000);
        server.recv_all(3100 + round as u64, 64 << 10);
        let _ = server.send(500);
        client.recv_all(500, 64 << 10);
    }
    client.shutdown(Shutdown::Write);
    server.drain(0);
    Ok(())
}

fn nonblocking_connect(stage: &mut Stage) -> Done {
    let listener = stage.listener(NONBLOCKING)?;
    let mut client = stage.client(NONBLOCKING.socket()?);
    client.note(format!(
        "connect = {}",
        done(connect(&client, &listener.at))
    ));
    client.poll(PollFlags::OUT, PATIENCE.as_millis() as i64);
    client.error();
    client.note(format!(
        "connect = {}",
        done(connect(&client, &listener.at))
    ));
    client.note(format!(
        "connect = {}",
        done(connect(&client, &listener.at))
    ));
    let mut server = listener.accept("server")?;
    let _ = client.send(100);
    server.arrived(100);
    let _ = server.recv(4096);
    Ok(())
}

fn refused(stage: &mut Stage) -> Done {
    // Bound, but nobody listens.
    let holder = NONBLOCKING.socket()?;
    bind(&holder, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let to = SocketAddr::try_from(getsockname(&holder)?).map_err(io::Error::from)?;
    for kind in [BLOCKING, NONBLOCKING] {
        let mut client = stage.client(kind.socket()?);
        client.note(format!("connect = {}", done(connect(&client, &to))));
        client.poll(PollFlags::OUT, QUIET_MS);
        client.error();
        let _ = client.send(10);
        let _ = client.recv(10);
    }
    Ok(())
}

fn server_first(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let _ = server.send(100);
    client.arrived(100);
    let _ = client.recv(4096);
    exchange(stage, client, server)
}

fn accept_inherits(stage: &mut Stage) -> Done {
    let (client, server) = stage.pair_of(NONBLOCKING, BLOCKING)?;
    server.blocking(false)?;
    exchange(stage, client, server)?;
    let (client, server) = stage.pair_of(NONBLOCKING, NONBLOCKING)?;
    server.blocking(true)?;
    exchange(stage, client, server)
}

fn blocking_then_nonblocking(stage: &mut Stage) -> Done {
    let (client, server) = stage.pair_of(BLOCKING, NONBLOCKING)?;
    client.blocking(false)?;
    exchange(stage, client, server)
}

fn same_tuple(stage: &mut Stage) -> Done {
    let listener = stage.listener(NONBLOCKING)?;
    let mut from = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    for _ in 0..20 {
        let fd = NONBLOCKING.socket()?;
        sockopt::set_socket_reuseaddr(&fd, true)?;
        bind(&fd, &from)?;
        from = SocketAddr::try_from(getsockname(&fd)?).map_err(io::Error::from)?;
        let _ = connect(&fd, &listener.at);
        let mut client = stage.client(fd);
        client.ready(PollFlags::OUT, PATIENCE);
        let mut server = listener.accept("server")?;
        let _ = client.send(100);
        server.arrived(100);
        let _ = server.recv(4096);
        let _ = server.send(100);
        client.arrived(100);
        let _ = client.recv(4096);
        // Without TIME_WAIT, so that the ports are free at once.
        client.abort();
    }
    Ok(())
}

fn self_connect(stage: &mut Stage) -> Done {
    let fd = NONBLOCKING.socket()?;
    bind(&fd, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let me = SocketAddr::try_from(getsockname(&fd)?).map_err(io::Error::from)?;
    let mut end = End::new("client", fd, &stage.log, (1, 1));
    end.note(format!("connect = {}", done(connect(&end, &me))));
    end.ready(PollFlags::OUT, PATIENCE);
    for _ in 0..3 {
        let _ = end.send(100);
        let _ = end.send(200);
        end.arrived(300);
        let _ = end.recv(4096);
    }
    let _ = end.send(100);
    end.shutdown(Shutdown::Write);
    end.drain(100);
    Ok(())
}

fn v4_mapped(stage: &mut Stage) -> Done {
    let listener = stage.listener(NONBLOCKING)?;
    let v6 = Kind {
        v6: true,
        ..NONBLOCKING
    };
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), listener.at.port()));
    let client = stage.dial(v6, to)?;
    let server = listener.accept("server")?;
    exchange(stage, client, server)
}

fn names(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let _ = client.send(10);
    server.arrived(10);
    let _ = server.recv(10);
    let local = |end: &End| {
        getsockname(end)
            .ok()
            .and_then(|a| SocketAddr::try_from(a).ok())
    };
    let remote = |end: &End| {
        let name = rustix::net::getpeername(end).ok().flatten();
        name.and_then(|a| SocketAddr::try_from(a).ok())
    };
    let agree = local(&client) == remote(&server) && remote(&client) == local(&server);
    stage.note(format!("agree: {}", agree && local(&client).is_some()));
    Ok(())
}

fn disconnect(stage: &mut Stage) -> Done {
    let listener = stage.listener(NONBLOCKING)?;
    let mut client = stage.dial(NONBLOCKING, listener.at)?;
    let mut server = listener.accept("server")?;
    let _ = client.send(100);
    server.arrived(100);
    client.note(format!("disconnect = {}", done(connect_unspec(&client))));
    let _ = client.send(10);
    server.poll(PollFlags::IN | PollFlags::OUT | PollFlags::RDHUP, QUIET_MS);
    let _ = server.recv(4096);
    let _ = server.recv(4096);
    let again = connect(&client, &listener.at);
    client.note(format!("connect = {}", done(again)));
    client.ready(PollFlags::OUT, PATIENCE);
    let mut second = listener.accept("server2")?;
    second.got = client.sent;
    let _ = client.send(100);
    second.arrived(100);
    let _ = second.recv(4096);
    Ok(())
}
