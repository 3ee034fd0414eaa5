//! HTTP/2 from peers that do not behave, frame by frame: what it costs them, and what is counted.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "of tests, which fail there")]

use underpass_l7::Refusal;
use underpass_proxy::{
    counters::Count,
    h2::{PING_AFTER, PONG_WITHIN, STREAMS, watch},
    shard::Settings,
};

#[path = "support/peers.rs"]
#[allow(dead_code, reason = "each test file uses some of it")]
mod peers;
#[path = "support/rig.rs"]
#[allow(dead_code, reason = "each test file uses some of it")]
mod rig;

use peers::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEAD, HEADERS, PING, POST_HEAD,
    RST_STREAM, Raw, SETTINGS, WINDOW_UPDATE, word,
};
use rig::{Rig, run, run_paused};

const CANCEL: u32 = 8;
const REFUSED: u32 = 7;
const CALM: u32 = 11;
const WHOLE: u8 = END_HEADERS | END_STREAM;

/// Writes it over and over until the connection ends, and tells by which code it did.
async fn flood(rig: &Rig, mut piece: impl FnMut(u32) -> Vec<u8> + 'static, most: u32) -> u32 {
    let mut raw = Raw::client(rig).await;
    raw.expect(SETTINGS).await;
    let (mut read, mut write) = raw.0.into_split();
    let writing = tokio::task::spawn_local(async move {
        for i in 0..most {
            if tokio::io::AsyncWriteExt::write_all(&mut write, &piece(i))
                .await
                .is_err()
            {
                return i;
            }
        }
        most
    });
    // Answers are taken as they come, so that nothing but the flood itself can stop it.
    let mut bytes = Vec::new();
    let mut code = None;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let len = tokio::io::AsyncReadExt::read(&mut read, &mut buffer)
            .await
            .unwrap_or(0);
        bytes.extend_from_slice(&buffer[..len]);
        while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = &bytes[..] {
            let size = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            if rest.len() < size {
                break;
            }
            if *kind == GOAWAY {
                code = Some(word(&rest[4..]));
            }
            bytes.drain(..9 + size);
        }
        if len == 0 {
            break;
        }
    }
    writing.abort();
    code.expect("no GOAWAY")
}

#[test]
fn streams_that_are_reset_at_once() {
    run(async {
        let rig = Rig::start().await;
        let reset = |i: u32| {
            let id = 2 * i + 1;
            let mut frames = Raw::encode(HEADERS, WHOLE, id, HEAD);
            frames.extend(Raw::encode(RST_STREAM, 0, id, &CANCEL.to_be_bytes()));
            frames
        };
        assert_eq!(flood(&rig, reset, 100_000).await, CALM);
        let floods = rig.count(Count::H2ResetFlood) + rig.count(Count::H2Calm);
        assert!(floods > 0);
        // What was begun for them has ended.
        while rig.shard.open() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(rig.count(Count::H2Streams) <= u64::from(watch::RESET_BURST) + 200);
    });
}

#[test]
fn resets_with_time_between_are_counted_too() {
    run(async {
        let rig = Rig::start().await;
        let mut raw = Raw::client(&rig).await;
        // Each is accepted before it is reset, so that the crate's own bound does not see it.
        let mut reset = Vec::new();
        let mut opened = 0;
        while opened < watch::RESET_BURST * 3 {
            let id = 2 * opened + 1;
            let mut frames = std::mem::take(&mut reset);
            frames.extend(Raw::encode(HEADERS, WHOLE, id, HEAD));
            frames.extend(Raw::encode(PING, 0, 0, &[0; 8]));
            if tokio::io::AsyncWriteExt::write_all(&mut raw.0, &frames)
                .await
                .is_err()
            {
                break;
            }
            let Some(PING) = raw.next_but(&[SETTINGS, WINDOW_UPDATE]).await else {
                break;
            };
            opened += 1;
            reset = Raw::encode(RST_STREAM, 0, id, &CANCEL.to_be_bytes());
        }
        assert!(opened >= watch::RESET_BURST, "{opened}");
        assert!(opened < watch::RESET_BURST * 3, "{opened}");
        assert_eq!(rig.count(Count::H2ResetFlood), 1);
    });
}

#[test]
fn frames_that_carry_nothing() {
    let ping = Raw::encode(PING, 0, 0, &[0; 8]);
    let settings = Raw::encode(SETTINGS, 0, 0, b"");
    let unknown = Raw::encode(0x77, 0, 0, b"");
    let priority = Raw::encode(2, 0, 1, &[0, 0, 0, 0, 1]);
    for frame in [ping, settings, unknown, priority] {
        run(async {
            let rig = Rig::start().await;
            assert_eq!(flood(&rig, move |_| frame.clone(), 1_000_000).await, CALM);
            assert_eq!(rig.count(Count::H2FrameFlood), 1);
        });
    }
}

