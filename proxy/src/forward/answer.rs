//! What we say ourselves: why a request went no further.

use underpass_l7::inbound::Denied;

/// Appends the answer: the status, and the code with its text as a body.
pub(crate) fn write(out: &mut Vec<u8>, status: u16, denied: Denied, close: bool, is_head: bool) {
    let why = denied.why;
    let text = format!("{why}\n");
    let retry = denied.retry_after;
    let retry = retry.map_or(String::new(), |s| format!("Retry-After: {s}\r\n"));
    let head = format!(
        "HTTP/1.1 {status} {}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n{retry}{}\r\n",
        reason(status),
        text.len(),
        if close { "Connection: close\r\n" } else { "" },
    );
    out.extend_from_slice(head.as_bytes());
    if !is_head {
        out.extend_from_slice(text.as_bytes());
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use underpass_l7::Refusal;

    use super::*;

    #[test]
    fn every_status_has_its_phrase() {
        for why in Refusal::ALL {
            assert_ne!(reason(why.status()), "", "{why}");
        }
    }
}
