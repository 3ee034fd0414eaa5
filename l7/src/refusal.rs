//! Why a request goes no further, and what its client is told.

use std::fmt;

use underpass_mesh::reason::{Code, code};

macro_rules! refusals {
    ($($name:ident $status:literal $code:ident,)*) => {
        /// One entry for each code of the registry's chapter on requests; its text says what is meant.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Refusal { $($name,)* }

        impl Refusal {
            pub const ALL: &[Refusal] = &[$(Self::$name,)*];

            /// The status of the answer, if a request is refused. A response that is refused becomes 502.
            pub fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// A number of `abi::reason::code`.
            pub fn code(self) -> u16 {
                match self { $(Self::$name => code::$code,)* }
            }
        }
    };
}

refusals! {
    HttpVersion 505 HTTP_VERSION,
    BadMethod 400 BAD_METHOD,
    MethodLength 501 METHOD_LENGTH,
    TargetLength 414 TARGET_LENGTH,
    BadTarget 400 BAD_TARGET,
    BadLine 400 BAD_LINE,
    PathControl 400 PATH_CONTROL,
    PathNonAscii 400 PATH_NON_ASCII,
    PathFragment 400 PATH_FRAGMENT,
    PathBackslash 400 PATH_BACKSLASH,
    PathEncodedSlash 400 PATH_ENCODED_SLASH,
    PathEscape 400 PATH_ESCAPE,
    PathDoubleEscape 400 PATH_DOUBLE_ESCAPE,
    PathOverlong 400 PATH_OVERLONG,
    PathAboveRoot 400 PATH_ABOVE_ROOT,
    PathDotParameter 400 PATH_DOT_PARAMETER,
    HeaderBytes 431 HEADER_BYTES,
    HeaderCount 431 HEADER_COUNT,
    HeaderName 400 HEADER_NAME,
    HeaderValue 400 HEADER_VALUE,
    HeaderLookalike 400 HEADER_LOOKALIKE,
    HeaderOfConnection 400 HEADER_OF_CONNECTION,
    ConnectionOption 400 CONNECTION_OPTION,
    HostMissing 400 HOST_MISSING,
    HostTwice 400 HOST_TWICE,
    BadHost 400 BAD_HOST,
    HostConflict 400 HOST_CONFLICT,
    BadLength 400 BAD_LENGTH,
    LengthTwice 400 LENGTH_TWICE,
    LengthAndCoding 400 LENGTH_AND_CODING,
    ChunkedNotLast 400 CHUNKED_NOT_LAST,
    TransferCoding 501 TRANSFER_CODING,
    CodingBefore11 400 CODING_BEFORE_1_1,
    BodyLength 413 BODY_LENGTH,
    Expectation 417 EXPECTATION,
    ConnectBody 400 CONNECT_BODY,
    BadChunk 400 BAD_CHUNK,
    ChunkExtensions 400 CHUNK_EXTENSIONS,
    Trailers 400 TRAILERS,
    NoRoute 404 NO_ROUTE,
    NoBackend 500 NO_BACKEND,
    HeadTimeout 408 HEAD_TIMEOUT,
    BodyTimeout 408 BODY_TIMEOUT,
    RequestTimeout 504 REQUEST_TIMEOUT,
    NoConnection 503 NO_CONNECTION,
    EndpointClosed 502 ENDPOINT_CLOSED,
    BadStatusLine 502 BAD_STATUS_LINE,
    InterimCount 502 INTERIM_COUNT,
    UnaskedUpgrade 502 UNASKED_UPGRADE,
    BadResponse 502 BAD_RESPONSE,
    NotHttp2 502 NOT_HTTP2,
    NoSnapshot 503 NO_SNAPSHOT,
    UnknownDestination 503 UNKNOWN_DESTINATION,
    NoSocket 503 NO_WORKER_SOCKET,
    RateLimited 429 RATE_LIMITED,
    NotAllowed 403 NOT_ALLOWED,
    PeerUnknown 403 PEER_UNKNOWN,
    NotHttp 400 NOT_HTTP,
    NoEndpoints 503 NO_ENDPOINTS,
    Http2 501 NOT_IMPLEMENTED,
}

impl Refusal {
    /// The status that a caller of gRPC is told (gRPC's `http-grpc-status-mapping.md`, but that a timeout
    /// is DEADLINE_EXCEEDED and what is too large RESOURCE_EXHAUSTED).
    pub fn grpc_status(self) -> u16 {
        match self.status() {
            400 | 417 => 13,
            403 => 7,
            404 | 501 => 12,
            408 | 504 => 4,
            413 | 414 | 431 => 8,
            429 | 502 | 503 => 14,
            _ => 2,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Code {
            number, name, text, ..
        }) = Code::find(self.code())
        else {
            return write!(f, "{self:?}");
        };
        write!(f, "UP{number:04} {name}: {text}")
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_of_requests_is_used_and_tells_its_status() {
        for refusal in Refusal::ALL {
            let found = Code::find(refusal.code()).expect("registered");
            if found.number / 100 == 6 {
                let status = format!("{}: ", refusal.status());
                assert!(found.text.starts_with(&status), "{refusal}");
            }
        }
        let of_requests = |n: u16| n / 100 == 6;
        let registered = underpass_mesh::reason::CODES.iter();
        for code in registered.filter(|c| of_requests(c.number)) {
            assert!(
                Refusal::ALL.iter().any(|r| r.code() == code.number),
                "nothing is refused with {}",
                code.name
            );
        }
    }
}
