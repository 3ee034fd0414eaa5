//! From a client's connection to the endpoints that its requests go to, and back.
//!
//! A connection without a request is *parked*: a socket, a timer and this task. With the first byte of a
//! request it becomes [`Active`], which holds all buffers, and goes through these phases:
//!
//! ```text
//! parked ─► Head ─► Dial ─► Exchange ─► Head … parked
//!             │       │        ├──────► Tunnel ─► closed
//!             └───────┴────────┴──────► Answer ─► Head, or Linger ─► closed
//! ```

mod active;
mod answer;
mod exchange;
mod pump;
mod tunnel;

pub use active::Active;
pub(crate) use active::shut_write;
pub(crate) use answer::write as answer;
pub(crate) use pump::Half;

use std::{future::poll_fn, pin::pin, rc::Rc, task::Poll, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, sleep},
};

use crate::{clock::Clock, counters::Count, h2, shard::Shard};
use active::Next;
use underpass_l7::Refusal;

/// Bytes that one connection moves each way before the others have their turn.
pub const TURN_BYTES: usize = 256 << 10;
/// Interim responses to one request.
pub const INTERIM_MAX: usize = 32;

/// After accept(2) failed, which it does again at once while there are no file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(20);

/// Serves each connection in a task of its own. Runs on a [`tokio::runtime::LocalRuntime`], or within a
/// [`tokio::task::LocalSet`]; never ends.
pub async fn listen(shard: Rc<Shard>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::task::spawn_local(serve(shard.clone(), stream));
            }
            Err(_) => {
                shard.counters.add(Count::AcceptFailed);
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

/// Serves one connection until its end.
#[expect(
    clippy::manual_async_fn,
    reason = "an async fn keeps its arguments twice, and a parked connection is little else"
)]
pub fn serve(shard: Rc<Shard>, mut client: TcpStream) -> impl Future<Output = ()> {
    async move {
        let Some(_admitted) = shard.admit() else {
            return;
        };
        // Heads and small bodies are written at once; Nagle would only add a wait.
        if client.set_nodelay(true).is_err() {
            return;
        }
        let mut sleep = pin!(sleep(shard.settings.idle));
        let mut clock = Clock::new(sleep.as_mut());
        while readable(&shard, &client, &mut clock).await {
            let mut active = shard.activate();
            let next = loop {
                match poll_fn(|cx| active.poll(cx, &shard, &client, &mut clock)).await {
                    Next::Translate => {
                        let translated = h2::serve_h1(shard.clone(), client, &mut active);
                        let Some(back) = Box::pin(translated).await else {
                            return;
                        };
                        client = back;
                    }
                    next => break next,
                }
            };
            let input = match next {
                Next::Http2 => active.take_input(),
                _ => Vec::new(),
            };
            shard.rest(active);
            match next {
                Next::Http2 => return Box::pin(h2::serve(shard, client, input)).await,
                Next::Close => return,
                Next::Park | Next::Translate => {}
            }
        }
    }
}

/// Waits for the first byte of the next request; not for ever.
async fn readable(shard: &Shard, client: &TcpStream, clock: &mut Clock<'_>) -> bool {
    let deadline = Instant::now() + shard.settings.idle;
    poll_fn(|cx| {
        if let Poll::Ready(ready) = client.poll_read_ready(cx) {
            return Poll::Ready(ready.is_ok());
        }
        if clock.is_over(cx, deadline) {
            shard.counters.add(Count::IdleTimeout);
            return Poll::Ready(false);
        }
        Poll::Pending
    })
    .await
}

/// A connection to an endpoint.
pub(crate) async fn dial(address: std::net::SocketAddr) -> Result<TcpStream, Refusal> {
    let why = |_| Refusal::NoConnection;
    let stream = TcpStream::connect(address).await.map_err(why)?;
    stream.set_nodelay(true).map_err(why)?;
    Ok(stream)
}
