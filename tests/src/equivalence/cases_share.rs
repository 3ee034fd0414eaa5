//! One socket in several threads, processes and descriptors.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::{fd::AsFd as _, unix::net::UnixStream},
    sync::Mutex,
    thread,
};

use rustix::{
    event::PollFlags,
    io::Errno,
    net::{
        RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, recv, send,
        sendmsg,
    },
};

use super::{
    Case, Done, Stage, Takes,
    script::{End, PATIENCE, QUIET_MS},
    task::Part,
};

pub const CASES: &[Case] = &[
    Case {
        name: "fork_reads",
        about: "parent and child read in turn from one socket",
        takes: Takes::Shortcut,
        run: fork_reads,
    },
    Case {
        name: "fork_writes",
        about: "parent and child write in turn; the end comes when both have closed",
        takes: Takes::Shortcut,
        run: fork_writes,
    },
    Case {
        name: "fork_outlives",
        about: "the parent closes with unread bytes while the child holds the socket and reads on",
        takes: Takes::Shortcut,
        run: fork_outlives,
    },
    Case {
        name: "passed",
        about: "a descriptor is passed in mid-stream, with unread bytes, to a process that reads on",
        takes: Takes::Shortcut,
        run: passed,
    },
    Case {
        name: "in_flight",
        about: "a descriptor that was sent but never received is closed with its Unix socket",
        takes: Takes::Shortcut,
        run: in_flight,
    },
    Case {
        name: "dup_closed",
        about: "one of two descriptors is closed",
        takes: Takes::Shortcut,
        run: dup_closed,
    },
    Case {
        name: "writers",
        about: "four threads write 2,000 records of 8 bytes each into one socket; the path changes under them",
        takes: Takes::Shortcut,
        run: writers,
    },
    Case {
        name: "readers",
        about: "four threads read records of 8 bytes from one socket",
        takes: Takes::Shortcut,
        run: readers,
    },
    Case {
        name: "both_ways",
        about: "each end reads and writes 4 MB at the same time, on two threads",
        takes: Takes::Shortcut,
        run: both_ways,
    },
];

fn fork_reads(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    for round in 0..4 {
        stage.engine.redirect(round % 2 == 0)?;
        let _ = client.send(5000);
        server.recv_all(2000, 700);
        let part = Part::start(&server, "child", "read", &[server.got, 3000])?;
        part.finish()?;
        server.got += 3000;
    }
    Ok(())
}

fn fork_writes(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    for _ in 0..2 {
        let _ = client.send(1000);
        Part::start(&client, "child", "write", &[client.sent, 5000])?.finish()?;
        client.sent += 5000;
    }
    let holder = Part::start(&client, "holder", "hold", &[])?;
    client.close();
    server.recv_all(12_000, 4096);
    server.poll(PollFlags::IN | PollFlags::RDHUP, QUIET_MS);
    holder.kill()?;
    server.drain(0);
    Ok(())
}

fn fork_outlives(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let _ = client.send(1000);
    server.arrived(1000);
    let _ = server.recv(100);
    let part = Part::start(&server, "child", "read", &[100, 1900])?;
    server.close();
    let _ = client.send(1000);
    part.finish()?;
    client.poll(PollFlags::IN, PATIENCE.as_millis() as i64);
    let _ = client.recv(10);
    Ok(())
}

/// Sends an end's descriptor over a Unix socket and closes it here.
fn pass(end: End, over: &UnixStream) -> io::Result<()> {
    let fd = end.into_fd();
    let fds = [fd.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::Error::other("no room for the descriptor"));
    }
    sendmsg(
        over,
        &[IoSlice::new(b"s")],
        &mut control,
        SendFlags::empty(),
    )?;
    Ok(())
}

fn passed(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let _ = client.send(1000);
    stage.engine.redirect(false)?;
    let _ = client.send(1000);
    server.arrived(2000);
    let _ = server.recv(300);
    let (here, there) = UnixStream::pair()?;
    let part = Part::on(there.into(), &stage.log, "other", "passed", &[300, 4700])?;
    pass(server, &here)?;
    stage.engine.redirect(true)?;
    client.send_all(3000, 500).ok();
    part.finish()
}

fn in_flight(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let _ = client.send(100);
    server.arrived(100);
    let _ = server.recv(100);
    let (here, there) = UnixStream::pair()?;
    pass(server, &here)?;
    let _ = client.send(100);
    client.poll(PollFlags::IN, QUIET_MS);
    drop((here, there));
    client.poll(PollFlags::IN, PATIENCE.as_millis() as i64);
    let _ = client.recv(10);
    Ok(())
}

