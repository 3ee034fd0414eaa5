//! What we say ourselves: why a request went no further.

use underpass_l7::{Refusal, inbound::Denied};

/// HTTP/2's SETTINGS, empty, and GOAWAY before any stream with HTTP_1_1_REQUIRED (RFC 9113, 7).
const GOAWAY: [u8; 26] = [
    0, 0, 0, 4, 0, 0, 0, 0, 0, // SETTINGS
    0, 0, 8, 7, 0, 0, 0, 0, 0, // GOAWAY; its length is set below
    0, 0, 0, 0, 0, 0, 0, 0x0d,
];

/// Appends the answer: the status, and the code with its text as a body.
pub(crate) fn write(out: &mut Vec<u8>, status: u16, denied: Denied, close: bool, is_head: bool) {
    let why = denied.why;
    let text = format!("{why}\n");
    let retry = denied.retry_after;
    let retry = retry.map_or(String::new(), |s| format!("Retry-After: {s}\r\n"));
    if why == Refusal::Http2 {
        let start = out.len();
        out.extend_from_slice(&GOAWAY);
        out[start + 9..start + 12].copy_from_slice(&(8 + text.len() as u32).to_be_bytes()[1..]);
        out.extend_from_slice(text.as_bytes());
        return;
    }
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
    use super::*;

    #[test]
    fn every_status_has_its_phrase() {
        for why in Refusal::ALL {
            assert_ne!(reason(why.status()), "", "{why}");
        }
    }

    #[test]
    fn http2_is_told_in_its_own_words() {
        let mut out = Vec::new();
        write(&mut out, 501, Refusal::Http2.into(), true, false);
        let text = format!("{}\n", Refusal::Http2);
        assert!(text.contains("NOT_IMPLEMENTED"), "{text}");
        let length = usize::from(out[10]) << 8 | usize::from(out[11]);
        assert_eq!(length, out.len() - 18);
        assert_eq!(out[25], 0x0d);
        assert!(out.ends_with(text.as_bytes()));
    }
}
