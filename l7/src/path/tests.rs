use proptest::prelude::*;

use super::*;
use Refusal::*;

#[test]
fn has_one_form_for_each_path() {
    for (path, expected) in [
        ("/", "/"),
        ("/a/b", "/a/b"),
        ("/a/", "/a/"),
        ("/.well-known/x", "/.well-known/x"),
        ("/...", "/..."),
        ("/a;v=1/b", "/a;v=1/b"),
        ("/a=b&c+d,e:f@g!$'()*", "/a=b&c+d,e:f@g!$'()*"),
        // RFC 3986, 5.2.4 and 6.2.2
        ("/a/b/c/./../../g", "/a/g"),
        ("/mid/content=5/../6", "/mid/6"),
        ("/a/./b", "/a/b"),
        ("/a/.", "/a/"),
        ("/a/..", "/"),
        ("/a/b/..", "/a/"),
        ("/%7euser/%41%2d%2E%5f", "/~user/A-._"),
        ("/caf%c3%a9", "/caf%C3%A9"),
        ("/%E0%A0%80%F0%90%80%80", "/%E0%A0%80%F0%90%80%80"),
        ("/a%20b%3f%23", "/a%20b%3F%23"),
        // Dot segments that are seen only after decoding
        ("/a/%2e%2e/b", "/b"),
        ("/a/.%2E/b", "/b"),
        ("/a/%2e/b", "/a/b"),
        // Empty segments
        ("//", "/"),
        ("//a///b//", "/a/b/"),
        ("/a//../b", "/b"),
        ("/a/..//b", "/b"),
        // An escaped percent sign that stays what it is
        ("/100%25", "/100%25"),
        ("/100%25ab", "/100%25ab"),
        ("/%25zz", "/%25zz"),
    ] {
        let found = normalize(path.as_bytes());
        assert_eq!(found.as_deref(), Ok(expected), "{path}");
        let borrowed = matches!(found, Ok(Cow::Borrowed(_)));
        assert_eq!(borrowed, path == expected, "{path}");
    }
}

#[test]
fn refuses_what_servers_read_in_different_ways() {
    for (path, expected) in [
        (&b""[..], BadTarget),
        (b"a", BadTarget),
        (b"/a?b", BadTarget),
        (b"/a%2Fb", PathEncodedSlash),
        (b"/a%2fb", PathEncodedSlash),
        (b"/..%2fa", PathEncodedSlash),
        (b"/a\\b", PathBackslash),
        (b"/a%5Cb", PathBackslash),
        (b"/a%5cb", PathBackslash),
        (b"/a\0b", PathControl),
        (b"/a%00b", PathControl),
        (b"/a%0d%0ab", PathControl),
        (b"/a%7fb", PathControl),
        (b"/a b", PathControl),
        (b"/a\tb", PathControl),
        (b"/a\x7fb", PathControl),
        (b"/a%", PathEscape),
        (b"/a%4", PathEscape),
        (b"/a%4g", PathEscape),
        (b"/a%u0041", PathEscape),
        (b"/a%%34%31", PathEscape),
        (b"/a%+1", PathEscape),
        (b"/caf\xc3\xa9", PathNonAscii),
        (b"/a\xff", PathNonAscii),
        (b"/a#b", PathFragment),
        (b"/..", PathAboveRoot),
        (b"/../a", PathAboveRoot),
        (b"/a/../../b", PathAboveRoot),
        (b"/a/%2e%2e/%2E%2E/b", PathAboveRoot),
        (b"//..", PathAboveRoot),
        (b"/a%252fb", PathDoubleEscape),
        (b"/%252e%252e/a", PathDoubleEscape),
        (b"/a%25252fb", PathDoubleEscape),
        (b"/a%2500", PathDoubleEscape),
        (b"/a%25%32%66b", PathDoubleEscape),
        (b"/a/%c0%ae%c0%ae/b", PathOverlong),
        (b"/a%c0%afb", PathOverlong),
        (b"/a%e0%80%afb", PathOverlong),
        (b"/a%e0%9f%bfb", PathOverlong),
        (b"/a%f0%80%80%afb", PathOverlong),
        (b"/a/..;/b", PathDotParameter),
        (b"/a/..;x=1/b", PathDotParameter),
        (b"/a/.;x/b", PathDotParameter),
        (b"/a/%2e%2e;x/b", PathDotParameter),
    ] {
        let text = String::from_utf8_lossy(path);
        assert_eq!(normalize(path), Err(expected), "{text}");
    }
}

