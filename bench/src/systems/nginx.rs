//! nginx as a hop: one worker, connections to the server kept, nothing logged. It has no HTTP/2 to a server
//! but that of gRPC, so plain HTTP/2 goes on as HTTP/1.1.

use std::path::Path;

use super::{cases::Family, proxy::Leg};
use crate::{Result, apps::packaged};

pub const FLAGS: &[&str] = &["-e", "stderr", "-c"];

/// A connection is not closed after so many requests.
const ENDLESS: &str = "keepalive_requests 1000000000; keepalive_timeout 1h;";

/// `dir`: of its own, for what it writes.
pub fn config(leg: &Leg, dir: &Path) -> Result<String> {
    let dir = dir.display();
    // As root its worker would become another user, who cannot enter the lab's directory.
    let main = format!(
        "daemon off; user root; worker_processes 1; pid {dir}/pid; error_log stderr error;\n\
         events {{ worker_connections 8000; }}\n"
    );
    let (at, to) = (leg.at, leg.to);
    let (listen, pass) = match leg.family {
        Family::Tcp => {
            let module = stream_module()?;
            return Ok(format!(
                "load_module {module};\n{main}stream {{\n  server {{\n    listen {at};\n    \
                 proxy_pass {to};\n    proxy_buffer_size 64k;\n    tcp_nodelay on;\n  }}\n}}\n"
            ));
        }
        Family::Grpc => (" http2", "grpc_pass grpc://next; grpc_buffer_size 64k;"),
        Family::Http1 => ("", PASS),
        Family::Http2 => (" http2", PASS),
    };
    Ok(format!(
        "{main}http {{\n  access_log off; {ENDLESS}\n  \
         client_max_body_size 0; client_body_buffer_size 256k; http2_body_preread_size 256k;\n  \
         client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3;\n  \
         uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;\n  \
         upstream next {{ server {to}; keepalive 256; {ENDLESS} }}\n  \
         server {{\n    listen {at}{listen};\n    location / {{ {pass} }}\n  }}\n}}\n"
    ))
}

/// What TCP needs beside nginx itself.
pub fn stream_module() -> Result<String> {
    packaged::find("usr/lib/nginx/modules/ngx_stream_module.so")
}

const PASS: &str = "proxy_pass http://next; proxy_http_version 1.1; \
    proxy_set_header Connection \"\"; proxy_buffer_size 16k; proxy_buffers 8 64k; \
    proxy_busy_buffers_size 128k;";
