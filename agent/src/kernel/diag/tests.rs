use std::net::{TcpListener, TcpStream};

use super::*;

fn sample() -> Vec<u8> {
    let mut body = vec![AF_INET, 1, 0, 0];
    body.extend(8080_u16.to_be_bytes());
    body.extend(40000_u16.to_be_bytes());
    for last in [1_u8, 2] {
        body.extend([10, 0, 0, last]);
        body.extend([0; 12]);
    }
    for w in [3_u32, 0x55, 0x66, 0, 0, 0, 1000, 4711] {
        body.extend(w.to_ne_bytes());
    }
    body.extend([12_u16.to_ne_bytes(), 21_u16.to_ne_bytes()].concat());
    body.extend(99_u64.to_ne_bytes());
    body
}

#[test]
fn reads_a_message_and_its_attributes() {
    let s = parse(&sample(), TCP).unwrap();
    assert_eq!((s.local_port, s.remote_port, s.state), (8080, 40000, 1));
    assert_eq!(
        (s.local.to_string(), s.remote.to_string()),
        ("10.0.0.1".into(), "10.0.0.2".into())
    );
    assert_eq!(
        (s.cookie, s.uid, s.inode, s.interface),
        (0x66_0000_0055, 1000, 4711, 3)
    );
    assert_eq!((s.cgroup, s.tcp), (99, None));
}

#[test]
fn truncated_messages_are_refused() {
    let whole = sample();
    for len in 0..72 {
        assert!(parse(&whole[..len], TCP).is_none(), "{len}");
    }
    // An attribute that claims more than there is.
    assert!(parse(&whole[..80], TCP).is_none());
    assert!(messages(&message(BY_FAMILY, 0, &[0; 8])[..20], &mut |_, _| {}).is_err());
}

#[test]
fn ends_at_done_and_reports_errors() {
    let mut seen = 0;
    let two = [
        message(BY_FAMILY, 0, &[1]),
        vec![0; 3],
        message(DONE, 0, &[]),
    ]
    .concat();
    assert!(messages(&two, &mut |_, _| seen += 1).unwrap());
    assert_eq!(seen, 1);
    let refused = message(ERROR, 0, &(-libc::EPERM).to_ne_bytes());
    let error = messages(&refused, &mut |_, _| {}).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EPERM));
}

#[test]
fn finds_real_sockets() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let netns = Netns::current().unwrap();
    let listening = sockets(&netns, Which::Listening).unwrap();
    let l = listening.iter().find(|s| s.local_port == port).unwrap();
    assert_eq!(l.cookie, sockopt::socket_cookie(&listener).unwrap());
    assert_ne!(l.cgroup, 0);
    let connected = sockets(&netns, Which::Connected).unwrap();
    let c = connected.iter().find(|s| s.remote_port == port).unwrap();
    assert_eq!(c.cookie, sockopt::socket_cookie(&client).unwrap());
    assert!(c.tcp.is_some() && c.state == 1);
}
