use std::net::UdpSocket;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;

const V4: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

fn stocks() -> (Stocks, UnboundedReceiver<(usize, Want)>) {
    let (sender, asked) = unbounded_channel();
    (Stocks::new(sender, 3), asked)
}

fn some(count: usize) -> Vec<OwnedFd> {
    let socket = || UdpSocket::bind("127.0.0.1:0").expect("a socket").into();
    (0..count).map(|_| socket()).collect()
}

fn count(asked: &mut UnboundedReceiver<(usize, Want)>) -> Vec<u16> {
    std::iter::from_fn(|| asked.try_recv().ok().map(|(_, w)| w.count)).collect()
}

#[tokio::test(start_paused = true)]
async fn it_is_filled_before_it_is_empty() {
    let (stocks, mut asked) = stocks();
    stocks.expect(7);
    stocks.expect(7);
    assert_eq!(count(&mut asked), [8]);
    stocks.give(7, Family::V4, some(8));
    for _ in 0..4 {
        assert!(stocks.take(7, V4).await.is_some());
    }
    assert!(count(&mut asked).is_empty());
    assert!(stocks.take(7, V4).await.is_some());
    assert_eq!((count(&mut asked), stocks.len()), (vec![5], 3));
    // Of another workload or family: nothing.
    let v6 = "[::1]:1".parse().unwrap();
    assert!(stocks.take(7, v6).await.is_none() && stocks.take(8, V4).await.is_none());
    stocks.forget(7);
    stocks.give(7, Family::V4, some(5));
    assert!(stocks.is_empty(), "what comes too late is closed");
}

#[tokio::test(start_paused = true)]
async fn many_that_come_at_once_wait_in_order_and_get_theirs() {
    let (stocks, mut asked) = stocks();
    let mut all: Vec<_> = (0..100).map(|_| Box::pin(stocks.take(7, V4))).collect();
    let wanted: u16 = count(&mut asked).iter().sum();
    assert!((100..=164).contains(&wanted), "{wanted}");
    // One gave up.
    drop(all.remove(0));
    let mut left = usize::from(wanted);
    while left > 0 {
        stocks.give(7, Family::V4, some(left.min(FDS_MAX)));
        left = left.saturating_sub(FDS_MAX);
    }
    for waits in all {
        assert!(waits.await.is_some());
    }
    assert_eq!(stocks.len(), usize::from(wanted) - 99);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_at_once_and_silence_in_time() {
    let (stocks, mut asked) = stocks();
    let waits = stocks.take(7, V4);
    stocks.refused(7);
    let start = tokio::time::Instant::now();
    assert!(waits.await.is_none());
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert!(stocks.take(7, V4).await.is_none());
    assert_eq!(start.elapsed(), SOCKET_WITHIN);
    assert_eq!(count(&mut asked).len(), 2);
}
