//! A request over connections that have carried one before costs no allocation, from the client's first
//! byte to the endpoint and back.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "of tests, which fail there")]

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

#[path = "support/rig.rs"]
#[allow(dead_code, reason = "each test file uses some of it")]
mod rig;

use rig::{Rig, run};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const REQUEST: &[u8] = b"POST /v1/accounts?limit=20 HTTP/1.1\r\nHost: shop:8080\r\nUser-Agent: test\r\n\
    Accept: */*\r\nConnection: keep-alive\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello";
const RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";

/// Reads so many bytes, whatever they are.
async fn read(stream: &mut TcpStream, mut len: usize) {
    let mut bytes = [0; 512];
    while len > 0 {
        let more = stream.read(&mut bytes[..len]).await.unwrap();
        assert!(more > 0);
        len -= more;
    }
}

async fn round(client: &mut TcpStream, peer: &mut TcpStream) {
    client.write_all(REQUEST).await.unwrap();
    // Connection is of one hop.
    read(peer, REQUEST.len() - b"Connection: keep-alive\r\n".len()).await;
    peer.write_all(RESPONSE).await.unwrap();
    read(client, RESPONSE.len()).await;
}

#[test]
fn a_request_costs_no_allocation() {
    run(async {
        let rig = Rig::start().await;
        let mut client = rig.client().await.0;
        client.write_all(REQUEST).await.unwrap();
        let mut peer = rig.accept().await.0;
        read(
            &mut peer,
            REQUEST.len() - b"Connection: keep-alive\r\n".len(),
        )
        .await;
        peer.write_all(RESPONSE).await.unwrap();
        read(&mut client, RESPONSE.len()).await;
        for _ in 0..100 {
            round(&mut client, &mut peer).await;
        }
        let region = Region::new(ALLOCATOR);
        for _ in 0..100 {
            round(&mut client, &mut peer).await;
        }
        let change = region.change();
        assert_eq!(
            (change.allocations, change.reallocations),
            (0, 0),
            "{change:?}"
        );
    });
}
