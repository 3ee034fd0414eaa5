//! What a connection costs that waits for its next request.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "of tests, which fail there")]

use underpass_proxy::{
    counters::Count,
    forward::{Active, serve},
    pool::{IDLE_PER_KEY, Key, Pool},
    shard::{Settings, Shard},
};

#[path = "support/peers.rs"]
#[allow(dead_code, reason = "each test file uses some of it")]
mod peers;
#[path = "support/rig.rs"]
#[allow(dead_code, reason = "each test file uses some of it")]
mod rig;

use rig::{GET, OK, Rig, plan, run};
use tokio::net::{TcpListener, TcpStream};

/// The task of a parked connection is this future and what tokio keeps of it; its buffers are others'.
#[test]
fn the_future_of_a_connection_is_small() {
    run(async {
        let shard = Shard::of_one(Settings::default(), plan(&[]));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let arrived = rig::arrived(stream.local_addr().unwrap());
        let future = serve(shard.admit(arrived).unwrap(), stream);
        let bytes = size_of_val(&future);

        assert!(bytes <= 328, "{bytes} bytes");
        // What has a request costs more, and there are few of them.
        assert!(size_of::<Active>() <= 1024, "{}", size_of::<Active>());
    });
}

#[test]
fn a_parked_connection_holds_no_buffers() {
    run(async {
        const CLIENTS: usize = 200;
        let rig = Rig::start().await;
        let mut clients = Vec::new();
        let before = resident();
        for _ in 0..CLIENTS {
            let mut client = rig.client().await;
            client.say(GET).await;
            let mut peer = rig.accept_or_used(&mut clients).await;
            peer.expect(GET).await;
            peer.say(OK).await;
            client.expect(OK).await;
            clients.push((client, Some(peer)));
        }
        let each = resident().saturating_sub(before) / CLIENTS;
        // Both of its mock peers are in this process too; 32 KiB of buffers would show.
        assert!(each < 16 << 10, "{each} bytes for each");
        assert_eq!(rig.shard.open(), CLIENTS);
        // One connection to the endpoint has served them all.
        assert_eq!(rig.count(Count::Opened), 1);
    });
}

impl Rig {
    /// The endpoint's one connection, which the last client's request came by too.
    async fn accept_or_used(&self, clients: &mut [(rig::Peer, Option<rig::Peer>)]) -> rig::Peer {
        match clients.last_mut().and_then(|(_, peer)| peer.take()) {
            Some(peer) => peer,
            None => self.accept().await,
        }
    }
}

/// Bytes of this process that are in memory.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

#[test]
fn identities_do_not_share_connections() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let counters = underpass_proxy::counters::Counters::default();
        let pool = Pool::default();
        let key = Key {
            workload: 5,
            source: 1,
            destination: 2,
            endpoint: 3,
        };
        let mut accepted = Vec::new();
        for _ in 0..IDLE_PER_KEY {
            let stream = TcpStream::connect(at).await.unwrap();
            accepted.push(listener.accept().await.unwrap());
            pool.put(key, stream, &counters);
        }
        for other in [
            Key { workload: 9, ..key },
            Key { source: 9, ..key },
            Key {
                destination: 9,
                ..key
            },
            Key { endpoint: 9, ..key },
        ] {
            assert!(pool.take(&other, &counters).is_none(), "{other:?}");
        }
        // No more of one key than may be.
        pool.put(key, TcpStream::connect(at).await.unwrap(), &counters);
        assert_eq!(
            (pool.len(), counters.get(Count::Dropped)),
            (IDLE_PER_KEY, 1)
        );
        assert!(pool.take(&key, &counters).is_some());
        // Those whose server has gone are not used.
        accepted.clear();
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        assert!(pool.take(&key, &counters).is_none());
        assert_eq!(counters.get(Count::Stale), IDLE_PER_KEY as u64 - 1);
        assert!(pool.is_empty());
        pool.put(key, TcpStream::connect(at).await.unwrap(), &counters);
        pool.sweep(&counters, |key| key.source != 1);
        assert!(pool.is_empty());
    });
}

/// A client of HTTP/2 that waits holds what the crate keeps of a connection.
#[test]
fn a_parked_connection_of_http2() {
    run(async {
        const CLIENTS: usize = 200;
        let (rig, mut endpoint) = peers::rig_of(h2::server::Builder::new()).await;
        let mut clients = Vec::new();
        // The endpoint's connection, and what the process gets once.
        for round in 0..2 {
            let before = resident();
            for _ in 0..CLIENTS {
                let mut raw = peers::Raw::client(&rig).await;
                let whole = peers::END_HEADERS | peers::END_STREAM;
                raw.frame(peers::HEADERS, whole, 1, peers::HEAD).await;
                let (_, mut respond) = endpoint.next().await;
                respond.send_response(peers::ok(), true).unwrap();
                assert_eq!(raw.expect(peers::HEADERS).await.id, 1);
                clients.push(raw);
            }
            let each = resident().saturating_sub(before) / CLIENTS;
            eprintln!("{each} bytes for each parked connection of HTTP/2");
            assert!(round == 0 || each < 32 << 10, "{each} bytes for each");
        }
        assert_eq!(rig.shard.open(), 2 * CLIENTS);
        assert_eq!(rig.count(Count::Opened), 1);
        let stream = underpass_proxy::h2::future_bytes();
        eprintln!("{stream} bytes for the task of a stream");
        assert!(stream <= 4096, "{stream}");
    });
}
