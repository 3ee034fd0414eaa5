//! Whether one match's conditions on method, header fields and query hold; the path is found by index
//! (`route.rs`). Gateway API v1, HTTPRouteMatch.

use std::cmp::Reverse;

use underpass_mesh::{Str, k8s::route::Match};

use crate::{
    framing::trim,
    head::{Fields, Request},
    path::escape,
};

/// What is asked of a request besides host and path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Conditions {
    method: Option<Str>,
    /// Names in lower case.
    headers: Box<[(Str, Str)]>,
    query: Box<[(Str, Str)]>,
}

/// Where a match stands among those of the same path: method first, then more fields, then more of the
/// query. Smaller goes first.
pub(crate) type Rank = (bool, Reverse<usize>, Reverse<usize>);

impl Conditions {
    pub fn of(m: &Match) -> Self {
        Self {
            method: m.method.clone(),
            headers: m.headers.clone().into(),
            query: m.query.clone().into(),
        }
    }

    pub fn rank(&self) -> Rank {
        (
            self.method.is_none(),
            Reverse(self.headers.len()),
            Reverse(self.query.len()),
        )
    }

    /// `query` is the target's, without its `?`.
    pub fn hold<F: Fields + ?Sized>(&self, head: &Request<'_, F>, query: Option<&str>) -> bool {
        let method = self.method.as_deref();
        method.is_none_or(|m| m.as_bytes() == head.method)
            && self.headers.iter().all(|(n, v)| header(head, n, v))
            && (self.query.iter()).all(|(n, v)| param(query.unwrap_or_default(), n, v))
    }
}

fn header<F: Fields + ?Sized>(head: &Request<'_, F>, name: &str, wanted: &str) -> bool {
    if name == "host" {
        // Hosts have no case; HTTP/2 has another name for it.
        let host = head.fields.get(name).next().or(head.authority);
        return host.is_some_and(|host| trim(host).eq_ignore_ascii_case(wanted.as_bytes()));
    }
    // RFC 9113, 8.2.3: a cookie may come in pieces.
    let separator = if name == "cookie" { b';' } else { b',' };
    joined(head.fields.get(name), wanted.as_bytes(), separator)
}

/// Whether the values, joined with the separator and any spaces after it (RFC 9110, 5.3), are `wanted`.
fn joined<'a>(values: impl Iterator<Item = &'a [u8]>, wanted: &[u8], separator: u8) -> bool {
    let mut rest: Option<&[u8]> = None;
    for value in values {
        let after = match rest {
            None => Some(wanted),
            Some([first, more @ ..]) if *first == separator => {
                let spaces = more.iter().take_while(|b| **b == b' ').count();
                Some(&more[spaces..])
            }
            Some(_) => None,
        };
        rest = after.and_then(|after| after.strip_prefix(trim(value)));
        if rest.is_none() {
            return false;
        }
    }
    // No field at all is not the same as an empty one.
    rest.is_some_and(<[u8]>::is_empty)
}

/// Whether the first parameter of that name has that value. Names and values are compared decoded; `+`
/// is no space, which it is only in forms.
fn param(query: &str, name: &str, wanted: &str) -> bool {
    for pair in query.split('&') {
        let (found, value) = pair.split_once('=').unwrap_or((pair, ""));
        if decodes_to(found, name) {
            return decodes_to(value, wanted);
        }
    }
    false
}

/// A percent sign that is no escape stands for itself.
fn decodes_to(text: &str, wanted: &str) -> bool {
    let mut wanted = wanted.bytes();
    let mut text = text.as_bytes();
    while let [first, rest @ ..] = text {
        let decoded = escape(text);
        if wanted.next() != Some(decoded.unwrap_or(*first)) {
            return false;
        }
        text = if decoded.is_some() { &rest[2..] } else { rest };
    }
    wanted.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_fields_are_one_list() {
        let holds = |values: &[&str], wanted: &str| {
            joined(values.iter().map(|v| v.as_bytes()), wanted.as_bytes(), b',')
        };
        for (values, wanted) in [
            (&["a"][..], "a"),
            (&[" a\t"], "a"),
            (&[""], ""),
            (&["a", "b"], "a,b"),
            (&["a", "b"], "a,  b"),
            (&["a, b", "c"], "a, b,c"),
            (&["", "a"], ",a"),
        ] {
            assert!(holds(values, wanted), "{values:?} {wanted}");
        }
        for (values, wanted) in [
            (&[][..], ""),
            (&["a"], "A"),
            (&["a"], "ab"),
            (&["ab"], "a"),
            (&["a", "b"], "a"),
            (&["a", "b"], "b"),
            (&["a", "b"], "ab"),
            (&["a", "b"], "b,a"),
            (&["a", "a"], "a"),
            (&["a, b"], "a,b"),
        ] {
            assert!(!holds(values, wanted), "{values:?} {wanted}");
        }
    }

    #[test]
    fn the_first_parameter_counts_decoded() {
        for (query, name, value) in [
            ("a=1", "a", "1"),
            ("b=2&a=1", "a", "1"),
            ("a=1&a=2", "a", "1"),
            ("a", "a", ""),
            ("a=", "a", ""),
            ("a=b=c", "a", "b=c"),
            ("%61=%31%20%26", "a", "1 &"),
            ("a=%C3%A9", "a", "\u{e9}"),
            ("a=100%", "a", "100%"),
            ("a=%zz", "a", "%zz"),
            ("a=b+c", "a", "b+c"),
        ] {
            assert!(param(query, name, value), "{query}");
        }
        for (query, name, value) in [
            ("", "a", ""),
            ("a=1", "A", "1"),
            ("a=2&a=1", "a", "1"),
            ("a=11", "a", "1"),
            ("a=1", "a", "11"),
            ("aa=1", "a", "1"),
            ("a=b+c", "a", "b c"),
            ("a=%4", "a", "\u{4}"),
        ] {
            assert!(!param(query, name, value), "{query}");
        }
    }

    #[test]
    fn a_host_is_compared_without_case_whatever_its_name() {
        let conditions = Conditions {
            method: None,
            headers: [("host".into(), "Ledger.shop".into())].into(),
            query: Box::default(),
        };
        let none: &[(&str, &str)] = &[];
        let lines = [("Host", "LEDGER.shop")];
        let http1 = Request::http1(crate::head::Version::Http11, b"GET", b"/", &lines[..]);
        let http2 = Request {
            authority: Some(b"ledger.SHOP"),
            ..Request::http1(crate::head::Version::Http2, b"GET", b"/", none)
        };
        assert!(conditions.hold(&http1, None) && conditions.hold(&http2, None));
        let other = Request {
            authority: Some(b"ledger"),
            ..http2
        };
        assert!(!conditions.hold(&other, None));
    }

    #[test]
    fn pieces_of_a_cookie_are_one() {
        let conditions = Conditions {
            method: Some("GET".into()),
            headers: [("cookie".into(), "a=1; b=2".into())].into(),
            query: Box::default(),
        };
        let whole = [("cookie", "a=1; b=2")];
        let pieces = [("cookie", "a=1"), ("cookie", "b=2")];
        for lines in [&whole[..], &pieces] {
            let head = Request::http1(crate::head::Version::Http2, b"GET", b"/", lines);
            assert!(conditions.hold(&head, None));
            assert!(!conditions.hold(
                &Request {
                    method: b"POST",
                    ..head
                },
                None
            ));
        }
    }
}
