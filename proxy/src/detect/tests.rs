use proptest::prelude::*;

use super::*;

const CLIENT_HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";

#[test]
fn first_bytes_decide() {
    for (bytes, expected) in [
        (&b""[..], Guess::More),
        (b"G", Guess::More),
        (b"GET", Guess::More),
        (b"GET ", Guess::More),
        (b"GET /", Guess::Http1),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", Guess::Http1),
        (b"\r\nPOST /a", Guess::Http1),
        (b"OPTIONS * HTTP/1.1", Guess::Http1),
        (b"CONNECT a:443 HTTP/1.1", Guess::Http1),
        (b"GET http://a/ HTTP/1.0", Guess::Http1),
        (b"BREW /pot HTCPCP/1.0", Guess::Opaque),
        (b"BREW /pot HTTP/1.1", Guess::Http1),
        (b"BREW /pot HTT", Guess::More),
        (b"get /a HTTP/1.1", Guess::Http1),
        (PREFACE, Guess::Http2),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04", Guess::Http2),
        (b"PRI", Guess::More),
        (b"PRI * HTTP/2.0\r\n\r\n", Guess::More),
        // No preface: the codec refuses it.
        (b"PRI * HTTP/1.1\r\n", Guess::Http1),
        (b"PRI /a", Guess::More),
        (b"PRIVMSG #a :hello\r\n", Guess::Opaque),
        (b"PRINT\r\n", Guess::Opaque),
        (CLIENT_HELLO, Guess::Opaque),
        (b"\0", Guess::Opaque),
        // SMTP, FTP, POP3, IMAP, NATS, MQTT, AMQP, Redis, Memcached, SSH, Kafka, MongoDB
        (b"EHLO a.example\r\n", Guess::Opaque),
        (b"USER anna\r\n", Guess::Opaque),
        (b"QUIT\r\n", Guess::Opaque),
        (b"a1 LOGIN b c\r\n", Guess::Opaque),
        (b"CONNECT {\"verbose\":false}\r\n", Guess::Opaque),
        (b"\x10\x1f\0\x04MQTT", Guess::Opaque),
        (b"AMQP\0\0\x09\x01", Guess::Opaque),
        (b"*1\r\n$4\r\nPING\r\n", Guess::Opaque),
        (b"get key\r\n", Guess::Opaque),
        (b"SSH-2.0-OpenSSH_9\r\n", Guess::Opaque),
        (b"\0\0\0\x23\0\x12\0\x04", Guess::Opaque),
        (b"SELECT 1", Guess::More),
        (b"GET  / HTTP/1.1\r\n", Guess::Opaque),
        (b" GET / HTTP/1.1\r\n", Guess::Opaque),
        (b"{\"jsonrpc\":", Guess::Opaque),
    ] {
        assert_eq!(guess(bytes), expected, "{}", bytes.escape_ascii());
    }
    assert_eq!(guess(&[b'a'; METHOD_BYTES]), Guess::More);
    assert_eq!(guess(&[b'a'; METHOD_BYTES + 1]), Guess::Opaque);
    let long = [b"BREW /".as_slice(), &[b'a'; DETECT_BYTES]].concat();
    assert_eq!(guess(&long[..DETECT_BYTES - 1]), Guess::More);
    assert_eq!(guess(&long[..DETECT_BYTES]), Guess::Opaque);
    let long = [b"GET /".as_slice(), &[b'a'; DETECT_BYTES * 20]].concat();
    assert_eq!(guess(&long), Guess::Http1);
}

proptest! {
    /// However the bytes are cut, the same is decided, and it stays.
    #[test]
    fn what_is_decided_stays(
        bytes in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..40),
            "[A-Z]{1,8} [/*a-z]{0,5} ?(HTTP/1.1|HTT|FTP/1)?(\r\n)?".prop_map(String::into_bytes),
            "(\r\n)?PRI \\* HTTP/2.0\r\n\r\n(SM)?(\r\n\r\n|x)?".prop_map(String::into_bytes),
        ],
    ) {
        let mut decided = Guess::More;
        for len in 0..=bytes.len() {
            let now = guess(&bytes[..len]);
            prop_assert!(decided == Guess::More || now == decided, "{decided:?} {now:?} at {len}");
            decided = now;
        }
    }
}

fn plan(protocol: Protocol, port: u16) -> Plan {
    Plan {
        protocol,
        default: ("shop/api".into(), port),
        ..Plan::default()
    }
}

#[tokio::test(start_paused = true)]
async fn who_speaks_first_is_learnt_for_a_while() {
    let learnt = Learnt::default();
    let detect = plan(Protocol::Detect, 80);
    let silent_for = SILENT_FOR;
    assert_eq!(learnt.begin(&detect), Begin::Either { silent_for });
    learnt.learn(&detect, Speaker::Client);
    assert_eq!(learnt.begin(&detect), Begin::Client);
    assert_eq!(
        learnt.begin(&plan(Protocol::Detect, 81)),
        Begin::Either { silent_for }
    );
    learnt.learn(&detect, Speaker::Server);
    let at_once = Begin::Either {
        silent_for: Duration::ZERO,
    };
    assert_eq!(learnt.begin(&detect), at_once);
    tokio::time::advance(LEARNT_FOR).await;
    assert_eq!(learnt.begin(&detect), Begin::Either { silent_for });
    for n in 0..LEARNT + 10 {
        let mut other = plan(Protocol::Detect, 80);
        other.default.0 = format!("shop/s{n}").into();
        learnt.learn(&other, Speaker::Client);
    }
    assert!(learnt.ports.borrow().len() <= LEARNT);
}

#[test]
fn what_is_declared_needs_no_bytes() {
    let learnt = Learnt::default();
    for (protocol, port, expected) in [
        (Protocol::Http1, 80, Begin::Http),
        (Protocol::Http2, 3306, Begin::Http),
        (Protocol::Opaque, 80, Begin::Opaque),
        (Protocol::Detect, 3306, Begin::Opaque),
        (Protocol::Detect, 25, Begin::Opaque),
    ] {
        assert_eq!(
            learnt.begin(&plan(protocol, port)),
            expected,
            "{protocol:?} {port}"
        );
    }
}
