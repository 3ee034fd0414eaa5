//! A request of a client of HTTP/1 to an endpoint that speaks HTTP/2.

use std::rc::Rc;

use tokio::net::TcpStream;
use underpass_l7::framing::Framing;

use super::{
    body::{H1Source, Sink, Source},
    call::Call,
    ends::{Client, H1Client},
    exchange::Outcome,
    head::Facts,
    translate,
};
use crate::{
    forward::{Active, Half},
    h1::{body::Body, request::RequestFacts},
    plan::Picked,
    shard::Admitted,
};

/// A judged request whose endpoint speaks another version than its client.
#[derive(Debug)]
pub(crate) struct Translated {
    pub request: RequestFacts,
    pub picked: Picked,
}

/// Serves one request, of which `active` holds the head as it would be forwarded, and what has come of the
/// body. Gives the connection back if `active` is to go on with it.
pub(super) async fn serve(
    admitted: &Admitted,
    client: TcpStream,
    active: &mut Active,
) -> Option<TcpStream> {
    let Translated { request, picked } = active.translated()?;
    let mut half = std::mem::take(active.down());
    let judged = translate::request_of(active.up_out().bytes());
    let parts = match judged {
        Ok(parts) => parts,
        Err(why) => {
            active.refuse_translated(&admitted.shard, why);
            return Some(client);
        }
    };
    let tunnel = request.framing == Framing::Tunnel;
    if tunnel {
        // It is not read before the endpoint has agreed.
        half.body = Body::UntilClose;
    }
    let end = request.framing == Framing::Empty;
    let client = Rc::new(client);
    let source = Source::H1(H1Source {
        stream: client.clone(),
        half,
        trailers: Vec::new(),
    });
    let call = Call {
        shard: admitted.shard.clone(),
        arrived: admitted.arrived.clone(),
        facts: Facts::of(&parts, end),
        client: Client::H1(H1Client {
            stream: client.clone(),
            out: std::mem::take(active.down_out()),
            request,
            keep: true,
        }),
        _open: None,
    };
    let ended = call.run(parts, source, end, Some(picked)).await;
    let Client::H1(mut asker) = ended.client else {
        return None;
    };
    drop(asker.stream);
    let mut half = Half::default();
    if let Some(Source::H1(source)) = ended.from {
        half = source.half;
    }
    let whole = match ended.outcome {
        None => false,
        Some(Outcome::Done { sent }) => sent,
        // It has been reset, or is gone.
        Some(_) => return None,
    };
    if let Some(Sink::H1(sink)) = ended.to {
        asker.out = sink.out;
    }
    let client = Rc::into_inner(client)?;
    let keep = whole && asker.keep && !half.eof && !tunnel;
    active.resume(
        &admitted.shard,
        half,
        asker.out,
        ended.outcome.is_none(),
        keep,
    );
    Some(client)
}
