//! Where connections to endpoints come from.

use std::{net::SocketAddr, rc::Rc};

use tokio::net::{TcpSocket, TcpStream};
use underpass_l7::Refusal;

use crate::{pool::Key, stock::Stocks};

/// Makes connections for a shard.
#[derive(Debug)]
pub enum Connector {
    /// Sockets of its own: this process runs in the namespace of the workload that it serves.
    Own,
    /// Sockets that a vendor made in the namespaces of the workloads.
    Vended(Rc<Stocks>),
}

impl Connector {
    /// A connection of `key`'s workload, from its source to its destination at `address`.
    ///
    /// # Errors
    /// `NoConnection`, or `NoSocket` if the vendor gave none in time.
    pub fn dial(
        &self,
        key: &Key,
        address: SocketAddr,
    ) -> impl Future<Output = Result<TcpStream, Refusal>> + use<> {
        let socket = match self {
            Self::Own => None,
            Self::Vended(stocks) => Some(stocks.take(key.workload, address)),
        };
        async move {
            let connected = match socket {
                None => TcpStream::connect(address).await,
                Some(socket) => {
                    let socket = socket.await.ok_or(Refusal::NoSocket)?;
                    TcpSocket::from_std_stream(socket.into())
                        .connect(address)
                        .await
                }
            };
            let stream = connected.map_err(|_| Refusal::NoConnection)?;
            stream
                .set_nodelay(true)
                .map_err(|_| Refusal::NoConnection)?;
            Ok(stream)
        }
    }

    /// A connection of the workload has come: it will soon dial.
    pub fn expect(&self, workload: u64) {
        if let Self::Vended(stocks) = self {
            stocks.expect(workload);
        }
    }

    /// Closes what waits for the workload.
    pub fn forget(&self, workload: u64) {
        if let Self::Vended(stocks) = self {
            stocks.forget(workload);
        }
    }
}
