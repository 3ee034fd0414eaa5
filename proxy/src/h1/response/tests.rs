use proptest::prelude::*;

use super::*;
use crate::h1::{
    body::Body,
    scan::{HeadReader, Kind},
};

const REQUEST: RequestFacts = RequestFacts {
    framing: Framing::Empty,
    method: Method::Other,
    is_1_0: false,
    keep_alive: true,
    upgrade: false,
    repeatable: true,
};
const OLD: RequestFacts = RequestFacts {
    is_1_0: true,
    ..REQUEST
};

fn forwarded(head: &str, request: &RequestFacts) -> Result<(String, ResponseFacts), Refusal> {
    let mut out = Vec::new();
    let head = format!("HTTP/1.1 {head}\r\n\r\n");
    let facts = forward(
        head.as_bytes(),
        request,
        false,
        &Limits::default(),
        &mut out,
    );
    let text = String::from_utf8_lossy(&out).into_owned();
    assert!(facts.is_ok() || text.is_empty());
    Ok((text, facts?))
}

#[track_caller]
fn check(head: &str, request: &RequestFacts, expected: &str) -> ResponseFacts {
    let (text, facts) = forwarded(head, request).unwrap();
    let expected = match expected {
        "" => String::new(),
        text => format!("HTTP/1.1 {text}\r\n\r\n"),
    };
    assert_eq!(text, expected);
    facts
}

#[test]
fn fields_are_passed_on_but_for_the_hop_s_own() {
    let facts = check(
        "200 All \u{e9} fine\r\ncontent-Length: 3\r\nConnection: x, keep-alive\r\nX: y\r\nSet-Cookie: a\r\nUpgrade: h2\r\nSet-Cookie: b",
        &REQUEST,
        "200 All \u{e9} fine\r\ncontent-Length: 3\r\nSet-Cookie: a\r\nSet-Cookie: b",
    );
    assert_eq!(facts.framing, Framing::Length(3));
    assert!(facts.keep_upstream && facts.keep_downstream);
    // No reason, and no space before it.
    check(
        "200\r\nContent-Length: 3",
        &REQUEST,
        "200\r\nContent-Length: 3",
    );
}

