use underpass_l7::head::Fields as _;

use super::*;

fn forwarded(head: &str) -> Result<(String, RequestFacts), Refusal> {
    let mut out = b"before ".to_vec();
    let decide = |_: &Request<'_, Lines<'_, '_>>, _: &Accepted<'_>| Ok(());
    let limits = Limits::default();
    let done = forward(head.as_bytes(), &limits, "10.0.0.1:80", &mut out, decide);
    let out = String::from_utf8(out).unwrap();
    let text = out.strip_prefix("before ").unwrap().to_owned();
    match done {
        Ok((facts, decided)) => decided.map(|()| (text, facts)),
        Err(why) => {
            assert_eq!(text, "", "written in spite of {why}");
            Err(why)
        }
    }
}

fn text(head: &str) -> String {
    forwarded(head).unwrap().0
}

#[test]
fn names_and_order_are_kept_and_the_hop_s_own_fields_end() {
    let head = "POST http://shop:80//a/%7eb/../c?q=%2f HTTP/1.1\r\n\
                aCCept:  a \r\nKeep-Alive: 5\r\nHOST:\tshop:80\r\nX-Gone: 1\r\n\
                Proxy-Connection: x\r\nConnection: x-gone, Keep-Alive\r\ncontent-LENGTH: 3\r\n\
                ACCEPT: b\r\nX-Caf\u{e9}: \u{e9}\r\n\r\n";
    // Not a token.
    assert_eq!(forwarded(head), Err(Refusal::HeaderName));
    let head = head.replace("X-Caf\u{e9}", "X-Cafe");
    assert_eq!(
        text(&head),
        "POST /a/c?q=%2f HTTP/1.1\r\naCCept: a\r\nHOST: shop:80\r\ncontent-LENGTH: 3\r\nACCEPT: b\r\nX-Cafe: \u{e9}\r\n\r\n"
    );
}

#[test]
fn what_decides_sees_what_is_forwarded() {
    let head = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x\r\nX: 1\r\nY: 2\r\n\r\n";
    let mut out = Vec::new();
    let limits = Limits::default();
    let (_, names) = forward(head, &limits, "", &mut out, |request, _| {
        let names = request
            .fields
            .iter()
            .map(|(n, _)| String::from_utf8_lossy(n).into_owned());
        Ok::<_, Refusal>(names.collect::<Vec<_>>())
    })
    .unwrap();
    assert_eq!(names.unwrap(), ["Host", "Y"]);
    assert_eq!(out, b"GET / HTTP/1.1\r\nHost: a\r\nY: 2\r\n\r\n");
    // What is not to go anywhere is not written.
    out.clear();
    let (facts, decided) = forward(head, &limits, "", &mut out, |_, _| {
        Err::<(), _>(Refusal::NoRoute)
    })
    .unwrap();
    assert!(facts.keep_alive);
    assert_eq!(decided, Err(Refusal::NoRoute));
    assert!(out.is_empty());
}

#[test]
fn the_host_is_the_one_that_was_routed_by() {
    for (first, host, written) in [
        ("GET / HTTP/1.1", Some("Shop."), "Shop"),
        ("GET / HTTP/1.1", Some("shop:"), "shop"),
        ("GET / HTTP/1.1", Some("[::1]:8"), "[::1]:8"),
        ("GET http://SHOP:8/ HTTP/1.1", Some("shop:8"), "SHOP:8"),
        ("GET http://shop:8/ HTTP/1.0", None, "shop:8"),
        ("GET / HTTP/1.0", None, "10.0.0.1:80"),
    ] {
        let field = host.map_or(String::new(), |h| format!("Host: {h}\r\n"));
        let text = text(&format!("{first}\r\n{field}\r\n"));
        assert_eq!(
            text,
            format!("GET / HTTP/1.1\r\nHost: {written}\r\n\r\n"),
            "{first} {host:?}"
        );
    }
}

#[test]
fn te_upgrade_and_expect_are_passed_on_where_they_mean_something() {
    let of = |fields: &str| text(&format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
    let start = "GET / HTTP/1.1\r\nHost: a\r\n";
    for (fields, rest) in [
        (
            "TE: gzip;q=1, Trailers\r\nConnection: TE\r\n",
            "TE: trailers\r\nConnection: TE\r\n",
        ),
        ("TE: gzip\r\n", ""),
        (
            "Upgrade: a/1, b\r\nConnection: upgrade\r\n",
            "Upgrade: a/1, b\r\nConnection: Upgrade\r\n",
        ),
        (
            "TE: trailers\r\nUpgrade: a\r\nConnection: TE, upgrade\r\n",
            "TE: trailers\r\nUpgrade: a\r\nConnection: TE, Upgrade\r\n",
        ),
        ("Upgrade: a\r\n", ""),
        ("Connection: upgrade\r\n", ""),
        ("Upgrade: a\r\nUpgrade: b\r\nConnection: upgrade\r\n", ""),
        (
            "Upgrade: a, h2c\r\nHTTP2-Settings: x\r\nConnection: upgrade, http2-settings\r\n",
            "",
        ),
        ("Upgrade: HTTP/2.0\r\nConnection: upgrade\r\n", ""),
        ("Expect: 100-Continue\r\n", "Expect: 100-Continue\r\n"),
        ("Trailer: X\r\n", "Trailer: X\r\n"),
    ] {
        assert_eq!(of(fields), format!("{start}{rest}\r\n"), "{fields:?}");
    }
    // A body comes first, and nobody would know where the tunnel begins.
    let with_body = of("Upgrade: a\r\nConnection: upgrade\r\nContent-Length: 1\r\n");
    assert_eq!(with_body, format!("{start}Content-Length: 1\r\n\r\n"));
    let old = text(
        "GET / HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\nUpgrade: a\r\nConnection: upgrade\r\n\r\n",
    );
    assert_eq!(old, format!("{start}\r\n"));
}

#[test]
fn facts_say_what_may_follow() {
    let facts = |head: &str| forwarded(&format!("{head}\r\n\r\n")).unwrap().1;
    let get = facts("GET / HTTP/1.1\r\nHost: a");
    assert!(get.keep_alive && get.repeatable && !get.upgrade && !get.is_1_0);
    assert_eq!((get.framing, get.method), (Framing::Empty, Method::Other));
    assert!(!facts("GET / HTTP/1.1\r\nHost: a\r\nConnection: CLOSE").keep_alive);
    assert!(!facts("GET / HTTP/1.0").keep_alive);
    assert!(facts("GET / HTTP/1.0\r\nConnection: keep-alive").keep_alive);
    assert!(!facts("GET / HTTP/1.0\r\nConnection: keep-alive, close").keep_alive);
    assert!(!facts("POST / HTTP/1.1\r\nHost: a").repeatable);
    assert!(!facts("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1").repeatable);
    assert!(facts("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 0").repeatable);
    let connect = facts("CONNECT a:1 HTTP/1.1\r\nHost: a");
    assert_eq!(
        (connect.framing, connect.method),
        (Framing::Tunnel, Method::Connect)
    );
    assert!(!connect.keep_alive && !connect.repeatable);
    assert_eq!(facts("HEAD / HTTP/1.1\r\nHost: a").method, Method::Head);
    let post = facts("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: CHUNKED");
    assert_eq!(post.framing, Framing::Chunked);
    let coding = text("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: CHUNKED\r\n\r\n");
    assert!(
        coding.contains("Transfer-Encoding: chunked\r\n"),
        "{coding}"
    );
}
