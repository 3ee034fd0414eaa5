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
mod ending;
mod exchange;
mod first;
mod handed;
mod opaque;
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
    book::{Arrived, Side, Who},
    clock::Clock,
    counters::Count,
    detect::Begin,
    h2,
    shard::{Admitted, Shard},
    workload::Workload,
};
use active::Next;
use opaque::First;

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
                    who: Who::Unknown,
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

/// Serves a connection in a task of its own, which ends with its workload at the latest. False if it may
/// not be.
pub fn spawn(shard: &Rc<Shard>, client: TcpStream, arrived: Arrived) -> bool {
    let workload = arrived.workload.clone();
    let Some(admitted) = shard.admit(arrived) else {
        return false;
    };
    let at = admitted.at;
    let task = tokio::task::spawn_local(serve(admitted, client));
    workload.started(at, task.abort_handle());
    true
}

/// Serves one connection until its end.
pub fn serve(admitted: Admitted, client: TcpStream) -> impl Future<Output = ()> {
    serve_on(admitted, client, None)
}

/// Likewise; `active`: in the midst of it.
#[expect(
    clippy::manual_async_fn,
    reason = "an async fn keeps its arguments twice, and a parked connection is little else"
)]
pub(crate) fn serve_on(
    admitted: Admitted,
    client: TcpStream,
    mut active: Option<Box<Active>>,
) -> impl Future<Output = ()> {
    async move {
        // Heads and small bodies are written at once; Nagle would only add a wait.
        if client.set_nodelay(true).is_err() {
            return;
        }
        if admitted.shard.plan(&admitted.arrived).is_err() {
            // Rare, and no connection is to be larger for it.
            Box::pin(admitted.shard.wait_for_plan(&admitted.arrived)).await;
        }
        let mut detect = false;
        // One that comes back from another task has spoken long ago.
        if active.is_none() {
            detect = match admitted.shard.begin(&admitted.arrived) {
                Begin::Http => false,
                Begin::Client => true,
                begin => match Box::pin(opaque::begin(&admitted, &client, begin)).await {
                    First::Client => true,
                    First::Over => return,
                },
            };
        }
        let mut sleep = pin!(sleep(admitted.shard.settings.idle));
        let mut clock = Clock::new(sleep.as_mut());
        while active.is_some() || readable(&admitted, &client, &mut clock).await {
            let mut at = active.take().unwrap_or_else(|| admitted.shard.activate());
            if detect {
                at.detect();
            }
            let next = poll_fn(|cx| at.poll(cx, &admitted, &client, &mut clock)).await;
            detect = at.is_undecided();
            if matches!(next, Next::Http2 | Next::Translate) {
                // Another task's: what waits here is to be small.
                return h2::hand_over(admitted, client, at, next == Next::Http2);
            }
            if next == Next::Opaque {
                Box::pin(opaque::go_on(&admitted, &client, &mut at)).await;
                return admitted.shard.rest(at);
            }
            admitted.shard.rest(at);
            if next == Next::Close || admitted.arrived.workload.is_draining() {
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
