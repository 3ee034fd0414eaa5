//! A client's connection of HTTP/2: a task that drives it and starts one for each stream.

use std::{
    cell::Cell,
    future::poll_fn,
    pin::pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use h2::{
    Reason,
    server::{Builder, Connection},
};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::{
    CONNECTION_WINDOW, FRAME_BYTES, SEND_BYTES, STREAM_WINDOW, STREAMS,
    stream::{self, Open},
    watch::{Flood, Watch},
    wire::{End, Wire},
};
use crate::{clock::Clock, counters::Count, h1::head_bytes_max, shard::Admitted};

/// Serves one connection until its end. `first`: what has been read of it, the preface at least.
pub async fn serve(admitted: Admitted, client: TcpStream, first: Vec<u8>) {
    let admitted = Rc::new(admitted);
    let shard = &admitted.shard;
    shard.counters.add(Count::H2Connections);
    let watch = Rc::new(Watch::default());
    let wire = Wire::new(client, first, End::Server, watch.clone());
    let mut builder = Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_BYTES)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(head_bytes_max(&shard.settings.limits) as u32)
        .max_send_buffer_size(SEND_BYTES)
        .enable_connect_protocol();
    let shaken = timeout(shard.settings.head, builder.handshake(wire)).await;
    let Ok(Ok(connection)) = shaken else {
        return;
    };
    let mut served = Served {
        admitted: admitted.clone(),
        watch: watch.clone(),
        connection,
        open: Rc::default(),
        since: Instant::now(),
        leaving: false,
    };
    let mut sleep = pin!(sleep(shard.settings.idle));
    let mut clock = Clock::new(sleep.as_mut());
    let workload = &admitted.arrived.workload;
    let mut drains = pin!(workload.drains.notified());
    poll_fn(|cx| {
        let draining = drains.as_mut().poll(cx).is_ready() || workload.is_draining();
        if draining && !served.leaving {
            served.leave();
        }
        served.poll(cx, &mut clock)
    })
    .await;
    served.tell();
}

struct Served {
    admitted: Rc<Admitted>,
    watch: Rc<Watch>,
    connection: Connection<Wire, Bytes>,
    /// Streams whose tasks are not over.
    open: Rc<Cell<usize>>,
    /// There has been none.
    since: Instant,
    /// GOAWAY has been sent.
    leaving: bool,
}

impl Served {
    fn poll(&mut self, cx: &mut Context<'_>, clock: &mut Clock<'_>) -> Poll<()> {
        loop {
            match self.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    self.admitted.shard.counters.add(Count::H2Streams);
                    let open = Open::new(&self.admitted, &self.open);
                    let call = stream::run(&self.admitted, open, request, respond);
                    tokio::task::spawn_local(call);
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        self.tell();
        if let Some(flood) = self.watch.flood()
            && !self.leaving
        {
            self.admitted.shard.counters.add(match flood {
                Flood::Resets => Count::H2ResetFlood,
                Flood::IdleFrames => Count::H2FrameFlood,
            });
            self.leaving = true;
            self.since = Instant::now();
            self.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.wait(cx, clock)
    }

    /// Closes it when there has been no stream for a while; and when it does not end.
    fn wait(&mut self, cx: &mut Context<'_>, clock: &mut Clock<'_>) -> Poll<()> {
        let flooded = self.watch.flood().is_some();
        if self.open.get() > 0 && !flooded {
            self.since = Instant::now();
        }
        let settings = &self.admitted.shard.settings;
        let wait = if self.leaving {
            settings.linger
        } else {
            settings.idle
        };
        if (self.open.get() > 0 && !flooded) || !clock.is_over(cx, self.since + wait) {
            return Poll::Pending;
        }
        if self.leaving {
            return Poll::Ready(());
        }
        self.admitted.shard.counters.add(Count::IdleTimeout);
        self.leave();
        self.since = Instant::now();
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Takes no more streams; what is under way ends as it would.
    fn leave(&mut self) {
        self.leaving = true;
        self.connection.graceful_shutdown();
    }

    /// Counts what the crate has refused by itself.
    fn tell(&self) {
        let whats = [Count::H2Refused, Count::H2Calm, Count::H2Errors];
        for (what, times) in whats.into_iter().zip(self.watch.take_told()) {
            (0..times).for_each(|_| self.admitted.shard.counters.add(what));
        }
    }
}
