use super::*;
use crate::h1::body::Body;

/// Data, bytes dealt with, and whether it is done.
fn strip(input: &[u8], limit: u64) -> Result<(Vec<u8>, usize, bool), Refusal> {
    let mut body = Body::Chunked(Chunked::new(limit));
    let mut out = Vec::new();
    let len = body.strip(input, &mut out)?;
    Ok((out, len, body.is_done()))
}

#[test]
fn data_is_what_is_between() {
    let text = b"5\r\nhello\r\n00A;a;b=c;d=\"e \\\" f\"\r\n0123456789\r\n0\r\n\r\nnext";
    let (data, len, done) = strip(text, 100).unwrap();
    assert_eq!(data, b"hello0123456789");
    assert!(done);
    assert_eq!(&text[len..], b"next");
    // As it is passed on.
    assert_eq!(Body::Chunked(Chunked::new(100)).pass(text), Ok(len));
    // The last chunk's extensions and trailers.
    let (data, _, done) = strip(b"0;a\r\nX: y\r\nZ:\r\n\r\n", 0).unwrap();
    assert!(done && data.is_empty());
}

#[test]
fn what_is_not_whole_is_held_back() {
    for (text, len) in [
        ("", 0),
        ("5", 0),
        ("5\r", 0),
        ("5\r\n", 3),
        ("5\r\nhel", 6),
        ("5\r\nhello", 8),
        ("5\r\nhello\r", 9),
        ("5\r\nhello\r\n0\r\nX: y\r\n", 13),
        ("0\r\n\r", 3),
    ] {
        let (_, passed, done) = strip(text.as_bytes(), 100).unwrap();
        assert_eq!((passed, done), (len, false), "{text:?}");
    }
}

#[test]
fn sizes_are_digits_below_two_to_the_63() {
    assert_eq!(size_of(b"0"), Some(0));
    assert_eq!(size_of(b"00000000000000fF"), Some(255));
    assert_eq!(size_of(b"7fffffffffffffff"), Some(CHUNK_MAX));
    for bad in [
        "",
        " 5",
        "5 ",
        "+5",
        "-5",
        "0x5",
        "5_0",
        "8000000000000000",
        "00000000000000005",
        "5g",
        "\u{665}",
    ] {
        assert_eq!(size_of(bad.as_bytes()), None, "{bad:?}");
    }
}

#[test]
fn extensions_have_the_grammar_s_form() {
    for good in [
        "",
        ";a",
        ";a;b",
        ";a=b",
        ";a=\"\"",
        ";a=\"x;y\\\"z\";b",
        ";a=\"\tx\"",
    ] {
        assert!(are_extensions(good.as_bytes()), "{good:?}");
    }
    for bad in [
        ";",
        "a",
        ";=",
        ";a=",
        ";a b",
        " ;a",
        "; a",
        ";a=\"",
        ";a=\"\"x",
        ";a=\"\\",
        ";a=\"\x01\"",
        ";a=\"\\\x01\"",
        ";a;",
    ] {
        assert!(!are_extensions(bad.as_bytes()), "{bad:?}");
    }
}

#[test]
fn bodies_may_be_so_large_and_extensions_so_long() {
    assert!(strip(b"5\r\nhello\r\n5\r\nhello\r\n0\r\n\r\n", 10).is_ok());
    assert_eq!(strip(b"5\r\nhello\r\n6\r\n", 10), Err(Refusal::BodyLength));
    // Large chunks excuse what small ones do not.
    let small = format!("1;{}\r\na\r\n", "b".repeat(500)).repeat(40);
    assert_eq!(
        strip(small.as_bytes(), 100_000),
        Err(Refusal::ChunkExtensions)
    );
    let large = format!("200;{}\r\n{}\r\n", "b".repeat(500), "a".repeat(512)).repeat(40);
    assert!(strip(large.as_bytes(), 100_000).is_ok());
}
