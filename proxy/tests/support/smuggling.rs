//! Payloads that have fooled pairs of servers.

use underpass_l7::Refusal;

/// A request that two parsers could read in two ways, and why it goes no further. Each is followed by
/// what an attacker would have the next parser take for a request.
pub const SMUGGLING: &[(&str, Refusal)] = &[
    // CL.TE and TE.CL
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
        Refusal::LengthAndCoding,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\n",
        Refusal::LengthAndCoding,
    ),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n",
        Refusal::LengthAndCoding,
    ),
    // TE.TE
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        Refusal::ChunkedNotLast,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n",
        Refusal::ChunkedNotLast,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        Refusal::ChunkedNotLast,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        Refusal::ChunkedNotLast,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
        Refusal::TransferCoding,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: , chunked\r\n\r\n0\r\n\r\n",
        Refusal::ChunkedNotLast,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
        Refusal::ChunkedNotLast,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
        Refusal::ChunkedNotLast,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n0\r\n\r\n",
        Refusal::ChunkedNotLast,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        Refusal::HeaderValue,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\x00\r\n\r\n0\r\n\r\n",
        Refusal::HeaderValue,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer_Encoding: chunked\r\n\r\n0\r\n\r\n",
        Refusal::HeaderLookalike,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        Refusal::HeaderName,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        Refusal::HeaderName,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        Refusal::HeaderName,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nX: y\r\n\tTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        Refusal::HeaderName,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nX: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        Refusal::BadLine,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nX: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        Refusal::HeaderValue,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\n\x00Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        Refusal::HeaderName,
    ),
    (
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        Refusal::CodingBefore11,
    ),
    // Content-Length
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        Refusal::LengthTwice,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        Refusal::LengthTwice,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello",
        Refusal::LengthTwice,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello",
        Refusal::BadLength,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\nhello",
        Refusal::BadLength,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\nhello",
        Refusal::BadLength,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5 5\r\n\r\nhello",
        Refusal::BadLength,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\nhello",
        Refusal::BadLength,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\nhello",
        Refusal::BadLength,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent_Length: 5\r\n\r\nhello",
        Refusal::HeaderLookalike,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\nhello",
        Refusal::HeaderName,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nConnection: Content-Length\r\n\r\nhello",
        Refusal::ConnectionOption,
    ),
    // Chunks
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\n",
        Refusal::BadChunk,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n 5\r\nhello\r\n0\r\n\r\n",
        Refusal::BadChunk,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
        Refusal::BadChunk,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n",
        Refusal::BadChunk,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
        Refusal::BadChunk,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\n0\r\n\r\n",
        Refusal::BadChunk,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\rX0\r\n\r\n",
        Refusal::BadChunk,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX\r\n0\r\n\r\n",
        Refusal::BadChunk,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000005\r\nhello\r\n0\r\n\r\n",
        Refusal::BadChunk,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        Refusal::BadChunk,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n8000000000000000\r\nhello\r\n0\r\n\r\n",
        Refusal::BadChunk,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;\r\nhello\r\n0\r\n\r\n",
        Refusal::BadChunk,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a\nb\r\nhello\r\n0\r\n\r\n",
        Refusal::BadChunk,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a\rb\r\nhello\r\n0\r\n\r\n",
        Refusal::BadChunk,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a=\"\0\"\r\nhello\r\n0\r\n\r\n",
        Refusal::BadChunk,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n;\r\nhello\r\n0\r\n\r\n",
        Refusal::BadChunk,
    ),
    // Trailers
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 9\r\n\r\n",
        Refusal::Trailers,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nTransfer_Encoding: x\r\n\r\n",
        Refusal::Trailers,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nHost: b\r\n\r\n",
        Refusal::Trailers,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\n\r\n",
        Refusal::Trailers,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n X: y\r\n\r\n",
        Refusal::Trailers,
    ),
    // The request line
    ("GET /\tHTTP/1.1\r\nHost: a\r\n\r\n", Refusal::BadLine),
    ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::BadLine),
    ("GET /  HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::BadLine),
    ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", Refusal::BadLine),
    ("GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", Refusal::BadLine),
    ("GET /\r\nHost: a\r\n\r\n", Refusal::BadLine),
    ("GET / a HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::BadLine),
    ("GET / http/1.1\r\nHost: a\r\n\r\n", Refusal::BadLine),
    ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", Refusal::HttpVersion),
    ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", Refusal::HttpVersion),
    ("GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::BadLine),
    (" GET / HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::BadMethod),
    (
        "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        Refusal::BadMethod,
    ),
    // Host
    (
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        Refusal::HostTwice,
    ),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: host\r\n\r\n",
        Refusal::ConnectionOption,
    ),
    (
        "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
        Refusal::HostConflict,
    ),
    ("GET / HTTP/1.1\r\n\r\n", Refusal::HostMissing),
    ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", Refusal::HeaderName),
    ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", Refusal::HeaderName),
    ("GET / HTTP/1.1\r\nHost\r\n: a\r\n\r\n", Refusal::HeaderName),
];
