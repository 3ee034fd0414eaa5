//! What we say ourselves to a client of HTTP/2: to gRPC a status of its own, to others one of HTTP.

use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use underpass_l7::{Refusal, inbound::Denied};

/// The whole response. That it fails is no news: then there is nobody to tell.
pub(super) fn refuse(
    respond: &mut SendResponse<Bytes>,
    denied: Denied,
    status: u16,
    grpc: bool,
    is_head: bool,
) {
    let why = denied.why;
    if grpc {
        let mut response = Response::new(());
        *response.headers_mut() = trailers(why);
        let grpc = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(header::CONTENT_TYPE, grpc);
        let _ = respond.send_response(response, true);
        return;
    }
    let text = format!("{why}\n");
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(header::CONTENT_LENGTH, text.len().into());
    if let Some(seconds) = denied.retry_after {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    if let Ok(mut body) = respond.send_response(response, is_head)
        && !is_head
    {
        let _ = body.send_data(text.into(), true);
    }
}

/// As they end a response of gRPC that has begun.
pub(super) fn trailers(why: Refusal) -> HeaderMap {
    let mut fields = HeaderMap::with_capacity(4);
    fields.insert("grpc-status", why.grpc_status().into());
    // It holds ASCII only, of which the percent sign alone would need an escape.
    let message = why.to_string().replace('%', "%25");
    if let Ok(message) = HeaderValue::from_str(&message) {
        fields.insert("grpc-message", message);
    }
    fields
}
