use proptest::prelude::*;

use super::*;
use Refusal::*;

type Lines<'a> = &'a [(&'a str, &'a str)];

/// A POST of HTTP/1.1 with a host.
fn post(lines: Lines) -> Result<Framing, Refusal> {
    let lines = [&[("Host", "a")], lines].concat();
    request(Version::Http11, "POST", "/", &lines).map(|a| a.framing)
}

fn request<'a>(
    version: Version,
    method: &'a str,
    target: &'a str,
    lines: &'a [(&'a str, &'a str)],
) -> Result<Accepted<'a>, Refusal> {
    let head = Request::http1(version, method.as_bytes(), target.as_bytes(), lines);
    check(&head, &Limits::default())
}

fn http2<'a>(method: &'a str, lines: Lines<'a>) -> Request<'a, [(&'a str, &'a str)]> {
    let connect = method == "CONNECT";
    Request {
        version: Version::Http2,
        method: method.as_bytes(),
        target: if connect { b"" } else { b"/" },
        scheme: (!connect).then_some(b"http"),
        authority: Some(b"a:80"),
        protocol: None,
        fields: lines,
    }
}

#[test]
fn a_length_or_chunks_frame_a_body() {
    for (lines, expected) in [
        (&[][..], Framing::Empty),
        (&[("Content-Length", "0")], Framing::Empty),
        (&[("content-length", "5")], Framing::Length(5)),
        (&[("Content-Length", " 5\t")], Framing::Length(5)),
        (&[("Content-Length", "007")], Framing::Length(7)),
        (
            &[("Content-Length", "18446744073709551615")],
            Framing::Length(u64::MAX),
        ),
        (&[("Transfer-Encoding", "chunked")], Framing::Chunked),
        (&[("TRANSFER-encoding", " ChunKed ")], Framing::Chunked),
    ] {
        assert_eq!(post(lines), Ok(expected), "{lines:?}");
    }
}

#[test]
fn smuggling_payloads_are_refused() {
    const CL: &str = "Content-Length";
    const TE: &str = "Transfer-Encoding";
    for (lines, expected) in [
        // CL.TE and TE.CL, in either order
        (&[(CL, "6"), (TE, "chunked")][..], LengthAndCoding),
        (&[(TE, "chunked"), (CL, "3")], LengthAndCoding),
        (&[(TE, "identity"), (CL, "3")], LengthAndCoding),
        (&[(TE, "xchunked"), (CL, "3")], LengthAndCoding),
        // TE.TE: one of two parsers is to overlook it
        (&[(TE, "chunked"), (TE, "cow")], ChunkedNotLast),
        (&[(TE, "chunked"), (TE, "chunked")], ChunkedNotLast),
        (&[(TE, "chunked, chunked")], ChunkedNotLast),
        (&[(TE, "chunked, identity")], ChunkedNotLast),
        (&[(TE, "chunked, gzip")], ChunkedNotLast),
        (&[(TE, "identity")], ChunkedNotLast),
        (&[(TE, "gzip")], ChunkedNotLast),
        (&[(TE, "")], ChunkedNotLast),
        (&[(TE, "chunked,")], ChunkedNotLast),
        (&[(TE, ",chunked")], ChunkedNotLast),
        (&[(TE, "xchunked")], ChunkedNotLast),
        (&[(TE, "chunkedx")], ChunkedNotLast),
        (&[(TE, "\"chunked\"")], ChunkedNotLast),
        (&[(TE, "'chunked'")], ChunkedNotLast),
        (&[(TE, "chunked;a=b")], ChunkedNotLast),
        (&[(TE, "chunked chunked")], ChunkedNotLast),
        (&[(TE, "x: chunked")], ChunkedNotLast),
        (&[(TE, "chun\u{212a}ed")], ChunkedNotLast),
        (&[(TE, "\u{b}chunked")], HeaderValue),
        (&[(TE, "chunked\u{c}")], HeaderValue),
        (&[(TE, "chunked\0")], HeaderValue),
        (&[(TE, "chunked\r")], HeaderValue),
        (&[(TE, "x\nchunked")], HeaderValue),
        (&[(TE, "gzip, chunked")], TransferCoding),
        (&[(TE, "gzip"), (TE, "chunked")], TransferCoding),
        (&[("Transfer-Encoding ", "chunked")], HeaderName),
        (&[("Transfer-Encoding\t", "chunked")], HeaderName),
        (&[(" Transfer-Encoding", "chunked")], HeaderName),
        (&[("Transfer-Encoding\0", "chunked")], HeaderName),
        (&[("Transfer\rEncoding", "chunked")], HeaderName),
        (&[("Transfer_Encoding", "chunked")], HeaderLookalike),
        (&[("TRANSFER_encoding", "chunked")], HeaderLookalike),
        (&[("Content_Length", "5")], HeaderLookalike),
        // A folded line comes as a name that begins with a space, or without a colon as an empty one.
        (&[("X", "1"), (" chunked", "")], HeaderName),
        (&[("", "chunked")], HeaderName),
        (&[("X", "1\r\n Transfer-Encoding: chunked")], HeaderValue),
        // Several lengths
        (&[(CL, "5"), (CL, "6")], LengthTwice),
        (&[(CL, "5"), (CL, "5")], LengthTwice),
        (&[(CL, "5, 5")], LengthTwice),
        (&[(CL, "5,6")], LengthTwice),
        (&[(CL, "5"), ("content-length", "0")], LengthTwice),
        // No lengths
        (&[(CL, "")], BadLength),
        (&[(CL, "+5")], BadLength),
        (&[(CL, "-5")], BadLength),
        (&[(CL, "0x5")], BadLength),
        (&[(CL, "5 5")], BadLength),
        (&[(CL, "5;")], BadLength),
        (&[(CL, "5e1")], BadLength),
        (&[(CL, "1_0")], BadLength),
        (&[(CL, "\u{665}")], BadLength),
        (&[(CL, "18446744073709551616")], BadLength),
    ] {
        assert_eq!(post(lines), Err(expected), "{lines:?}");
    }
}

