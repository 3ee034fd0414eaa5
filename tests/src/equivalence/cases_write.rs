//! The many ways of writing, and what holds a writer back.

use std::time::Duration;

use rustix::{
    event::{PollFlags, epoll::EventFlags},
    net::{SendFlags, Shutdown, send, sockopt},
};

use super::{
    Case, Done, Stage, Takes,
    poller::Poller,
    script::{PATIENCE, QUIET_MS},
    task::Task,
    transcript::shown,
};

/// More than any reader that does not read may be sent.
const FILL_MAX: u64 = 16 << 20;

pub const CASES: &[Case] = &[
    Case {
        name: "stalled_reader",
        about: "a writer meets EAGAIN when the reader stops, and POLLOUT when it reads again",
        takes: Takes::Shortcut,
        run: |s| stalled_reader(s, 64 << 10),
    },
    Case {
        name: "stalled_reader_small",
        about: "the same with messages of 100 bytes",
        takes: Takes::Shortcut,
        run: |s| stalled_reader(s, 100),
    },
    Case {
        name: "stalled_reader_huge",
        about: "the same with messages of 3 MB",
        takes: Takes::Shortcut,
        run: |s| stalled_reader(s, 3 << 20),
    },
    Case {
        name: "pollout_edge",
        about: "edge-triggered EPOLLOUT comes once a full socket has room again",
        takes: Takes::Shortcut,
        run: pollout_edge,
    },
    Case {
        name: "both_stalled",
        about: "both ends write until they are refused, then both read",
        takes: Takes::Shortcut,
        run: both_stalled,
    },
    Case {
        name: "blocking_send_stalled",
        about: "a blocking send waits for the reader",
        takes: Takes::Either,
        run: blocking_send_stalled,
    },
    Case {
        name: "sndtimeo",
        about: "SO_SNDTIMEO ends a blocking send to a stalled reader",
        takes: Takes::Either,
        run: sndtimeo,
    },
    Case {
        name: "zero_sends",
        about: "sends of 0 and 1 bytes, writev with empty parts",
        takes: Takes::Shortcut,
        run: zero_sends,
    },
    Case {
        name: "sizes",
        about: "sends of sizes around pages, segments and fragments, read at once",
        takes: Takes::Shortcut,
        run: sizes,
    },
    Case {
        name: "many_parts",
        about: "writev with 1,000 parts",
        takes: Takes::Shortcut,
        run: many_parts,
    },
    Case {
        name: "sndbuf_small",
        about: "SO_SNDBUF of 4 KB, 300 KB sent",
        takes: Takes::Shortcut,
        run: sndbuf_small,
    },
    Case {
        name: "pipelining",
        about: "500 requests of 1 to 500 bytes without waiting, then 500 answers",
        takes: Takes::Shortcut,
        run: pipelining,
    },
    Case {
        name: "request_response",
        about: "requests and answers of 1 B to 1 MB, one after the other",
        takes: Takes::Shortcut,
        run: request_response,
    },
    Case {
        name: "shared_page",
        about: "the writer's buffer is written over right after send",
        takes: Takes::Shortcut,
        run: shared_page,
    },
];

fn stalled_reader(stage: &mut Stage, chunk: usize) -> Done {
    let (mut client, mut server) = stage.pair()?;
    client.poll(PollFlags::OUT, QUIET_MS);
    let sent = client.fill(chunk, FILL_MAX);
    client.poll(PollFlags::OUT, QUIET_MS);
    server.recv_all(sent, 64 << 10);
    stage.note(format!(
        "writable again: {}",
        client.ready(PollFlags::OUT, PATIENCE)
    ));
    let _ = client.send(10);
    server.recv_all(10, 64);
    Ok(())
}

fn pollout_edge(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let poller = Poller::new(&client, EventFlags::OUT | EventFlags::ET)?;
    poller.wait(&client, QUIET_MS);
    let sent = client.fill(64 << 10, FILL_MAX);
    // Room may come and go while the kernel still moves what was sent.
    while poller.wait_quietly(50).is_some() {}
    poller.quiet(&client);
    server.recv_all(sent, 64 << 10);
    poller.wait(&client, PATIENCE.as_millis() as i64);
    Ok(())
}

