//! Connections of HTTP/2 to endpoints, shared by the requests of one source to one endpoint. Each has a
//! task of its own; with it fail its streams, and nothing else.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::poll_fn,
    pin::pin,
    rc::{Rc, Weak},
    task::Poll,
};

use bytes::Bytes;
use h2::{
    Ping,
    client::{Builder, Connection, SendRequest},
};
use tokio::{
    net::TcpStream,
    sync::Notify,
    time::{Instant, sleep, timeout},
};
use underpass_l7::Refusal;

use super::{
    CONNECTION_WINDOW, FRAME_BYTES, PING_AFTER, PONG_WITHIN, SEND_BYTES, STREAM_WINDOW, STREAMS,
    UPSTREAM_CONNECTIONS,
    watch::Watch,
    wire::{End, Wire},
};
use crate::{
    clock::Clock,
    counters::Count,
    h1::head_bytes_max,
    pool::{IDLE_FOR, Key},
    shard::Shard,
};

/// All of a shard.
#[derive(Debug, Default)]
pub struct Upstreams {
    groups: RefCell<HashMap<Key, Rc<Group>>>,
}

/// Of one key.
#[derive(Debug, Default)]
struct Group {
    open: RefCell<Vec<Rc<Conn>>>,
    /// A connection is being made.
    dialing: Cell<bool>,
    /// How often making one has failed, and why it did.
    failed: Cell<(u64, Option<Refusal>)>,
    /// There is room, or none can be made.
    changed: Notify,
}

#[derive(Debug)]
struct Conn {
    send: RefCell<SendRequest<Bytes>>,
    streams: Cell<usize>,
    used: Cell<bool>,
    /// No more requests go here.
    closing: Cell<bool>,
    idle_since: Cell<Instant>,
    watch: Rc<Watch>,
}

impl Conn {
    fn has_room(&self) -> bool {
        let theirs = || self.send.borrow().current_max_send_streams();
        let open = self.streams.get();
        !self.closing.get()
            && self.watch.last_id().is_none()
            && open < STREAMS as usize
            && open < theirs()
    }
}

/// A place for one request.
#[derive(Debug)]
pub(super) struct Slot {
    conn: Rc<Conn>,
    group: Rc<Group>,
    /// Others have gone over this connection before.
    pub reused: bool,
}

impl Slot {
    pub fn sender(&self) -> SendRequest<Bytes> {
        self.conn.send.borrow().clone()
    }

    pub fn watch(&self) -> &Watch {
        &self.conn.watch
    }

    /// No other request shall go there.
    pub fn close(&self) {
        self.conn.closing.set(true);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let conn = &self.conn;
        conn.streams.set(conn.streams.get() - 1);
        if conn.streams.get() == 0 {
            conn.idle_since.set(Instant::now());
        }
        self.group.changed.notify_one();
    }
}

impl Group {
    fn slot(self: &Rc<Self>) -> Option<Slot> {
        let open = self.open.borrow();
        let conn = open.iter().find(|c| c.has_room())?.clone();
        let reused = conn.used.replace(true);
        conn.streams.set(conn.streams.get() + 1);
        Some(Slot {
            conn,
            group: self.clone(),
            reused,
        })
    }
}

impl Upstreams {
    /// A place on a connection to the endpoint; `dial` makes one if none has room.
    pub(super) async fn take<F>(
        shard: &Rc<Shard>,
        key: &Key,
        dial: impl Fn() -> F,
    ) -> Result<Slot, Refusal>
    where
        F: Future<Output = Result<TcpStream, Refusal>> + 'static,
    {
        let group = {
            let mut groups = shard.upstreams.groups.borrow_mut();
            groups.entry(*key).or_default().clone()
        };
        let failed = group.failed.get().0;
        loop {
            let changed = group.changed.notified();
            if let Some(slot) = group.slot() {
                return Ok(slot);
            }
            if let (count, Some(why)) = group.failed.get()
                && count != failed
            {
                return Err(why);
            }
            let more = group.open.borrow().len() < UPSTREAM_CONNECTIONS;
            if !group.dialing.get() && more {
                group.dialing.set(true);
                let task = connect(Rc::downgrade(shard), Rc::downgrade(&group), dial());
                tokio::task::spawn_local(task);
            }
            changed.await;
        }
    }

    /// Closes those that nobody has used for a while, and those that are no longer wanted.
    pub fn sweep(&self, wanted: impl Fn(&Key) -> bool) {
        self.groups.borrow_mut().retain(|key, group| {
            let wanted = wanted(key);
            group.open.borrow_mut().retain(|conn| {
                let idle = conn.streams.get() == 0;
                let old = idle && conn.idle_since.get().elapsed() >= IDLE_FOR;
                let stays = wanted && !old && !(idle && conn.closing.get());
                conn.closing.set(conn.closing.get() || !stays);
                stays
            });
            !group.open.borrow().is_empty() || Rc::strong_count(group) > 1
        });
    }

