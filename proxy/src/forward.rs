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

use crate::{
    book::{Arrived, Side},
    clock::Clock,
    counters::Count,
    h2,
    shard::{Admitted, Shard},
    workload::Workload,
};
use active::Next;

/// Bytes that one connection moves each way before the others have their turn.
pub const TURN_BYTES: usize = 256 << 10;
/// Interim responses to one request.
pub const INTERIM_MAX: usize = 32;

/// After accept(2) failed, which it does again at once while there are no file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(20);

/// Serves each connection in a task of its own, whatever its client meant to reach. Runs on a
/// [`tokio::runtime::LocalRuntime`], or within a [`tokio::task::LocalSet`]; never ends.
pub async fn listen(shard: Rc<Shard>, listener: TcpListener) {
    let workload = Rc::new(Workload::default());
    loop {
        let accepted = listener.accept().await;
        match accepted.and_then(|(stream, _)| Ok((stream.local_addr()?, stream))) {
            Ok((original, stream)) => {
                let arrived = Arrived {
                    workload: workload.clone(),
                    side: Side::Outbound,
                    original,
                };
                spawn(&shard, stream, arrived);
            }
            Err(_) => {
                shard.counters.add(Count::AcceptFailed);
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

/// Serves a connection in a task of its own, which ends with its workload at the latest.
pub fn spawn(shard: &Rc<Shard>, client: TcpStream, arrived: Arrived) {
    let workload = arrived.workload.clone();
    if let Some(admitted) = shard.admit(arrived) {
        let at = admitted.at;
        let task = tokio::task::spawn_local(serve(admitted, client));
        workload.started(at, task.abort_handle());
    }
}

/// Serves one connection until its end.
#[expect(
    clippy::manual_async_fn,
    reason = "an async fn keeps its arguments twice, and a parked connection is little else"
)]
pub fn serve(admitted: Admitted, mut client: TcpStream) -> impl Future<Output = ()> {
    async move {
        let Admitted { shard, arrived, .. } = &admitted;
        // Heads and small bodies are written at once; Nagle would only add a wait.
        if client.set_nodelay(true).is_err() {
            return;
        }
        if shard.plan(arrived).is_err() {
            // Rare, and no connection is to be larger for it.
            Box::pin(shard.wait_for_plan(arrived)).await;
        }
        let mut sleep = pin!(sleep(shard.settings.idle));
        let mut clock = Clock::new(sleep.as_mut());
        while readable(&admitted, &client, &mut clock).await {
            let mut active = shard.activate();
            let next = loop {
                match poll_fn(|cx| active.poll(cx, &admitted, &client, &mut clock)).await {
                    Next::Translate => {
                        let translated = h2::serve_h1(&admitted, client, &mut active);
                        let Some(back) = Box::pin(translated).await else {
                            return;
                        };
                        client = back;
                    }
                    next => break next,
                }
            };
            if next == Next::Http2 {
                let input = active.take_input();
                shard.rest(active);
                return Box::pin(h2::serve(admitted, client, input)).await;
            }
            shard.rest(active);
            if next == Next::Close || arrived.workload.is_draining() {
                return;
            }
        }
    }
}

/// Waits for the first byte of the next request; not for ever.
async fn readable(admitted: &Admitted, client: &TcpStream, clock: &mut Clock<'_>) -> bool {
    let shard = &admitted.shard;
    let deadline = Instant::now() + shard.settings.idle;
    admitted.park(true);
    let is_readable = poll_fn(|cx| {
        if let Poll::Ready(ready) = client.poll_read_ready(cx) {
            return Poll::Ready(ready.is_ok());
        }
        if clock.is_over(cx, deadline) {
            shard.counters.add(Count::IdleTimeout);
            return Poll::Ready(false);
        }
        Poll::Pending
    })
    .await;
    admitted.park(false);
    is_readable
}