fn both_stalled(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let up = client.fill(32 << 10, FILL_MAX);
    let down = server.fill(32 << 10, FILL_MAX);
    server.recv_all(up, 64 << 10);
    client.recv_all(down, 64 << 10);
    Ok(())
}

fn blocking_send_stalled(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.blocking_pair()?;
    let sent = client.fill(64 << 10, FILL_MAX);
    let writer = Task::start(client, |end| {
        let _ = end.send(1 << 20);
    })?;
    writer.blocks();
    server.recv_all(sent + (1 << 20), 64 << 10);
    writer.join()?;
    Ok(())
}

fn sndtimeo(stage: &mut Stage) -> Done {
    let (mut client, _server) = stage.blocking_pair()?;
    let limit = Duration::from_millis(200);
    sockopt::set_socket_timeout(&client, sockopt::Timeout::Send, Some(limit))?;
    client.fill(64 << 10, FILL_MAX);
    let start = std::time::Instant::now();
    let _ = client.send(1 << 10);
    stage.note(format!("in time: {}", start.elapsed() >= limit));
    Ok(())
}

fn zero_sends(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let _ = client.send(0);
    server.poll(PollFlags::IN, QUIET_MS);
    let _ = client.send(1);
    client.send_vectored(&[0, 5, 0, 0, 7, 0])?;
    client.send_vectored(&[0, 0])?;
    server.arrived(13);
    server.fionread();
    let _ = server.recv(4096);
    let _ = server.recv(4096);
    Ok(())
}

fn sizes(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    for base in [1 << 10, 4 << 10, 16 << 10, 32 << 10, 64 << 10] {
        for len in [base - 1, base, base + 1] {
            let _ = client.send(len);
            server.recv_all(len as u64, 256 << 10);
        }
    }
    Ok(())
}

fn many_parts(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let parts: Vec<usize> = (0..1000).map(|i| i % 37).collect();
    let total: usize = parts.iter().sum();
    let sent = client.send_vectored(&parts)?;
    stage.note(format!("whole: {}", sent == total));
    server.recv_all(sent as u64, 64 << 10);
    Ok(())
}

fn sndbuf_small(stage: &mut Stage) -> Done {
    let (client, mut server) = stage.pair()?;
    sockopt::set_socket_send_buffer_size(&client, 4096)?;
    let writer = Task::start(client, |end| {
        let _ = end.send_all(300_000, 30_000);
    })?;
    server.recv_all(300_000, 64 << 10);
    writer.join()?;
    Ok(())
}

fn pipelining(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let lens: Vec<usize> = (0..500).map(|i| 1 + (i * 37) % 500).collect();
    let total: usize = lens.iter().sum();
    for round in 0..2 {
        stage.engine.redirect(round == 0)?;
        for len in &lens {
            client.send_all(*len as u64, *len)?;
        }
        server.recv_all(total as u64, 700);
        for len in &lens {
            server.send_all(*len as u64, *len)?;
        }
        client.recv_all(total as u64, 64 << 10);
    }
    Ok(())
}

fn request_response(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    for (up, down) in [
        (1, 1),
        (64, 64),
        (1000, 16_000),
        (64 << 10, 10),
        (10, 1 << 20),
    ] {
        let (there, back) = (up as u64, down as u64);
        let worker = Task::start(server, move |end| {
            for _ in 0..20 {
                end.recv_all(there, 16 << 10);
                let _ = end.send_all(back, down);
            }
        })?;
        for _ in 0..20 {
            client.send_all(there, up)?;
            client.recv_all(back, 16 << 10);
        }
        server = worker.join()?;
    }
    Ok(())
}

fn shared_page(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    for len in [100, 4096, 20_000] {
        let mut bytes = client.next_bytes(len);
        let result = send(&client, &bytes, SendFlags::NOSIGNAL);
        bytes.fill(0xee);
        client.note(format!("send {len} = {}", shown(result)));
        client.sent += result.unwrap_or(0) as u64;
        std::hint::black_box(&bytes);
        server.recv_all(len as u64, 64 << 10);
    }
    client.shutdown(Shutdown::Write);
    server.drain(0);
    Ok(())
}
