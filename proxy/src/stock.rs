//! Unconnected sockets that the vendor has given, for the next requests that need a new connection.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    os::fd::OwnedFd,
    time::Duration,
};

use tokio::{
    sync::{mpsc::UnboundedSender, oneshot},
    time::timeout,
};
use underpass_api::vend::{Family, frame::FDS_MAX};

/// Sockets of one workload and family that wait.
pub const STOCK: usize = 8;
/// With fewer more are asked for.
pub const STOCK_LOW: usize = 4;
/// How long a request waits for a socket when there is none.
pub const SOCKET_WITHIN: Duration = Duration::from_secs(1);

/// What a shard asks the vendor for; answered by [`Stocks::give`] or [`Stocks::refused`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    pub workload: u64,
    pub family: Family,
    /// 1 to 64.
    pub count: u16,
}

/// Of one shard, by workload and family.
#[derive(Debug)]
pub struct Stocks {
    all: RefCell<BTreeMap<(u64, Family), Stock>>,
    /// To who speaks with the vendor. What waits there is bounded by the requests that are under way.
    ask: UnboundedSender<(usize, Want)>,
    /// Of the shard.
    number: usize,
}

#[derive(Debug, Default)]
struct Stock {
    sockets: Vec<OwnedFd>,
    /// Requests that found none; the first comes first.
    waiting: VecDeque<oneshot::Sender<OwnedFd>>,
    /// Asked for and not answered.
    asked: usize,
}

impl Stocks {
    /// `number` is the shard's, to which an answer belongs.
    pub fn new(ask: UnboundedSender<(usize, Want)>, number: usize) -> Self {
        Self {
            all: RefCell::default(),
            ask,
            number,
        }
    }

    /// A socket that can be connected to `address`; `None` if the vendor gives none in time.
    pub fn take(
        &self,
        workload: u64,
        address: SocketAddr,
    ) -> impl Future<Output = Option<OwnedFd>> + use<> {
        let family = match address {
            SocketAddr::V4(_) => Family::V4,
            SocketAddr::V6(_) => Family::V6,
        };
        let all = &mut *self.all.borrow_mut();
        let stock = all.entry((workload, family)).or_default();
        let found = stock.sockets.pop();
        let waiting = found.is_none().then(|| {
            let (sender, receiver) = oneshot::channel();
            stock.waiting.push_back(sender);
            receiver
        });
        self.refill(stock, workload, family);
        async move {
            match waiting {
                None => found,
                Some(receiver) => timeout(SOCKET_WITHIN, receiver).await.ok()?.ok(),
            }
        }
    }

    /// Sockets will be needed: most endpoints have IPv4 addresses.
    pub fn expect(&self, workload: u64) {
        let all = &mut *self.all.borrow_mut();
        let stock = all.entry((workload, Family::V4)).or_default();
        self.refill(stock, workload, Family::V4);
    }

    fn refill(&self, stock: &mut Stock, workload: u64, family: Family) {
        stock.waiting.retain(|sender| !sender.is_closed());
        let there = stock.sockets.len() + stock.asked;
        let wanted = stock.waiting.len();
        if there >= wanted + STOCK_LOW || stock.asked > 0 && there >= wanted {
            return;
        }
        let count = (wanted + STOCK - there).min(FDS_MAX);
        let question = Want {
            workload,
            family,
            count: count as u16,
        };
        // Without a vendor this process is about to end.
        if self.ask.send((self.number, question)).is_ok() {
            stock.asked += count;
        }
    }

    /// The vendor's answer. What nobody waits for any more, or is too much, is closed.
    pub fn give(&self, workload: u64, family: Family, sockets: Vec<OwnedFd>) {
        let all = &mut *self.all.borrow_mut();
        // The workload has ended meanwhile.
        let Some(stock) = all.get_mut(&(workload, family)) else {
            return;
        };
        stock.asked = stock.asked.saturating_sub(sockets.len());
        for socket in sockets {
            let mut left = Some(socket);
            while let Some(waiting) = stock.waiting.pop_front() {
                // Given back if that request has ended.
                left = left.and_then(|socket| waiting.send(socket).err());
                if left.is_none() {
                    break;
                }
            }
            if stock.sockets.len() < FDS_MAX {
                stock.sockets.extend(left);
            }
        }
        self.refill(stock, workload, family);
    }

    /// The vendor gave none: those who wait fail at once, and the next asks again.
    pub fn refused(&self, workload: u64) {
        for family in [Family::V4, Family::V6] {
            if let Some(stock) = self.all.borrow_mut().get_mut(&(workload, family)) {
                stock.asked = 0;
                stock.waiting.clear();
            }
        }
    }

    pub fn forget(&self, workload: u64) {
        self.all.borrow_mut().retain(|(id, _), _| *id != workload);
    }

    /// Sockets that wait.
    pub fn len(&self) -> usize {
        self.all.borrow().values().map(|s| s.sockets.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests;