#[test]
fn each_connection_has_its_own_end() {
    let facts = check(
        "200 OK\r\nContent-Length: 3\r\nConnection: close",
        &REQUEST,
        "200 OK\r\nContent-Length: 3",
    );
    assert!(!facts.keep_upstream && facts.keep_downstream);
    let close = RequestFacts {
        keep_alive: false,
        ..REQUEST
    };
    let facts = check(
        "200 OK\r\nContent-Length: 3",
        &close,
        "200 OK\r\nContent-Length: 3\r\nConnection: close",
    );
    assert!(facts.keep_upstream && !facts.keep_downstream);
    let facts = check("200 OK", &REQUEST, "200 OK\r\nConnection: close");
    assert_eq!(facts.framing, Framing::UntilClose);
    assert!(!facts.keep_upstream && !facts.keep_downstream);
    // A server of 1.0 must say that it stays.
    let mut out = Vec::new();
    let old = |head: &[u8], out: &mut Vec<u8>| {
        forward(head, &REQUEST, false, &Limits::default(), out).unwrap()
    };
    assert!(!old(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", &mut out).keep_upstream);
    assert!(
        old(
            b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n",
            &mut out
        )
        .keep_upstream
    );
}

#[test]
fn a_client_of_1_0_gets_neither_chunks_nor_interim_responses() {
    let facts = check(
        "200 OK\r\nTransfer-Encoding: chunked",
        &OLD,
        "200 OK\r\nConnection: close",
    );
    assert!(facts.strip_chunks && facts.keep_upstream && !facts.keep_downstream);
    assert!(check("103 Early", &OLD, "").interim);
    check(
        "200 OK\r\nContent-Length: 0",
        &OLD,
        "200 OK\r\nContent-Length: 0\r\nConnection: keep-alive",
    );
}

#[test]
fn where_lengths_say_nothing_they_go() {
    check(
        "204 No\r\nContent-Length: 3\r\nX: y",
        &REQUEST,
        "204 No\r\nX: y",
    );
    check(
        "100 Go\r\nContent-Length: 3\r\nConnection: close",
        &REQUEST,
        "100 Go",
    );
    check(
        "304 Same\r\nContent-Length: 3",
        &REQUEST,
        "304 Same\r\nContent-Length: 3",
    );
    let head = RequestFacts {
        method: Method::Head,
        ..REQUEST
    };
    let facts = check(
        "200 OK\r\nTransfer-Encoding: Chunked",
        &head,
        "200 OK\r\nTransfer-Encoding: chunked",
    );
    assert_eq!(facts.framing, Framing::Empty);
    let connect = RequestFacts {
        method: Method::Connect,
        ..REQUEST
    };
    let facts = check("200 OK\r\nContent-Length: 3", &connect, "200 OK");
    assert_eq!(facts.framing, Framing::Tunnel);
}

#[test]
fn what_is_no_response_is_refused() {
    for (head, why) in [
        ("099 Low", Refusal::BadStatusLine),
        ("20 Short", Refusal::BadStatusLine),
        ("2000 Long", Refusal::BadStatusLine),
        ("200 O\x01K", Refusal::BadStatusLine),
        (
            "200 OK\r\nContent-Length: 3\r\nContent-Length: 3",
            Refusal::LengthTwice,
        ),
        (
            "200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked",
            Refusal::LengthAndCoding,
        ),
        (
            "200 OK\r\nTransfer-Encoding: gzip, chunked",
            Refusal::TransferCoding,
        ),
        ("200 OK\r\nTransfer-Encoding: gzip", Refusal::ChunkedNotLast),
        ("200 OK\r\nX : y", Refusal::HeaderName),
        ("200 OK\r\nX: a\r\n b", Refusal::HeaderName),
        ("200 OK\r\nX: \0", Refusal::HeaderValue),
        (
            "200 OK\r\nContent-Length: 3\r\nConnection: content-length",
            Refusal::ConnectionOption,
        ),
        (
            "101 Switch\r\nUpgrade: a\r\nConnection: upgrade",
            Refusal::UnaskedUpgrade,
        ),
    ] {
        assert_eq!(
            forwarded(head, &REQUEST).map(|(text, _)| text),
            Err(why),
            "{head:?}"
        );
    }
    let asked = RequestFacts {
        upgrade: true,
        ..REQUEST
    };
    assert_eq!(
        forwarded("101 Switch", &asked).map(|(t, _)| t),
        Err(Refusal::UnaskedUpgrade)
    );
    let facts = check(
        "101 Switch\r\nupgrade: a\r\nConnection: upgrade",
        &asked,
        "101 Switch\r\nupgrade: a\r\nConnection: Upgrade",
    );
    assert_eq!(facts.framing, Framing::Tunnel);
    for line in [
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.1  200 OK\r\n\r\n",
        "HTTP 200 OK\r\n\r\n",
    ] {
        let done = forward(
            line.as_bytes(),
            &REQUEST,
            false,
            &Limits::default(),
            &mut Vec::new(),
        );
        assert_eq!(done, Err(Refusal::BadStatusLine), "{line}");
    }
}

/// All that a client is sent, and why no more.
fn feed(input: &[u8], sizes: &[usize], request: &RequestFacts) -> (Vec<u8>, Option<Refusal>, bool) {
    let limits = Limits::default();
    let (mut held, mut out) = (Vec::new(), Vec::new());
    let mut reader = HeadReader::new(Kind::Response);
    let mut body: Option<(Body, bool)> = None;
    let mut rest = input;
    for size in sizes.iter().cycle() {
        let (piece, after) = rest.split_at((*size).min(rest.len()));
        held.extend_from_slice(piece);
        rest = after;
        loop {
            if let Some((body, strip)) = &mut body {
                let done = match strip {
                    true => body.strip(&held, &mut out),
                    false => body
                        .pass(&held)
                        .inspect(|len| out.extend_from_slice(&held[..*len])),
                };
                match done {
                    Err(why) => return (out, Some(why), false),
                    Ok(len) => held.drain(..len),
                };
                break;
            }
            let head = match reader.find(&held, &limits) {
                Err(why) => return (out, Some(why), false),
                Ok(None) => break,
                Ok(Some(head)) => head,
            };
            match forward(&held[head.clone()], request, false, &limits, &mut out) {
                Err(why) => return (out, Some(why), false),
                Ok(facts) => {
                    held.drain(..head.end);
                    reader = HeadReader::new(Kind::Response);
                    if !facts.interim {
                        body = Some((Body::new(facts.framing, u64::MAX), facts.strip_chunks));
                    }
                }
            }
        }
        if rest.is_empty() {
            break;
        }
    }
    (out, None, body.is_some_and(|(body, _)| body.is_done()))
}

const PIECES: &[&[u8]] = &[
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.0 200 OK\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close, x\r\n",
    b"X: y\r\n",
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b"hello",
    b"5;a=b\r\nhello\r\n",
    b"0\r\n\r\n",
    b"0\r\nX: y\r\n\r\n",
    b"fffffffffffffffff\r\n",
];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 5_000, ..ProptestConfig::default() })]

    #[test]
    fn pieces_of_any_size_are_the_same_as_the_whole(
        start in 0usize..4,
        pieces in prop::collection::vec(prop::sample::select(PIECES), 0..8),
        sizes in prop::collection::vec(1usize..40, 1..5),
        is_1_0: bool,
    ) {
        let stream = [PIECES[start], &pieces.concat()].concat();
        let request = if is_1_0 { OLD } else { REQUEST };
        let whole = feed(&stream, &[usize::MAX], &request);
        for sizes in [&sizes[..], &[1]] {
            let pieces = feed(&stream, sizes, &request);
            prop_assert_eq!((pieces.1, pieces.2), (whole.1, whole.2), "{}", stream.escape_ascii());
            prop_assert!(pieces.0.starts_with(&whole.0));
            if whole.1.is_none() {
                prop_assert_eq!(&pieces.0, &whole.0);
            }
        }
    }
}