    /// Open connections.
    pub fn len(&self) -> usize {
        let groups = self.groups.borrow();
        groups.values().map(|g| g.open.borrow().len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Makes a connection and drives it until its end. It is shown when the endpoint has proven by its SETTINGS
/// that it speaks HTTP/2, which also tell how many streams it takes.
async fn connect(
    shard: Weak<Shard>,
    group: Weak<Group>,
    dial: impl Future<Output = Result<TcpStream, Refusal>>,
) {
    let Some(settings) = shard.upgrade().map(|s| s.settings) else {
        return;
    };
    let watch = Rc::new(Watch::default());
    let made = async {
        let stream = dial.await?;
        let wire = Wire::new(stream, Vec::new(), End::Client, watch.clone());
        let mut builder = Builder::new();
        builder
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME_BYTES)
            .max_header_list_size(head_bytes_max(&settings.limits) as u32)
            .max_send_buffer_size(SEND_BYTES);
        let made = builder.handshake(wire).await;
        let (send, mut connection) = made.map_err(|_| Refusal::NoConnection)?;
        let greeted = poll_fn(|cx| {
            let over = pin!(&mut connection).poll(cx).is_ready();
            match watch.has_settings() {
                true => Poll::Ready(Ok(())),
                false if over => Poll::Ready(Err(Refusal::NotHttp2)),
                false => Poll::Pending,
            }
        });
        greeted.await?;
        Ok((send, connection))
    };
    let made = match timeout(settings.connect, made).await {
        Ok(made) => made,
        Err(_) => Err(Refusal::NoConnection),
    };
    let (Some(group), Some(shard)) = (group.upgrade(), shard.upgrade()) else {
        return;
    };
    group.dialing.set(false);
    let (send, connection) = match made {
        Ok(made) => made,
        Err(why) => {
            group.failed.set((group.failed.get().0 + 1, Some(why)));
            group.changed.notify_waiters();
            return;
        }
    };
    shard.counters.add(Count::Opened);
    let conn = Rc::new(Conn {
        send: RefCell::new(send),
        streams: Cell::new(0),
        used: Cell::new(false),
        closing: Cell::new(false),
        idle_since: Cell::new(Instant::now()),
        watch: watch.clone(),
    });
    group.open.borrow_mut().push(conn.clone());
    group.changed.notify_waiters();
    let (shard, group) = (Rc::downgrade(&shard), Rc::downgrade(&group));
    // Its end is when nobody can send on it any more: this task is not to be one that could.
    let conn = Rc::downgrade(&conn);
    drive(connection, &watch, &conn, &shard).await;
    if let Some(group) = group.upgrade() {
        group
            .open
            .borrow_mut()
            .retain(|c| !Weak::ptr_eq(&Rc::downgrade(c), &conn));
        group.changed.notify_waiters();
    }
}

/// Until the connection's end, or until a PING has had no answer.
async fn drive(
    mut connection: Connection<Wire, Bytes>,
    watch: &Watch,
    conn: &Weak<Conn>,
    shard: &Weak<Shard>,
) {
    let mut pings = connection.ping_pong();
    let mut sleep = pin!(sleep(PING_AFTER));
    let mut clock = Clock::new(sleep.as_mut());
    let (mut seen, mut since, mut asked) = (watch.received(), Instant::now(), false);
    poll_fn(|cx| {
        let over = pin!(&mut connection).poll(cx);
        if (watch.last_id().is_some() || over.is_ready())
            && let Some(conn) = conn.upgrade()
        {
            conn.closing.set(true);
        }
        if over.is_ready() {
            return Poll::Ready(());
        }
        let Some(pings) = &mut pings else {
            return Poll::Pending;
        };
        loop {
            let wait = if asked { PONG_WITHIN } else { PING_AFTER };
            if !clock.is_over(cx, since + wait) {
                return Poll::Pending;
            }
            let silent = watch.received() == seen;
            let busy = conn.upgrade().is_some_and(|c| c.streams.get() > 0);
            if silent && asked {
                if let Some(shard) = shard.upgrade() {
                    shard.counters.add(Count::PingLost);
                }
                return Poll::Ready(());
            }
            (seen, since) = (watch.received(), Instant::now());
            asked = silent && busy && pings.send_ping(Ping::opaque()).is_ok();
            // The next is not sent before this one's answer has been taken.
            let _ = pings.poll_pong(cx);
        }
    })
    .await;
}
