//! A message's head as a codec holds it, borrowed. Nothing here has been checked: names and values are
//! the bytes that were received ([`crate::limit::check`] judges them).

/// What the codec read; HTTP/3 and others are [`Version::Other`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Http10,
    Http11,
    Http2,
    Other,
}

/// The header fields, in the order of the wire, repeated ones apart.
///
/// A trait, so that HTTP/1 can give its parsed lines and HTTP/2 its map without copying either.
pub trait Fields {
    /// Names and values without the white space around the value.
    fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])>;

    /// The values of one field; `name` in lower case.
    fn get(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        let fields = self.iter();
        fields
            .filter(move |(n, _)| n.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value)
    }
}

impl<N: AsRef<[u8]>, V: AsRef<[u8]>> Fields for [(N, V)] {
    fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.as_ref()
            .iter()
            .map(|(name, value)| (name.as_ref(), value.as_ref()))
    }
}

impl Fields for http::HeaderMap {
    fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        http::HeaderMap::iter(self)
            .map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()))
    }

    fn get(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.get_all(name).into_iter().map(|v| v.as_bytes())
    }
}

/// Of a request.
#[derive(Debug)]
pub struct Request<'a, F: ?Sized> {
    pub version: Version,
    pub method: &'a [u8],
    /// HTTP/1: as it stands in the request line, of any form. HTTP/2: `:path`, empty if there is none.
    pub target: &'a [u8],
    /// HTTP/2: `:scheme`.
    pub scheme: Option<&'a [u8]>,
    /// HTTP/2: `:authority`.
    pub authority: Option<&'a [u8]>,
    /// HTTP/2: `:protocol` of an extended CONNECT (RFC 8441).
    pub protocol: Option<&'a [u8]>,
    pub fields: &'a F,
}

// Derived, they would ask the same of `F`.
impl<F: ?Sized> Clone for Request<'_, F> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<F: ?Sized> Copy for Request<'_, F> {}

impl<'a, F: ?Sized> Request<'a, F> {
    /// A head of HTTP/1.
    pub fn http1(version: Version, method: &'a [u8], target: &'a [u8], fields: &'a F) -> Self {
        Self {
            version,
            method,
            target,
            scheme: None,
            authority: None,
            protocol: None,
            fields,
        }
    }

    /// Asks for a tunnel, and not for a WebSocket as RFC 8441 does.
    pub fn is_connect(&self) -> bool {
        self.method == b"CONNECT" && self.protocol.is_none()
    }
}

/// Of a response.
#[derive(Debug)]
pub struct Response<'a, F: ?Sized> {
    pub version: Version,
    /// 100 to 999.
    pub status: u16,
    pub fields: &'a F,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(fields: &(impl Fields + ?Sized), name: &str) -> Vec<String> {
        let text = |v: &[u8]| String::from_utf8_lossy(v).into_owned();
        fields.get(name).map(text).collect()
    }

    #[test]
    fn both_codecs_fields_read_the_same() {
        let lines = [("Accept", "a"), ("X-Id", "7"), ("aCCEPT", "b")];
        let mut map = http::HeaderMap::new();
        for (name, value) in lines {
            let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
            map.append(name, value.parse().unwrap());
        }
        assert_eq!(values(&lines[..], "accept"), ["a", "b"]);
        assert_eq!(values(&map, "accept"), ["a", "b"]);
        assert_eq!(Fields::iter(&lines[..]).count(), 3);
        assert_eq!(Fields::iter(&map).count(), 3);
        assert!(values(&map, "x-no").is_empty());
    }
}