#[test]
fn values_hold_text_of_any_script_and_no_controls() {
    assert_eq!(post(&[("X", "caf\u{e9}\t!")]), Ok(Framing::Empty));
    for value in ["\x7f", "a\x1bb", "\x01"] {
        assert_eq!(post(&[("X", value)]), Err(HeaderValue), "{value:?}");
    }
}

#[test]
fn http_1_0_has_no_transfer_encoding() {
    let lines = [("Transfer-Encoding", "chunked")];
    let refused = request(Version::Http10, "POST", "/", &lines).map(|a| a.framing);
    assert_eq!(refused, Err(CodingBefore11));
}

#[test]
fn one_host_is_needed() {
    let host = |version, target: &str, lines: Lines| {
        let accepted = request(version, "GET", target, lines);
        accepted.map(|a| a.host.map(|h| (h.name.to_owned(), h.port)))
    };
    let a = |port| Ok(Some(("a".to_owned(), port)));
    let (v11, v10) = (Version::Http11, Version::Http10);
    for (version, target, lines, expected) in [
        (v11, "/", &[("Host", "a:1")][..], a(Some(1))),
        (v11, "http://a/", &[("Host", "a")], a(None)),
        (v11, "http://a:8/", &[("Host", "a:8")], a(Some(8))),
        (v10, "/", &[], Ok(None)),
        (v10, "/", &[("Host", "a")], a(None)),
        (v11, "/", &[], Err(HostMissing)),
        (v11, "http://a/", &[], Err(HostMissing)),
        (v11, "/", &[("Host", "a"), ("host", "a")], Err(HostTwice)),
        (v10, "/", &[("Host", "a"), ("Host", "b")], Err(HostTwice)),
        (v11, "/", &[("Host", "a, b")], Err(BadHost)),
        (v11, "/", &[("Host", "")], Err(BadHost)),
        (v11, "http://a/", &[("Host", "b")], Err(HostConflict)),
        (v11, "http://a:8/", &[("Host", "a")], Err(HostConflict)),
        (v11, "http://a/", &[("Host", "a:8")], Err(HostConflict)),
    ] {
        assert_eq!(host(version, target, lines), expected, "{target} {lines:?}");
    }
}

