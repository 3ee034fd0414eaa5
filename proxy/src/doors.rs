//! The listeners of a workload: each is accepted from until it is closed.

use std::{cell::RefCell, io, os::fd::OwnedFd, rc::Rc, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::sleep,
};
use underpass_mesh::door;

use crate::{
    book::Side,
    crew::{Crew, Incoming, Order, Stream},
};

/// After accept(2) failed for want of descriptors or memory.
const ACCEPT_AGAIN: Duration = Duration::from_millis(20);

/// What a listener's connections are.
pub(crate) struct Door {
    pub crew: Rc<RefCell<Crew>>,
    pub workload: u64,
    pub name: Arc<str>,
    pub port: u16,
}

#[derive(Default)]
pub(crate) struct Doors(Vec<JoinHandle<()>>);

impl Doors {
    pub fn open(&mut self, door: Door, socket: OwnedFd) -> io::Result<()> {
        let listener = TcpListener::from_std(socket.into())?;
        self.0
            .push(tokio::task::spawn_local(accept(door, listener)));
        Ok(())
    }

    /// Nothing is accepted afterwards, and this process has no descriptor of the listeners.
    pub async fn close(&mut self) {
        for task in self.0.drain(..) {
            task.abort();
            // Only when it has ended is the listener closed.
            let _ = task.await;
        }
    }
}

async fn accept(door: Door, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => door.give(stream),
            Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(_) => {
                door.crew.borrow().members[0].tell(Order::AcceptFailed);
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

impl Door {
    fn give(&self, stream: TcpStream) {
        let side = match self.port {
            door::INBOUND => Side::Inbound,
            _ => Side::Outbound,
        };
        self.crew.borrow_mut().give(Incoming {
            stream: Stream::Here(stream),
            workload: self.workload,
            name: self.name.clone(),
            side,
            port: self.port,
        });
    }
}
