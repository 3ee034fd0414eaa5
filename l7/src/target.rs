//! What a request asks for: the four forms of a request target (RFC 9112, 3.2), and HTTP/2's
//! pseudo-header fields (RFC 9113, 8.3.1).

use std::borrow::Cow;

use crate::{
    Refusal,
    head::{Request, Version},
    host::Host,
    path,
};

/// A checked target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    Path {
        /// In its normal form; what is forwarded.
        path: Cow<'a, str>,
        /// As it was sent, without its `?`; `None` without one.
        query: Option<&'a str>,
    },
    /// `OPTIONS *`: the server itself.
    Asterisk,
    /// CONNECT: the tunnel's other end, always with a port.
    Authority(Host<'a>),
}

impl Target<'_> {
    /// As it is forwarded, in HTTP/1's request line and as `:path` (or, of a tunnel, `:authority`).
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut push = |text: &str| out.extend_from_slice(text.as_bytes());
        match self {
            Self::Path { path, query } => {
                push(path);
                if let Some(query) = query {
                    push("?");
                    push(query);
                }
            }
            Self::Asterisk => push("*"),
            Self::Authority(host) => {
                push(host.name);
                if let Some(port) = host.port {
                    push(&format!(":{port}"));
                }
            }
        }
    }
}

/// The target, and the host if the target names one.
pub(crate) fn parse<'a, F: ?Sized>(
    head: &Request<'a, F>,
) -> Result<(Target<'a>, Option<Host<'a>>), Refusal> {
    let authority = head.authority.map(Host::parse).transpose()?;
    if head.is_connect() {
        let end = match head.version {
            Version::Http2 if !head.target.is_empty() || head.scheme.is_some() => None,
            Version::Http2 => authority,
            _ => Some(Host::parse(head.target).map_err(|_| Refusal::BadTarget)?),
        };
        let end = end
            .filter(|host| host.port.is_some())
            .ok_or(Refusal::BadTarget)?;
        return Ok((Target::Authority(end), Some(end)));
    }
    if head.version == Version::Http2 {
        let known = matches!(head.scheme, Some(b"http" | b"https"));
        if !known {
            return Err(Refusal::BadTarget);
        }
    }
    if head.target == b"*" {
        if head.method != b"OPTIONS" {
            return Err(Refusal::BadTarget);
        }
        return Ok((Target::Asterisk, authority));
    }
    if head.target.first() == Some(&b'/') {
        return Ok((path_and_query(head.target)?, authority));
    }
    if head.version == Version::Http2 {
        return Err(Refusal::BadTarget);
    }
    absolute(head)
}

/// `http://host/path`, which a client sends to a proxy, and every server must read.
fn absolute<'a, F: ?Sized>(
    head: &Request<'a, F>,
) -> Result<(Target<'a>, Option<Host<'a>>), Refusal> {
    let rest = [&b"http://"[..], b"https://"].iter().find_map(|scheme| {
        let (start, rest) = head.target.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(rest)
    });
    let rest = rest.ok_or(Refusal::BadTarget)?;
    let end = rest.iter().position(|b| b"/?#\\".contains(b));
    let (host, rest) = rest.split_at(end.unwrap_or(rest.len()));
    let host = Host::parse(host)?;
    let target = match rest.first() {
        None if head.method == b"OPTIONS" => Target::Asterisk,
        None => Target::Path {
            path: Cow::Borrowed("/"),
            query: None,
        },
        Some(b'?') => Target::Path {
            path: Cow::Borrowed("/"),
            query: Some(query(&rest[1..])?),
        },
        Some(_) => path_and_query(rest)?,
    };
    Ok((target, Some(host)))
}

fn path_and_query(text: &[u8]) -> Result<Target<'_>, Refusal> {
    let at = text.iter().position(|b| *b == b'?');
    let path = path::normalize(&text[..at.unwrap_or(text.len())])?;
    let query = at.map(|at| query(&text[at + 1..])).transpose()?;
    Ok(Target::Path { path, query })
}