#[test]
fn what_carries_something_excuses_as_much() {
    run(async {
        let rig = Rig::start().await;
        let mut raw = Raw::client(&rig).await;
        raw.expect(SETTINGS).await;
        raw.frame(HEADERS, END_HEADERS, 1, POST_HEAD).await;
        let mut peer = Raw::endpoint(&rig.endpoints[0], b"").await;
        peer.expect(HEADERS).await;
        // A caller of gRPC that measures the path: a PING for each message, for long.
        let mut frames = Raw::encode(PING, 0, 0, &[0; 8]);
        frames.extend(Raw::encode(DATA, 0, 1, &[7; 100]));
        frames.extend(Raw::encode(WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes()));
        let (batch, update) = (50, 5000u32.to_be_bytes());
        for _ in 0..watch::IDLE_FRAME_BURST / batch {
            raw.bytes(&frames.repeat(batch as usize)).await;
            for _ in 0..batch {
                raw.expect(PING).await;
            }
            let mut data = 0;
            while data < 100 * batch as usize {
                data += peer.expect(DATA).await.payload.len();
            }
            peer.frame(WINDOW_UPDATE, 0, 0, &update).await;
            peer.frame(WINDOW_UPDATE, 0, 1, &update).await;
        }
        assert_eq!(rig.count(Count::H2FrameFlood), 0);
    });
}

#[test]
fn heads_without_an_end() {
    run(async {
        let rig = Rig::start().await;
        let mut begun = false;
        let head = move |_| {
            let first = !std::mem::replace(&mut begun, true);
            match first {
                true => Raw::encode(HEADERS, 0, 1, HEAD),
                // `x: y`, without an index.
                false => Raw::encode(CONTINUATION, 0, 1, b"\x00\x01x\x01y"),
            }
        };
        assert_eq!(flood(&rig, head, 1_000_000).await, CALM);
        assert_eq!(rig.count(Count::H2Calm), 1);
        assert_eq!(rig.count(Count::H2Streams), 0);
    });
}

#[test]
fn heads_that_are_too_large() {
    run(async {
        let rig = Rig::start().await;
        let mut raw = Raw::client(&rig).await;
        // Fields of 4 KiB, which `l7` adds up, then more than the crate takes.
        for (id, fields, expected) in [(1, 16, Some(431)), (3, 30, Some(431))] {
            let mut head = HEAD.to_vec();
            let mut value = vec![b'v'; 4096];
            for _ in 0..fields {
                // A literal whose value's length is 4096: 127 and 3969 more in groups of seven bits.
                head.extend(b"\x00\x01x\x7f\x81\x1f");
                head.append(&mut value.clone());
            }
            value.clear();
            let mut chunks = head.chunks(16 << 10).peekable();
            let mut kind = HEADERS;
            while let Some(chunk) = chunks.next() {
                let mut flags = if kind == HEADERS { END_STREAM } else { 0 };
                flags |= if chunks.peek().is_none() {
                    END_HEADERS
                } else {
                    0
                };
                raw.frame(std::mem::replace(&mut kind, CONTINUATION), flags, id, chunk)
                    .await;
            }
            let answer = raw.expect(HEADERS).await;
            assert_eq!(answer.id, id);
            let text = String::from_utf8_lossy(&answer.payload).into_owned();
            // A literal, or Huffman-coded by the crate: 431 is in no table.
            assert!(
                expected.is_some() && !answer.payload.contains(&0x88),
                "{text}"
            );
        }
        assert_eq!(rig.shard.counters.refused(Refusal::HeaderBytes), 1);
        assert_eq!(rig.count(Count::H2Streams), 1);
    });
}

#[test]
fn more_streams_than_there_may_be() {
    run(async {
        let rig = Rig::start().await;
        let mut raw = Raw::client(&rig).await;
        let settings = raw.expect(SETTINGS).await.payload;
        let told = settings.chunks(6).find(|s| s[..2] == [0, 3]).unwrap();
        assert_eq!(word(&told[2..]), STREAMS);
        raw.frame(SETTINGS, ACK, 0, b"").await;
        for i in 0..STREAMS + 1 {
            raw.frame(HEADERS, WHOLE, 2 * i + 1, HEAD).await;
        }
        let refused = raw.expect(RST_STREAM).await;
        assert_eq!(
            (refused.id, word(&refused.payload)),
            (2 * STREAMS + 1, REFUSED)
        );
        assert_eq!(rig.count(Count::H2Streams), u64::from(STREAMS));
        assert_eq!(rig.count(Count::H2Refused), 1);
    });
}

