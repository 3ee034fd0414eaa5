use std::{
    future::poll_fn,
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener},
    thread::spawn,
};

use super::*;

/// A connection: tokio's end, and a plain one for another thread.
fn pair() -> (TcpStream, std::net::TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let other = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    ours.set_nonblocking(true).unwrap();
    (TcpStream::from_std(ours).unwrap(), other)
}

#[test]
fn a_head_and_what_is_there_of_its_body_are_one_write() {
    let mut half = Half {
        body: Body::Length(5),
        ..Half::default()
    };
    half.input.push(b"hellonext");
    let mut out = Out::default();
    out.bytes().extend_from_slice(b"head ");
    take(&mut half, &mut out, false).unwrap();
    assert_eq!(out.bytes(), b"head hello");
    assert_eq!((half.passed, half.input.filled()), (0, &b"next"[..]));
    assert!(half.body.is_done());
    // Of a large one the rest is written from where it is.
    let mut half = Half {
        body: Body::UntilClose,
        ..Half::default()
    };
    half.input.push(&[b'x'; BUFFER_BYTES]);
    take(&mut half, &mut out, false).unwrap();
    assert_eq!((half.passed, out.waiting()), (BUFFER_BYTES, 10));
}

/// However much there is, others have their turn; and nothing is lost by it.
#[tokio::test]
async fn work_per_turn_is_bounded() {
    const SIZE: usize = 16 << 20;
    let (from, mut sender) = pair();
    let (to, mut receiver) = pair();
    let sent: Vec<u8> = (0..SIZE).map(|i| (i / 253) as u8).collect();
    let expected = sent.clone();
    spawn(move || {
        sender.write_all(&sent).unwrap();
        sender.shutdown(Shutdown::Write).unwrap();
    });
    let receiving = spawn(move || {
        let mut got = Vec::new();
        receiver.read_to_end(&mut got).unwrap();
        got
    });
    // So that there is more than one turn's worth.
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let mut half = Half {
        body: Body::UntilClose,
        ..Half::default()
    };
    let (mut out, mut turns) = (Out::default(), 0);
    let strip = false;
    let way = Way {
        from: &from,
        to: &to,
        strip,
    };
    let end = poll_fn(|cx| match pump(cx, &mut half, &mut out, &way) {
        Pump::Yield => {
            turns += 1;
            cx.waker().wake_by_ref();
            Poll::Pending
        }
        Pump::WaitRead | Pump::WaitWrite => Poll::Pending,
        end => Poll::Ready(end),
    })
    .await;
    assert_eq!(end, Pump::Ended);
    drop(to);
    assert!(receiving.join().unwrap() == expected);
    assert!((1..=SIZE / TURN_BYTES).contains(&turns), "{turns} turns");
}