#[test]
fn http2_frames_bodies_by_itself() {
    fn check(head: Request<'_, [(&str, &str)]>) -> Result<Framing, Refusal> {
        super::check(&head, &Limits::default()).map(|a| a.framing)
    }
    let length = &[("content-length", "5")];
    assert_eq!(check(http2("POST", &[])), Ok(Framing::Frames(None)));
    assert_eq!(check(http2("POST", length)), Ok(Framing::Frames(Some(5))));
    assert_eq!(
        check(http2("POST", &[("te", "trailers")])),
        Ok(Framing::Frames(None))
    );
    assert_eq!(
        check(http2("POST", &[("host", "A:80")])),
        Ok(Framing::Frames(None))
    );
    assert_eq!(check(http2("CONNECT", &[])), Ok(Framing::Tunnel));
    assert_eq!(check(http2("CONNECT", length)), Err(ConnectBody));
    assert_eq!(check(http2("GET", &[("host", "b")])), Err(HostConflict));
    let none = Request {
        authority: None,
        ..http2("GET", &[])
    };
    assert_eq!(check(none), Err(HostMissing));
    let twice = [("content-length", "5"), ("content-length", "5")];
    assert_eq!(check(http2("POST", &twice)), Err(LengthTwice));
    for name in [
        "connection",
        "keep-alive",
        "proxy-connection",
        "upgrade",
        "te",
        "transfer-encoding",
    ] {
        let lines = [(name, "chunked")];
        assert_eq!(
            check(http2("POST", &lines)),
            Err(HeaderOfConnection),
            "{name}"
        );
    }
}

#[test]
fn sizes_are_bounded_to_the_byte() {
    let long = |n| "x".repeat(n);
    let value = long((64 << 10) - (4 + 1 + 32) - (1 + 32));
    assert_eq!(post(&[("x", &value)]), Ok(Framing::Empty));
    assert_eq!(post(&[("xx", &value)]), Err(HeaderBytes));
    let many = vec![("x", "1"); 127];
    assert_eq!(post(&many), Ok(Framing::Empty));
    assert_eq!(post(&[&many[..], &[("x", "1")]].concat()), Err(HeaderCount));
    let get = |method: &str, target: &str| {
        request(Version::Http11, method, target, &[("Host", "a")]).err()
    };
    let path = format!("/{}", long((16 << 10) - 1));
    assert_eq!(get("GET", &path), None);
    assert_eq!(get("GET", &format!("{path}x")), Some(TargetLength));
    assert_eq!(get(&long(32), "/"), None);
    assert_eq!(get(&long(33), "/"), Some(MethodLength));
    let lines = [("Host", "a"), ("Content-Length", "11")];
    let head = Request::http1(Version::Http11, b"PUT", b"/", &lines[..]);
    let limits = |body_bytes| Limits {
        body_bytes,
        ..Limits::default()
    };
    assert_eq!(check(&head, &limits(10)).err(), Some(BodyLength));
    assert_eq!(check(&head, &limits(11)).err(), None);
}

#[test]
fn methods_versions_and_expectations() {
    let get = |version, method: &str, lines: Lines| request(version, method, "/", lines).err();
    let host = ("Host", "a");
    for method in ["", "GE T", "G\0T", "GET\t", "G(T"] {
        assert_eq!(
            get(Version::Http11, method, &[host]),
            Some(BadMethod),
            "{method}"
        );
    }
    assert_eq!(get(Version::Other, "GET", &[host]), Some(HttpVersion));
    let expect = |value| [host, ("Expect", value)];
    assert_eq!(get(Version::Http11, "PUT", &expect("100-Continue")), None);
    assert_eq!(
        get(Version::Http11, "PUT", &expect("100-continue, x")),
        Some(Expectation)
    );
    assert_eq!(get(Version::Http10, "PUT", &expect("x")), None);
    let connect =
        |lines: Lines| request(Version::Http11, "CONNECT", "a:1", lines).map(|a| a.framing);
    assert_eq!(connect(&[("Host", "a:1")]), Ok(Framing::Tunnel));
    assert_eq!(connect(&[("Host", "A")]), Ok(Framing::Tunnel));
    assert_eq!(connect(&[("Host", "a:2")]), Err(HostConflict));
    assert_eq!(connect(&[("Host", "b")]), Err(HostConflict));
    let chunked = [("Host", "a:1"), ("Transfer-Encoding", "chunked")];
    assert_eq!(connect(&chunked), Err(ConnectBody));
}

