//! HTTP/1 as it is forwarded: bytes in, judged bytes out. No sockets, no tasks, no clock.
//!
//! A head is read once. [`scan::HeadReader`] finds its end, then [`request::forward`] or
//! [`response::forward`] parses it with `httparse`, lets `l7` judge it, and writes what the next hop
//! gets; nothing of a head is passed on as it came. [`body::Body`] then says how many of the following
//! bytes belong to the message. They are passed on as they are, framing included, since only one reading
//! of them is accepted; what is not whole yet (a chunk's line, the trailer section) is held back.
//!
//! What two parsers could read in two ways is refused, never repaired.

pub mod body;
pub mod chunked;
pub mod request;
pub mod response;
pub mod scan;

pub(crate) mod field;

pub use field::Lines;

use underpass_l7::limit::Limits;

/// Header fields of one head, whatever [`Limits`] say.
pub const FIELDS_MAX: usize = 128;
/// Options of all Connection fields of one head.
pub const OPTIONS_MAX: usize = 32;
/// Bytes of a chunk's first line, its CRLF included.
pub const CHUNK_LINE_BYTES: usize = 512;
/// Bytes by which chunk lines and extensions may exceed 16 for each chunk and twice the data.
pub const CHUNK_EXCESS_BYTES: u64 = 16 << 10;
/// Bytes of a trailer section, its last CRLF included.
pub const TRAILER_BYTES: usize = 8 << 10;
/// Fields of a trailer section.
pub const TRAILER_FIELDS: usize = 32;

/// Bytes that a head may have on the wire, more than `limits` let through in any case: white space
/// around values counts here and not there.
pub const fn head_bytes_max(limits: &Limits) -> usize {
    first_line_max(limits) + limits.header_bytes
}

/// Of the request line, its version and CRLF included.
const fn first_line_max(limits: &Limits) -> usize {
    limits.method_bytes + limits.target_bytes + 16
}
