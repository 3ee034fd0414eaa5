//! What the codec forwards of requests: the same however they come, and read by another parser as it was
//! decided on.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "of tests, which fail there")]

use proptest::prelude::*;
use underpass_l7::{Refusal, limit::Limits};

mod support;

use support::{
    corpus::{PIECES, STREAMS},
    feeder::{Outcome, check, feed},
    smuggling::SMUGGLING,
};

const WHOLE: &[usize] = &[usize::MAX];

/// Small ones are reached.
fn limits() -> Limits {
    Limits {
        header_bytes: 600,
        header_count: 10,
        target_bytes: 100,
        body_bytes: 100_000,
        ..Limits::default()
    }
}

fn text(outcome: &Outcome) -> String {
    String::from_utf8_lossy(&outcome.forwarded).into_owned()
}

#[test]
fn good_streams_are_forwarded_to_their_end() {
    for stream in STREAMS {
        let outcome = feed(stream, WHOLE, Limits::default());
        assert_eq!(outcome.refusal, None, "{}", stream.escape_ascii());
        assert_eq!(outcome.whole, outcome.decided.len());
        assert!(outcome.whole > 0);
        check(&outcome).unwrap();
        for size in 1..40 {
            assert_eq!(feed(stream, &[size], Limits::default()), outcome, "{size}");
        }
    }
}

#[test]
fn what_can_be_read_in_two_ways_is_refused() {
    for (payload, why) in SMUGGLING {
        let stream = format!("{payload}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
        let whole = feed(stream.as_bytes(), WHOLE, Limits::default());
        assert_eq!(whole.refusal, Some(*why), "{payload:?}\n{}", text(&whole));
        assert_eq!(whole.whole, 0, "{payload:?}");
        assert!(!text(&whole).contains("smuggled"), "{payload:?}");
        let slowly = feed(stream.as_bytes(), &[1], Limits::default());
        assert_eq!(slowly.refusal, Some(*why), "{payload:?}, byte by byte");
        assert!(!text(&slowly).contains("smuggled"), "{payload:?}");
    }
}

#[test]
fn bounds_hold_while_a_message_comes() {
    let chunked = |body: String| {
        format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}")
    };
    let extensions = format!("1;{}\r\na\r\n", "b".repeat(400)).repeat(100);
    for (stream, why) in [
        (
            format!("GET /{} HTTP/1.1\r\n", "a".repeat(900)),
            Refusal::TargetLength,
        ),
        (
            format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n", "b".repeat(900)),
            Refusal::HeaderBytes,
        ),
        (
            format!("GET / HTTP/1.1\r\nHost: a\r\nX:{}\r\n", " ".repeat(900)),
            Refusal::HeaderBytes,
        ),
        (
            format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(10)),
            Refusal::HeaderCount,
        ),
        (
            format!(
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: {}\r\n\r\n",
                "x,".repeat(40)
            ),
            Refusal::ConnectionOption,
        ),
        (
            chunked(format!("5;{}", "a".repeat(600))),
            Refusal::ChunkExtensions,
        ),
        (chunked(extensions), Refusal::ChunkExtensions),
        (chunked("1ffff\r\n".into()), Refusal::BodyLength),
        (
            chunked(format!("ffff\r\n{}\r\nffff\r\n", "a".repeat(0xffff))),
            Refusal::BodyLength,
        ),
        (
            chunked(format!("0\r\nX: {}\r\n\r\n", "a".repeat(9000))),
            Refusal::Trailers,
        ),
        (
            chunked(format!("0\r\n{}\r\n", "X: y\r\n".repeat(40))),
            Refusal::Trailers,
        ),
    ] {
        for size in [usize::MAX, 1, 7] {
            let outcome = feed(stream.as_bytes(), &[size], limits());
            let shown = &stream[..stream.len().min(200)];
            assert_eq!(outcome.refusal, Some(why), "{shown:?} by {size}");
        }
    }
    // Far more fields than there is room for.
    let many = format!(
        "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
        "X: y\r\n".repeat(200)
    );
    assert_eq!(
        feed(many.as_bytes(), WHOLE, Limits::default()).refusal,
        Some(Refusal::HeaderCount)
    );
}

/// Pieces of requests in any order: mostly nonsense, and now and then something that passes.
fn streams() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        8 => prop::sample::select(PIECES).prop_map(<[u8]>::to_vec),
        2 => prop::sample::select(STREAMS).prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(any::<u8>(), 0..4),
    ];
    let pieces = prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat());
    let begun = (
        prop::sample::select(STREAMS),
        pieces.clone(),
        any::<prop::sample::Index>(),
    );
    prop_oneof![
        pieces,
        // Something is put into a good stream.
        begun.prop_map(|(stream, piece, at)| {
            let at = at.index(stream.len());
            [&stream[..at], &piece, &stream[at..]].concat()
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn the_next_parser_reads_what_was_decided_on(stream in streams()) {
        let outcome = feed(&stream, WHOLE, Limits::default());
        if let Err(why) = check(&outcome) {
            prop_assert!(false, "{}\n{why}", stream.escape_ascii());
        }
    }

    #[test]
    fn pieces_of_any_size_are_the_same_as_the_whole(
        stream in streams(),
        sizes in prop::collection::vec(1usize..60, 1..6),
    ) {
        let whole = feed(&stream, WHOLE, limits());
        for sizes in [&sizes[..], &[1]] {
            let pieces = feed(&stream, sizes, limits());
            prop_assert_eq!(pieces.refusal, whole.refusal, "{}", stream.escape_ascii());
            prop_assert_eq!(pieces.whole, whole.whole);
            // Of a body that turns out bad, more has gone by then.
            prop_assert!(pieces.forwarded.starts_with(&whole.forwarded));
            if whole.refusal.is_none() {
                prop_assert_eq!(&pieces, &whole);
            }
        }
    }
}