#[test]
fn a_response_s_body_depends_on_the_request_too() {
    let respond = |version, status, method: &str, lines: Lines| {
        let head = Response {
            version,
            status,
            fields: lines,
        };
        check_response(&head, method.as_bytes(), &Limits::default())
    };
    let v11 = Version::Http11;
    let length = &[("Content-Length", "5")];
    let chunked = &[("Transfer-Encoding", "chunked")];
    for (status, method, lines, expected) in [
        (200, "GET", &length[..], Ok(Framing::Length(5))),
        (200, "GET", &[("Content-Length", "0")], Ok(Framing::Empty)),
        (200, "GET", chunked, Ok(Framing::Chunked)),
        (200, "GET", &[], Ok(Framing::UntilClose)),
        (200, "HEAD", length, Ok(Framing::Empty)),
        (204, "GET", length, Ok(Framing::Empty)),
        (304, "GET", length, Ok(Framing::Empty)),
        (103, "GET", &[], Ok(Framing::Empty)),
        (101, "GET", &[], Ok(Framing::Tunnel)),
        (200, "CONNECT", length, Ok(Framing::Tunnel)),
        (403, "CONNECT", length, Ok(Framing::Length(5))),
        (
            200,
            "GET",
            &[("Content-Length", "5"), ("Transfer-Encoding", "chunked")],
            Err(LengthAndCoding),
        ),
        (
            200,
            "GET",
            &[("Content-Length", "5"), ("Content-Length", "6")],
            Err(LengthTwice),
        ),
        (200, "GET", &[("X y", "5")], Err(HeaderName)),
        (
            200,
            "GET",
            &[("Transfer-Encoding", "gzip")],
            Err(ChunkedNotLast),
        ),
    ] {
        assert_eq!(
            respond(v11, status, method, lines),
            expected,
            "{status} {method} {lines:?}"
        );
    }
    assert_eq!(
        respond(Version::Http2, 200, "GET", length),
        Ok(Framing::Frames(Some(5)))
    );
    assert_eq!(
        respond(Version::Http10, 200, "GET", chunked),
        Err(CodingBefore11)
    );
    assert_eq!(
        respond(Version::Other, 200, "GET", length),
        Err(HttpVersion)
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the bytes, a length is one number of one field, and chunks are one word.
    #[test]
    fn arbitrary_fields_do_no_harm(
        lines in prop::collection::vec((
            prop_oneof![
                Just(b"content-length".to_vec()), Just(b"transfer-encoding".to_vec()), Just(b"host".to_vec()),
                prop::collection::vec(any::<u8>(), 0..12),
            ],
            prop_oneof![
                Just(b"chunked".to_vec()), "[0-9]{1,3}".prop_map(String::into_bytes),
                prop::collection::vec(any::<u8>(), 0..12),
            ],
        ), 0..5),
        target in prop::collection::vec(any::<u8>(), 0..12),
    ) {
        let head = Request::http1(Version::Http11, b"POST", &target, &lines[..]);
        let count = |name: &[u8]| lines.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).count();
        let (lengths, codings) = (count(b"content-length"), count(b"transfer-encoding"));
        if let Ok(accepted) = check(&head, &Limits::default()) {
            prop_assert_eq!(count(b"host"), 1);
            match accepted.framing {
                Framing::Empty => prop_assert_eq!((lengths.min(1), codings), (lengths, 0)),
                Framing::Length(n) => {
                    prop_assert_eq!((lengths, codings), (1, 0));
                    let digits = n.to_string().into_bytes();
                    prop_assert!(lines.iter().any(|(_, v)| v.ends_with(&digits) || trim(v).ends_with(&digits)));
                }
                Framing::Chunked => prop_assert_eq!((lengths, codings), (0, 1)),
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}
