//! Connections that are no HTTP: bytes both ways, to one endpoint. And those of which it is not known yet,
//! because nobody has spoken.

use std::{future::poll_fn, pin::pin, rc::Rc, task::Poll, time::Duration};

use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use underpass_l7::Refusal;

use super::{
    active::Active,
    tunnel::{Both, Moved},
};
use crate::{
    book::Arrived,
    clock::Clock,
    counters::Count,
    detect::{Begin, Speaker},
    h1::body::Body,
    plan::{Plan, Ticket},
    shard::{Admitted, Shard},
};

/// A connection to the endpoint, and its part of the balancer's count.
struct Reached {
    stream: TcpStream,
    ticket: Ticket,
}

/// What becomes of a connection that does not begin with its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum First {
    /// It has spoken, or is the only one that can.
    Client,
    /// It was no HTTP, and has ended.
    Over,
}

pub(super) async fn begin(admitted: &Admitted, client: &TcpStream, begin: Begin) -> First {
    let shard = &admitted.shard;
    let mut reached = None;
    if let Begin::Either { silent_for } = begin {
        admitted.park(true);
        let spoke = listen(admitted, client, silent_for).await;
        admitted.park(false);
        reached = match spoke {
            Spoke::Client => return First::Client,
            Spoke::Nobody => return First::Over,
            Spoke::Server(reached) => Some(reached),
        };
    }
    let mut active = shard.activate();
    serve(admitted, client, &mut active, reached).await;
    shard.rest(active);
    First::Over
}

enum Spoke {
    Client,
    Server(Reached),
    Nobody,
}

/// Listens to both ends of a connection of which nobody knows who speaks first: for `silent_for` to the
/// client alone, then to a server too.
async fn listen(admitted: &Admitted, client: &TcpStream, silent_for: Duration) -> Spoke {
    let Admitted { shard, arrived, .. } = admitted;
    if timeout(silent_for, speaks(client)).await.is_ok() {
        return Spoke::Client;
    }
    let (Ok(plan), Some(_probe)) = (shard.plan(arrived), shard.probe()) else {
        // The client alone can tell; it is waited for as ever.
        return Spoke::Client;
    };
    shard.counters.add(Count::Probes);
    let reached = tokio::select! {
        biased;
        _ = speaks(client) => return Spoke::Client,
        reached = reach(shard, arrived, &plan) => reached,
    };
    let Ok(reached) = reached else {
        return Spoke::Client;
    };
    tokio::select! {
        biased;
        _ = speaks(client) => Spoke::Client,
        // If it has ended it has waited for its client long enough.
        spoke = speaks(&reached.stream) => {
            if !spoke {
                return Spoke::Client;
            }
            shard.learnt.learn(&plan, Speaker::Server);
            shard.counters.add(Count::ServerFirst);
            Spoke::Server(reached)
        }
        () = sleep(shard.settings.idle) => {
            shard.counters.add(Count::IdleTimeout);
            Spoke::Nobody
        }
    }
}

/// Waits for a byte, an end or an error; whether it was a byte. That a new connection is readable is no
/// proof: that is said once too often.
async fn speaks(stream: &TcpStream) -> bool {
    stream.peek(&mut [0]).await.is_ok_and(|len| len > 0)
}

/// A connection whose client has spoken, and not HTTP.
pub(super) async fn go_on(admitted: &Admitted, client: &TcpStream, active: &mut Active) {
    serve(admitted, client, active, None).await;
}

/// Moves bytes until one end is over. What has come of the client's is in `active`.
async fn serve(
    admitted: &Admitted,
    client: &TcpStream,
    active: &mut Active,
    reached: Option<Reached>,
) {
    let Admitted { shard, arrived, .. } = admitted;
    let reached = match reached {
        Some(reached) => Ok(reached),
        None => match shard.plan(arrived) {
            Ok(plan) => reach(shard, arrived, &plan).await,
            Err(why) => Err(why),
        },
    };
    let Reached { stream, ticket } = match reached {
        Ok(reached) => reached,
        Err(why) => {
            // It has no words for more.
            shard.counters.refuse(why);
            shard.counters.add(Count::OpaqueRefused);
            let _ = client.set_zero_linger();
            return;
        }
    };
    shard.counters.add(Count::Opaque);
    let (down, up) = (&mut active.down, &mut active.up);
    (down.body, up.body) = (Body::UntilClose, Body::UntilClose);
    let mut both = Both {
        client,
        upstream: &stream,
        down,
        down_out: &mut active.down_out,
        up,
        up_out: &mut active.up_out,
    };
    let mut sleep = pin!(sleep(shard.settings.tunnel));
    let mut clock = Clock::new(sleep.as_mut());
    let mut since = Instant::now();
    poll_fn(|cx| match both.poll(cx) {
        Moved::Over => Poll::Ready(()),
        Moved::Yield => Poll::Pending,
        Moved::Waits { moved } => {
            if moved {
                since = Instant::now();
            }
            if clock.is_over(cx, since + shard.settings.tunnel) {
                shard.counters.add(Count::TunnelIdle);
                return Poll::Ready(());
            }
            Poll::Pending
        }
    })
    .await;
    drop(ticket);
}

/// A new connection to an endpoint of the plan's own service: it is nobody else's, before or after.
async fn reach(shard: &Rc<Shard>, arrived: &Arrived, plan: &Plan) -> Result<Reached, Refusal> {
    let mut picked = plan.pick_opaque(shard.random(), shard.start())?;
    let dialing = shard.connector.dial(&picked.key, picked.endpoint.address);
    let dialed = timeout(shard.settings.connect, dialing).await;
    let stream = dialed.map_err(|_| Refusal::NoConnection).flatten();
    match stream {
        Ok(stream) if !arrived.workload.is_draining() => {
            shard.counters.add(Count::Opened);
            picked.ticket.answered(0);
            Ok(Reached {
                stream,
                ticket: picked.ticket,
            })
        }
        Ok(_) => Err(Refusal::NoConnection),
        Err(why) => {
            picked.ticket.failed();
            Err(why)
        }
    }
}