#[test]
fn fields_of_a_connection_and_two_hosts_are_refused() {
    run(async {
        let rig = Rig::start().await;
        let mut raw = Raw::client(&rig).await;
        let with = |field: &[u8]| [HEAD, field].concat();
        let cases: [&[u8]; 2] = [b"\x00\x02te\x04gzip", b"\x00\x04host\x05other"];
        for (id, field) in (1..).step_by(2).zip(cases) {
            raw.frame(HEADERS, WHOLE, id, &with(field)).await;
            assert_eq!(
                raw.next_of(id).await.kind,
                if id == 1 { RST_STREAM } else { HEADERS }
            );
        }
        assert_eq!(rig.shard.counters.refused(Refusal::HostConflict), 1);
        // The crate itself resets these, or ends the connection.
        raw.frame(HEADERS, WHOLE, 5, &with(b"\x00\x0aconnection\x05close"))
            .await;
        assert_eq!(raw.next_of(5).await.kind, RST_STREAM);
        assert_eq!(rig.count(Count::H2Errors), 2);
        raw.frame(HEADERS, WHOLE, 7, &with(b"\x00\x01X\x01y")).await;
        assert_eq!(raw.expect_goaway().await, 1);
        assert_eq!(rig.count(Count::H2Errors), 3);
    });
}

impl Raw {
    /// The kind of the next frame that is none of these.
    async fn next_but(&mut self, passed: &[u8]) -> Option<u8> {
        loop {
            let kind = self.next().await?.kind;
            if !passed.contains(&kind) {
                return Some(kind);
            }
        }
    }

    /// The next frame of this stream.
    async fn next_of(&mut self, id: u32) -> peers::Frame {
        loop {
            let frame = self.next().await.expect("the connection has ended");
            if frame.id == id {
                return frame;
            }
        }
    }
}

#[test]
fn a_goaway_of_the_endpoint_sends_what_it_has_not_looked_at_elsewhere() {
    run(async {
        let rig = Rig::start().await;
        let mut raw = Raw::client(&rig).await;
        raw.frame(HEADERS, WHOLE, 1, HEAD).await;
        let mut first = Raw::endpoint(&rig.endpoints[0], b"").await;
        first.expect(HEADERS).await;
        raw.frame(HEADERS, END_HEADERS, 3, POST_HEAD).await;
        raw.frame(DATA, END_STREAM, 3, b"body").await;
        assert_eq!(first.expect(DATA).await.payload, b"body");
        // It answers stream 1 only.
        first.frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]).await;
        let mut second = Raw::endpoint(&rig.endpoints[0], b"").await;
        second.expect(HEADERS).await;
        assert_eq!(second.expect(DATA).await.payload, b"body");
        second.frame(HEADERS, WHOLE, 1, b"\x88").await;
        assert_eq!(raw.expect(HEADERS).await.id, 3);
        first.frame(HEADERS, WHOLE, 1, b"\x88").await;
        assert_eq!(raw.expect(HEADERS).await.id, 1);
        // Drained, and then closed.
        while first.next().await.is_some() {}
        assert_eq!(rig.count(Count::Retried), 1);
        assert_eq!(rig.shard.upstreams.len(), 1);
    });
}

#[test]
fn an_idle_client_is_told_to_go() {
    run_paused(async {
        let rig = Rig::start().await;
        let mut raw = Raw::client(&rig).await;
        let start = tokio::time::Instant::now();
        assert_eq!(raw.expect_goaway().await, 0);
        assert!(start.elapsed() >= Settings::default().idle);
        assert_eq!(rig.count(Count::IdleTimeout), 1);
        assert_eq!(rig.shard.open(), 0);
    });
}

#[test]
fn a_client_that_drains_is_told_and_its_streams_end_as_they_would() {
    run(async {
        let rig = Rig::start().await;
        let workload = rig.shard.workload(5, "default/web");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let stream = tokio::net::TcpStream::connect(at).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let arrived = underpass_proxy::book::Arrived {
            workload,
            ..rig::arrived(at)
        };
        underpass_proxy::forward::spawn(&rig.shard, accepted, arrived);
        let mut raw = Raw(stream);
        raw.bytes(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        raw.frame(SETTINGS, 0, 0, b"").await;
        raw.frame(HEADERS, WHOLE, 1, HEAD).await;
        let mut peer = Raw::endpoint(&rig.endpoints[0], b"").await;
        peer.expect(HEADERS).await;
        rig.shard.drain(5);
        assert_eq!(word(&raw.expect(GOAWAY).await.payload[4..]), 0);
        peer.frame(HEADERS, WHOLE, 1, b"\x88").await;
        assert_eq!(raw.expect(HEADERS).await.id, 1);
    });
}

#[test]
fn a_silent_endpoint_is_asked_and_then_given_up() {
    run_paused(async {
        let rig = Rig::start().await;
        let mut raw = Raw::client(&rig).await;
        raw.frame(HEADERS, WHOLE, 1, HEAD).await;
        let mut peer = Raw::endpoint(&rig.endpoints[0], b"").await;
        peer.expect(HEADERS).await;
        let start = tokio::time::Instant::now();
        peer.expect(PING).await;
        assert!(start.elapsed() >= PING_AFTER);
        // It does not answer.
        let answer = raw.expect(HEADERS).await;
        assert_eq!(answer.id, 1);
        assert!(start.elapsed() >= PING_AFTER + PONG_WITHIN);
        assert_eq!(rig.count(Count::PingLost), 1);
        assert_eq!(rig.shard.counters.refused(Refusal::EndpointClosed), 1);
        assert_eq!(rig.shard.upstreams.len(), 0);
    });
}