fn dup_closed(stage: &mut Stage) -> Done {
    let (mut client, server) = stage.pair()?;
    let mut second = server.dup("server2")?;
    let _ = client.send(100);
    second.arrived(100);
    server.close();
    let _ = client.send(100);
    second.arrived(200);
    let _ = second.recv(4096);
    let _ = second.send(50);
    client.arrived(50);
    let _ = client.recv(50);
    second.close();
    client.poll(PollFlags::IN | PollFlags::RDHUP, QUIET_MS);
    let _ = client.recv(50);
    Ok(())
}

const RECORDS: u32 = 2000;

/// Writes one record whole.
fn write_record(end: &End, thread: u32, number: u32) -> io::Result<()> {
    let record = [thread.to_be_bytes(), number.to_be_bytes()].concat();
    loop {
        match send(end, &record, SendFlags::NOSIGNAL) {
            Ok(8) => return Ok(()),
            Ok(_) => return Err(io::Error::other("a record was cut")),
            Err(Errno::AGAIN) => {
                end.ready(PollFlags::OUT, PATIENCE);
            }
            Err(e) => return Err(e.into()),
        }
    }
}

fn writers(stage: &mut Stage) -> Done {
    let (client, server) = stage.pair()?;
    let engine = &mut stage.engine;
    let problem = thread::scope(|scope| -> io::Result<&str> {
        let client = &client;
        let threads: Vec<_> = (0..4)
            .map(|t| scope.spawn(move || (0..RECORDS).try_for_each(|n| write_record(client, t, n))))
            .collect();
        let mut next = [0; 4];
        let (mut have, mut buffer) = (Vec::new(), [0; 4096]);
        while next.iter().sum::<u32>() < 4 * RECORDS {
            engine.redirect(next[0] % 100 < 60)?;
            if !server.ready(PollFlags::IN, PATIENCE) {
                return Ok("nothing more comes");
            }
            let got = recv(&server, &mut buffer[..], RecvFlags::empty()).map_or(0, |(n, _)| n);
            have.extend_from_slice(&buffer[..got]);
            let whole = have.len() / 8 * 8;
            for record in have.drain(..whole).collect::<Vec<u8>>().chunks(8) {
                let thread = u32::from_be_bytes([record[0], record[1], record[2], record[3]]);
                let number = u32::from_be_bytes([record[4], record[5], record[6], record[7]]);
                match next.get_mut(thread as usize) {
                    Some(next) if *next == number => *next += 1,
                    _ => return Ok("WRONG record"),
                }
            }
        }
        for thread in threads {
            thread.join().map_err(|_| io::Error::other("panicked"))??;
        }
        Ok("all records")
    })?;
    stage.note(problem);
    Ok(())
}

fn readers(stage: &mut Stage) -> Done {
    let (client, server) = stage.pair()?;
    let seen = Mutex::new(Vec::new());
    thread::scope(|scope| -> io::Result<()> {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut record = [0; 8];
                while server.ready(PollFlags::IN, PATIENCE) {
                    match recv(&server, &mut record[..], RecvFlags::empty()) {
                        Ok((0, _)) => break,
                        Ok((n, _)) => {
                            let mut seen = seen.lock().expect("no reader panics");
                            seen.push(record[..n].to_vec());
                        }
                        Err(_) => {}
                    }
                }
            });
        }
        for number in 0..RECORDS {
            write_record(&client, 0, number)?;
        }
        Ok(rustix::net::shutdown(&client, Shutdown::Write)?)
    })?;
    let mut seen = seen.into_inner().map_err(io::Error::other)?;
    seen.sort();
    let wanted: Vec<Vec<u8>> = (0..RECORDS)
        .map(|n| [0_u32.to_be_bytes(), n.to_be_bytes()].concat())
        .collect();
    stage.note(format!("all records once and whole: {}", seen == wanted));
    Ok(())
}

fn both_ways(stage: &mut Stage) -> Done {
    const LEN: u64 = 4 << 20;
    let (client, server) = stage.pair()?;
    let mut ends = Vec::new();
    for end in [client, server] {
        let mut reader = end.dup(&format!("{} reader", end.name))?;
        let mut writer = end;
        ends.push(thread::spawn(move || {
            reader.recv_all(LEN, 10_000);
        }));
        ends.push(thread::spawn(move || {
            let _ = writer.send_all(LEN, 70_000);
            writer.shutdown(Shutdown::Write);
        }));
    }
    for end in ends {
        end.join().map_err(|_| io::Error::other("panicked"))?;
    }
    Ok(())
}
