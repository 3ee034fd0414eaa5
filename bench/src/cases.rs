//! The cases: what is asked, how many at once, and in how large a mesh.

use serde::Serialize;

use crate::{generator::Kind, manifests::Size};

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Case {
    pub name: &'static str,
    pub kind: Kind,
    pub concurrency: u32,
    pub size: Size,
}

const fn case(
    name: &'static str,
    kind: Kind,
    concurrency: u32,
    services: u32,
    endpoints: u32,
) -> Case {
    Case {
        name,
        kind,
        concurrency,
        size: Size {
            services,
            endpoints,
        },
    }
}

/// Cases of one size stand together: they share a running mesh.
pub const CASES: &[Case] = &[
    case("connect-10-c1", Kind::Connect, 1, 1, 10),
    case("connect-10-c16", Kind::Connect, 16, 1, 10),
    case("request-10-c1", Kind::Request, 1, 1, 10),
    case("request-10-c16", Kind::Request, 16, 1, 10),
    case("connect-1000-c1", Kind::Connect, 1, 1, 1_000),
    case("connect-10000-c1", Kind::Connect, 1, 1, 10_000),
    case("connect-1000x10-c1", Kind::Connect, 1, 1_000, 10),
];

/// What `--quick` runs: each kind once.
pub const QUICK: &[&str] = &["connect-10-c1", "request-10-c16"];

impl Case {
    pub fn find(name: &str) -> Option<Self> {
        CASES.iter().copied().find(|c| c.name == name)
    }

    pub fn describe(&self) -> String {
        let what = match self.kind {
            Kind::Connect => "connect, 1 KiB request and response, close",
            Kind::Request => "1 KiB request and response on kept connections",
        };
        let Size {
            services,
            endpoints,
        } = self.size;
        format!(
            "{what}; {} at once; services {services}, endpoints {endpoints} each",
            self.concurrency
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_say_what_the_case_is() {
        for (i, case) in CASES.iter().enumerate() {
            assert!(CASES[..i].iter().all(|other| other.name != case.name));
            assert!(case.name.ends_with(&format!("-c{}", case.concurrency)));
        }
        assert!(QUICK.iter().all(|name| Case::find(name).is_some()));
    }
}
