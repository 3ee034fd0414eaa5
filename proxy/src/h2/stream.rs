//! One stream of a client of HTTP/2: a task until the response is over.

use std::rc::Rc;

use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::Request;

use super::{body::Source, call::Call, ends::Client, head::Facts};
use crate::shard::Admitted;

/// Serves one request.
pub(super) fn run(
    admitted: Rc<Admitted>,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
) -> impl Future<Output = ()> {
    let (parts, body) = request.into_parts();
    let end = body.is_end_stream();
    let call = Call {
        shard: admitted.shard.clone(),
        arrived: admitted.arrived.clone(),
        facts: Facts::of(&parts, end),
        client: Client::H2(respond),
    };
    let run = call.run(parts, Source::H2(body), end, None);
    async move {
        run.await;
        // As long as this runs the connection counts as open.
        drop(admitted);
    }
}

/// Bytes of a stream's task, without what tokio and `h2` keep of it.
pub fn future_bytes() -> usize {
    fn of<F: Future>(
        _: impl FnOnce(Rc<Admitted>, Request<RecvStream>, SendResponse<Bytes>) -> F,
    ) -> usize {
        size_of::<F>()
    }
    of(run)
}