#[test]
fn a_query_is_only_kept_from_breaking_the_line() {
    assert_eq!(check_query(b"a=%2F..&b=100%&c=\\?/"), Ok(()));
    assert_eq!(check_query(b"a b"), Err(PathControl));
    assert_eq!(check_query(b"a\r\nb"), Err(PathControl));
    assert_eq!(check_query(b"a#b"), Err(PathFragment));
    assert_eq!(check_query(b"\xc3\xa9"), Err(PathNonAscii));
}

/// Pieces that make interesting paths often, and arbitrary bytes between them.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        8 => prop::sample::select(vec![
            "/", "/", ".", "..", ";", "a", "b", "%2e", "%2E", "%61", "%7e", "%25", "%32", "%65", "%c3",
            "%A9", "%20", "%", "2", "f", "%3b", "~", "%2f", "%c0", "\\",
        ]).prop_map(|s| s.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 1..4),
    ];
    prop::collection::vec(piece, 0..14).prop_map(|pieces| [vec![b'/'], pieces.concat()].concat())
}

/// Of the pieces that are never refused by themselves, so that most paths have a normal form.
fn mild() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        "/", "/", "/a", "/b/", ".", "..", "%2e", "%41", "%7E", "%3a", "%C3", "%25", "c",
    ]);
    prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()).into())
}

/// RFC 3986, 5.2.4, as it is written there, over a path whose escapes were decoded and whose empty
/// segments were merged before. `None` if it goes above the root.
fn remove_dot_segments(mut input: &str) -> Option<String> {
    let mut output = String::new();
    while !input.is_empty() {
        if let Some(rest) = input.strip_prefix("/./") {
            input = &input[input.len() - rest.len() - 1..];
        } else if input == "/." {
            input = "/";
        } else if input.starts_with("/../") || input == "/.." {
            output.truncate(output.rfind('/')?);
            input = if input == "/.." { "/" } else { &input[3..] };
        } else {
            let end = input[1..].find('/').map_or(input.len(), |i| i + 1);
            output.push_str(&input[..end]);
            input = &input[end..];
        }
    }
    Some(output)
}

fn decode_unreserved(path: &str) -> String {
    let mut out = path.to_owned();
    let unreserved = |b: &u8| b.is_ascii_alphanumeric() || b"-._~".contains(b);
    for b in (0..128u8).filter(unreserved) {
        for escape in [format!("%{b:02x}"), format!("%{b:02X}")] {
            out = out.replace(&escape, &char::from(b).to_string());
        }
    }
    out.replace("%3a", "%3A").replace("%c3", "%C3")
}

fn check_properties(path: &[u8], normal: &str) -> Result<(), TestCaseError> {
    prop_assert!(normal.starts_with('/') && normal.is_ascii());
    let mut segments: Vec<&str> = normal[1..].split('/').collect();
    segments.pop_if(|last| last.is_empty());
    prop_assert!(segments.iter().all(|s| !["", ".", ".."].contains(s)));
    prop_assert!(normal.len() <= path.len());
    // Its own normal form, and then nothing is copied.
    prop_assert!(matches!(normalize(normal.as_bytes()), Ok(Cow::Borrowed(p)) if p == normal));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_do_no_harm(path in prop::collection::vec(any::<u8>(), 0..40)) {
        if let Ok(normal) = normalize(&path) {
            check_properties(&path, &normal)?;
        }
        check_query(&path).ok();
    }

    #[test]
    fn what_is_not_refused_is_normal(path in hostile()) {
        if let Ok(normal) = normalize(&path) {
            check_properties(&path, &normal)?;
            prop_assert_eq!(matches!(normal, Cow::Borrowed(_)), normal.as_bytes() == path);
        }
    }

    #[test]
    fn is_what_the_standard_says(path in mild()) {
        let text = str::from_utf8(&path).unwrap();
        let mut merged = decode_unreserved(text);
        while merged.contains("//") {
            merged = merged.replace("//", "/");
        }
        match (remove_dot_segments(&merged), normalize(&path)) {
            (Some(expected), Ok(found)) => prop_assert_eq!(found, expected),
            (None, Err(PathAboveRoot)) => {}
            (expected, found) => prop_assert!(false, "{:?} {:?}", expected, found),
        }
    }
}
