//! HAProxy as a hop: one thread, connections to the server kept and reused, nothing logged.

use super::{cases::Family, proxy::Leg};

pub const FLAGS: &[&str] = &["-db", "-f"];

pub fn config(leg: &Leg) -> String {
    let (mode, proto, reuse) = match leg.family {
        Family::Http1 => ("http", "", "  http-reuse always\n"),
        Family::Http2 | Family::Grpc => ("http", " proto h2", "  http-reuse always\n"),
        Family::Tcp => ("tcp", "", ""),
    };
    let (at, to) = (leg.at, leg.to);
    format!(
        "global\n  nbthread 1\n  maxconn 8000\n  tune.h2.initial-window-size 1048576\n\
         defaults\n  mode {mode}\n{reuse}  timeout connect 5s\n  timeout client 1h\n  \
         timeout server 1h\n\
         listen hop\n  bind {at}{proto}\n  server next {to}{proto}\n"
    )
}
