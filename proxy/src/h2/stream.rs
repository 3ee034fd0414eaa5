//! One stream of a client of HTTP/2: a task until the response is over.

use std::{cell::Cell, rc::Rc};

use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::Request;

use super::{
    body::Source,
    call::{Call, Ended},
    ends::Client,
    head::Facts,
};
use crate::shard::Admitted;

/// Counts a stream of a connection until it is dropped, and the connection as open as long.
pub(super) struct Open {
    _admitted: Rc<Admitted>,
    count: Rc<Cell<usize>>,
}

impl Open {
    pub fn new(admitted: &Rc<Admitted>, count: &Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        Self {
            _admitted: admitted.clone(),
            count: count.clone(),
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.count.set(self.count.get() - 1);
    }
}

/// Serves one request. There is no future around the call's: it would hold that twice.
pub(super) fn run(
    admitted: &Admitted,
    open: Open,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
) -> impl Future<Output = Ended> + use<> {
    let (parts, body) = request.into_parts();
    let end = body.is_end_stream();
    let call = Call {
        shard: admitted.shard.clone(),
        arrived: admitted.arrived.clone(),
        facts: Facts::of(&parts, end),
        client: Client::H2(respond),
        _open: Some(open),
    };
    call.run(parts, Source::H2(body), end, None)
}

/// Bytes of a stream's task, without what tokio and `h2` keep of it.
pub fn future_bytes() -> usize {
    fn of<F: Future>(
        _: impl FnOnce(&Admitted, Open, Request<RecvStream>, SendResponse<Bytes>) -> F,
    ) -> usize {
        size_of::<F>()
    }
    of(run)
}
