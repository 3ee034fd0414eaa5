//! What few programs use: urgent data, corks, zero copy, low-water marks, TCP_INFO.

use std::{
    io, thread,
    time::{Duration, Instant},
};

use rustix::{
    event::PollFlags,
    io::ioctl_fionread,
    net::{RecvFlags, SendFlags, recv, recvmsg, send, sockopt},
};

use super::{
    Case, Done, Stage, Takes, opts,
    script::{End, QUIET_MS},
    transcript::shown,
};

pub const CASES: &[Case] = &[
    Case {
        name: "peek_off",
        about: "SO_PEEK_OFF moves with each peek",
        takes: Takes::Shortcut,
        run: peek_off,
    },
    Case {
        name: "rcvlowat",
        about: "SO_RCVLOWAT holds poll back until enough has come",
        takes: Takes::Either,
        run: rcvlowat,
    },
    Case {
        name: "tcp_info_bytes",
        about: "TCP_INFO: bytes received and acknowledged grow with the data",
        takes: Takes::Shortcut,
        run: tcp_info_bytes,
    },
    Case {
        name: "oob",
        about: "urgent byte: POLLPRI, MSG_OOB, and the mark between the bytes before and after",
        takes: Takes::Shortcut,
        run: oob,
    },
    Case {
        name: "oob_inline",
        about: "urgent byte with SO_OOBINLINE",
        takes: Takes::Shortcut,
        run: oob_inline,
    },
    Case {
        name: "cork",
        about: "TCP_CORK holds small messages back until it is taken off",
        takes: Takes::Shortcut,
        run: cork,
    },
    Case {
        name: "more",
        about: "MSG_MORE holds a message back until the next one",
        takes: Takes::Shortcut,
        run: more,
    },
    Case {
        name: "zerocopy",
        about: "MSG_ZEROCOPY: the bytes arrive and the completion comes",
        takes: Takes::Either,
        run: zerocopy,
    },
];

fn peek_off(stage: &mut Stage) -> Done {
    let (mut client, server) = stage.pair()?;
    let _ = client.send(100);
    server.arrived(100);
    opts::set_peek_off(&server, 30)?;
    // The offset is not where the bytes' check expects them, so only counts are looked at.
    for _ in 0..3 {
        let mut buffer = [0; 40];
        let got = recv(&server, &mut buffer[..], RecvFlags::PEEK).map(|(n, _)| n);
        server.note(format!("peek 40 = {}", shown(got)));
    }
    Ok(())
}

fn rcvlowat(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    opts::set_rcvlowat(&server, 200)?;
    let _ = client.send(100);
    server.arrived(100);
    server.poll(PollFlags::IN, QUIET_MS);
    let _ = client.send(100);
    server.arrived(200);
    server.poll(PollFlags::IN, QUIET_MS);
    let _ = server.recv(4096);
    Ok(())
}

fn tcp_info_bytes(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let _ = client.send(1000);
    server.arrived(1000);
    let _ = server.recv(4096);
    let info = opts::tcp_info(&server)?;
    server.note(format!(
        "TCP_INFO bytes_received = {}",
        info.tcpi_bytes_received
    ));
    // The ACK of the last bytes may be put off.
    let acked = || opts::tcp_info(&client).map(|i| i.tcpi_bytes_acked);
    let start = Instant::now();
    while acked()? < 1000 && start.elapsed() < Duration::from_secs(1) {
        thread::sleep(Duration::from_millis(5));
    }
    // One more for the SYN.
    client.note(format!("TCP_INFO bytes_acked = {}", acked()?));
    Ok(())
}

fn oob(stage: &mut Stage) -> Done {
    let (mut client, server) = stage.pair()?;
    let _ = client.send(10);
    let _ = client.send_flags(1, SendFlags::OOB, " oob");
    let _ = client.send(10);
    // FIONREAD stops at the mark.
    server.arrived(10);
    thread::sleep(Duration::from_millis(20));
    server.poll(PollFlags::IN | PollFlags::PRI, QUIET_MS);
    let urgent = client.mine().bytes(10, 1);
    let mut byte = [0; 1];
    let got = recv(&server, &mut byte[..], RecvFlags::OOB).map(|(n, _)| n);
    let right = got.is_ok() && byte == urgent[..];
    server.note(format!(
        "recv oob 1 = {}, the urgent byte: {right}",
        shown(got)
    ));
    // What is left may lack another byte than TCP's, so only the counts are compared.
    for _ in 0..2 {
        let mut rest = [0; 4096];
        let got = recv(&server, &mut rest[..], RecvFlags::empty()).map(|(n, _)| n);
        server.note(format!("recv 4096 = {}", shown(got)));
    }
    Ok(())
}

fn oob_inline(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    sockopt::set_socket_oobinline(&server, true)?;
    let _ = client.send(10);
    let _ = client.send_flags(1, SendFlags::OOB, " oob");
    let _ = client.send(10);
    server.arrived(21);
    server.poll(PollFlags::IN | PollFlags::PRI, QUIET_MS);
    for _ in 0..3 {
        let _ = server.recv(4096);
    }
    Ok(())
}

/// Whether anything has come after a wait that is long for loopback and short for TCP's cork timer.
fn shows_early(server: &End) {
    thread::sleep(Duration::from_millis(30));
    let unread = ioctl_fionread(server).unwrap_or(0);
    server.note(format!("early: {unread}"));
}

fn cork(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    sockopt::set_tcp_cork(&client, true)?;
    let _ = client.send(10);
    let _ = client.send(10);
    shows_early(&server);
    sockopt::set_tcp_cork(&client, false)?;
    server.arrived(20);
    let _ = server.recv(4096);
    Ok(())
}

fn more(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let _ = client.send_flags(10, SendFlags::MORE, " more");
    shows_early(&server);
    let _ = client.send(10);
    server.arrived(20);
    let _ = server.recv(4096);
    Ok(())
}

fn zerocopy(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    opts::set_zerocopy(&client)?;
    let bytes = client.next_bytes(50_000);
    let flags = SendFlags::from_bits_retain(opts::MSG_ZEROCOPY) | SendFlags::NOSIGNAL;
    let result = send(&client, &bytes, flags);
    client.note(format!("send zerocopy 50000 = {}", shown(result)));
    client.sent += result.unwrap_or(0) as u64;
    let len = client.sent;
    server.recv_all(len, 64 << 10);
    let came = client.ready(PollFlags::empty(), Duration::from_secs(1));
    client.note(format!("completion announced: {came}"));
    let mut space = [std::mem::MaybeUninit::uninit(); 256];
    let mut control = rustix::net::RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::ERRQUEUE | RecvFlags::DONTWAIT;
    let read = recvmsg(
        &client,
        &mut [io::IoSliceMut::new(&mut [0; 1])],
        &mut control,
        flags,
    );
    client.note(format!("completion = {}", shown(read.map(|m| m.bytes))));
    Ok(())
}