fn query(text: &[u8]) -> Result<&str, Refusal> {
    path::check_query(text)?;
    str::from_utf8(text).map_err(|_| Refusal::PathNonAscii)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NONE: &[(&str, &str)] = &[];

    type Parsed<'a> = Result<(Target<'a>, Option<Host<'a>>), Refusal>;

    fn http1<'a>(method: &'a str, target: &'a str) -> Parsed<'a> {
        parse(&Request::http1(
            Version::Http11,
            method.as_bytes(),
            target.as_bytes(),
            NONE,
        ))
    }

    fn path<'a>(path: &'a str, query: Option<&'a str>) -> Target<'a> {
        Target::Path {
            path: path.into(),
            query,
        }
    }

    #[test]
    fn each_form_has_its_methods() {
        let host = Host {
            name: "a",
            port: Some(80),
        };
        for (method, target, expected) in [
            (
                "GET",
                "/x/../y?q=%2F",
                Ok((path("/y", Some("q=%2F")), None)),
            ),
            ("GET", "/?", Ok((path("/", Some("")), None))),
            ("GET", "/a?b?c", Ok((path("/a", Some("b?c")), None))),
            ("GET", "HTTP://A:80/x", Ok((path("/x", None), Some(host)))),
            ("GET", "https://a:80", Ok((path("/", None), Some(host)))),
            (
                "GET",
                "http://a:80?q",
                Ok((path("/", Some("q")), Some(host))),
            ),
            ("OPTIONS", "*", Ok((Target::Asterisk, None))),
            ("OPTIONS", "http://a:80", Ok((Target::Asterisk, Some(host)))),
            ("OPTIONS", "/x", Ok((path("/x", None), None))),
            ("CONNECT", "a:80", Ok((Target::Authority(host), Some(host)))),
            ("GET", "*", Err(Refusal::BadTarget)),
            ("GET", "", Err(Refusal::BadTarget)),
            ("GET", "x", Err(Refusal::BadTarget)),
            ("GET", "a:80", Err(Refusal::BadTarget)),
            ("GET", "ftp://a/x", Err(Refusal::BadTarget)),
            ("GET", "http:/a/x", Err(Refusal::BadTarget)),
            ("GET", "http:///x", Err(Refusal::BadHost)),
            ("GET", "http://u@a/x", Err(Refusal::BadHost)),
            ("GET", "http://a\\b/x", Err(Refusal::BadTarget)),
            ("GET", "http://a#/x", Err(Refusal::BadTarget)),
            ("GET", "/x?a b", Err(Refusal::PathControl)),
            ("GET", "/x#y", Err(Refusal::PathFragment)),
            ("CONNECT", "a", Err(Refusal::BadTarget)),
            ("CONNECT", "/x", Err(Refusal::BadTarget)),
            ("CONNECT", "http://a:80/", Err(Refusal::BadTarget)),
        ] {
            assert_eq!(http1(method, target), expected, "{method} {target}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

        /// The next parser reads what routing saw.
        #[test]
        fn what_is_forwarded_is_read_the_same(
            method in prop::sample::select(&["GET", "OPTIONS", "CONNECT"][..]),
            target in prop_oneof![
                "(http://)?[a-c.]{0,3}(:[0-9]{0,3})?(/[a./%2eE]{0,8}){0,3}(\\?[a-c=?/%]{0,4})?",
                prop::sample::select(&["*", "/", "http://a", "https://a?b"][..]).prop_map(str::to_owned),
            ],
        ) {
            let read = |target: &str| {
                let head = Request::http1(Version::Http11, method.as_bytes(), target.as_bytes(), NONE);
                let mut out = Vec::new();
                parse(&head).map(|(target, _)| target.write(&mut out)).ok()?;
                Some(String::from_utf8(out).unwrap())
            };
            if let Some(first) = read(&target) {
                prop_assert_eq!(read(&first), Some(first.clone()), "{}", target);
                let has_path = first.starts_with('/');
                prop_assert!(has_path || first == "*" || method == "CONNECT", "{}", first);
            }
        }
    }

    #[test]
    fn http2_has_pseudo_fields() {
        let get = Request {
            version: Version::Http2,
            method: b"GET",
            target: b"/x",
            scheme: Some(b"http"),
            authority: Some(b"a:80"),
            protocol: None,
            fields: NONE,
        };
        let host = Host {
            name: "a",
            port: Some(80),
        };
        assert_eq!(parse(&get), Ok((path("/x", None), Some(host))));
        let connect = Request {
            method: b"CONNECT",
            target: b"",
            scheme: None,
            ..get
        };
        assert_eq!(parse(&connect), Ok((Target::Authority(host), Some(host))));
        let websocket = Request {
            method: b"CONNECT",
            protocol: Some(b"websocket"),
            ..get
        };
        assert_eq!(parse(&websocket), Ok((path("/x", None), Some(host))));
        for bad in [
            Request {
                scheme: None,
                ..get
            },
            Request {
                scheme: Some(b"ftp"),
                ..get
            },
            Request { target: b"", ..get },
            Request {
                target: b"http://a:80/x",
                ..get
            },
            Request {
                target: b"/x",
                ..connect
            },
            Request {
                scheme: Some(b"http"),
                ..connect
            },
            Request {
                authority: Some(b"a"),
                ..connect
            },
            Request {
                authority: None,
                ..connect
            },
        ] {
            assert_eq!(parse(&bad), Err(Refusal::BadTarget), "{bad:?}");
        }
    }
}
