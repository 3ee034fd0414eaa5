//! nginx as server and as reverse proxy, and curl as its client.

use std::{fs, net::SocketAddr};

use super::{Scenario, scenario, stage::Stage};
use crate::{
    Failure, Result,
    lab::{Pod, Proc},
};

pub const SCENARIOS: &[Scenario] = &[
    scenario("nginx-server", server),
    scenario("nginx-proxy", proxy),
    scenario("nginx-proxy-deferred", deferred),
    scenario("curl-1gb", gigabyte),
];

pub const FILE: u64 = 5_000_000;
const GIGABYTE: u64 = 1 << 30;

/// Starts an nginx with this `http` section; its directory is named after the pod.
fn start(stage: &Stage, pod: &Pod, name: &str, http: &str) -> Result<Proc> {
    let dir = stage.path(name);
    fs::create_dir_all(format!("{dir}/root")).map_err(Failure::at(&dir))?;
    // As root its workers would become another user, who cannot enter the lab's directory. One
    // process in the foreground, so that the listener is provably its own.
    let conf = format!(
        "daemon off; master_process off; user root; pid {dir}/pid; error_log {dir}/error.log;\n\
         events {{ worker_connections 1000; }}\n\
         http {{ access_log {dir}/access.log; default_type application/octet-stream;\n\
           client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3;\n\
           uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5; client_max_body_size 0;\n\
           keepalive_requests 1000000;\n\
           {http} }}\n"
    );
    let file = stage.write(&format!("{name}/nginx.conf"), &conf)?;
    let early = format!("{dir}/early.log");
    stage.serve(pod, &["nginx", "-c", &file, "-e", &early])
}

/// A server of files, up (PUT) and down; `options` of `listen`.
pub fn files(stage: &Stage, options: &str, size: u64) -> Result<Proc> {
    let (at, lesson) = (stage.server_at(), stage.lesson_to());
    let http = format!(
        "root {0}/root; sendfile on; tcp_nopush on;\n\
         server {{ listen {at} {options}; listen {lesson} {options};\n\
           location /copied/ {{ sendfile off; alias {0}/root/; }}\n\
           location /up/ {{ dav_methods PUT; create_full_put_path on; }} }}",
        stage.path("server")
    );
    let nginx = start(stage, &stage.fixture.server, "server", &http)?;
    let root = stage.path("server/root");
    let from = stage.shared.random(size)?;
    std::os::unix::fs::symlink(from, format!("{root}/file")).map_err(Failure::at(&root))?;
    fs::write(format!("{root}/small"), "hello\n")?;
    Ok(nginx)
}

fn reverse_proxy(stage: &Stage, options: &str) -> Result<Proc> {
    let (at, to) = (stage.proxy_at(), stage.server_at());
    let http = format!(
        "upstream files {{ server {to}; keepalive 4; }}\n\
         server {{ listen {at} {options}; proxy_http_version 1.1; proxy_set_header Connection '';\n\
           location / {{ proxy_pass http://files; }}\n\
           location /direct/ {{ proxy_pass http://files/; proxy_buffering off; \
             proxy_request_buffering off; }} }}"
    );
    start(stage, &stage.fixture.proxy, "proxy", &http)
}

/// 5 MB down and up, many times, over one connection and over new ones; checksums of everything.
pub fn down_and_up(stage: &mut Stage, at: SocketAddr, places: &[&str]) -> Result<()> {
    let file = stage.shared.random(FILE)?;
    let sum = sum_of(stage, &file)?;
    for place in places {
        let script = format!(
            "get='curl -sSf --max-time 30'; url=http://{at}/{place}
             for i in 1 2 3 4 5; do $get ${{url}}file | sha256sum; done
             $get ${{url}}file ${{url}}small ${{url}}file ${{url}}small ${{url}}file | sha256sum
             $get --limit-rate 8M ${{url}}file | sha256sum
             $get --parallel --parallel-max 4 -o \"$0/down#1\" ${{url}}file?[1-8]
             cat \"$0\"/down? | sha256sum; rm \"$0\"/down?
             head -c 100000 <($get ${{url}}file || true) | sha256sum"
        );
        let text = stage.script(stage.client(), &script, &[])?;
        let same = text.lines().filter(|l| *l == sum).count();
        stage.check(same == 6, || {
            format!("/{place}: {same} of 6 are {sum}: {text}")
        })?;
        stage.fact(format!("/{place} down"), text);
    }
    let up = if places.contains(&"direct/") {
        "direct/up"
    } else {
        "up"
    };
    let script = format!(
        "put='curl -sSf --max-time 30'; url=http://{at}
         for i in 1 2 3 4 5; do $put -T $1 $url/{up}/$i; $put -T $1 $url/up/1$i; done
         $put -T \"{{$1,$1,$1}}\" $url/up/many/ -w '%{{http_code}} '
         $put -T - $url/up/chunked < $1",
    );
    let text = stage.script(stage.client(), &script, &[&file])?;
    stage.fact("up, answers", text);
    let script = "cd \"$0/server/root/up\"; find . -type f | sort | xargs sha256sum";
    let text = stage.script(stage.server(), script, &[])?;
    let hash = sum.split(' ').next().unwrap_or_default();
    let same = text.lines().filter(|l| l.starts_with(hash)).count();
    stage.check(same == 12, || {
        format!("up: {same} of 12 are {hash}: {text}")
    })?;
    stage.fact("up", text);
    Ok(())
}

/// As `sha256sum` prints it of its standard input.
fn sum_of(stage: &Stage, file: &str) -> Result<String> {
    stage.script(stage.client(), "sha256sum < $1", &[file])
}

fn server(stage: &mut Stage) -> Result<()> {
    let _nginx = files(stage, "", FILE)?;
    down_and_up(stage, stage.server_at(), &["", "copied/"])
}

fn proxy(stage: &mut Stage) -> Result<()> {
    let _nginx = (files(stage, "", FILE)?, reverse_proxy(stage, "")?);
    down_and_up(stage, stage.proxy_at(), &["", "direct/"])
}

/// The connection reaches the application with its first bytes only.
fn deferred(stage: &mut Stage) -> Result<()> {
    let _nginx = (
        files(stage, "deferred", FILE)?,
        reverse_proxy(stage, "deferred")?,
    );
    down_and_up(stage, stage.proxy_at(), &["", "direct/"])
}

fn gigabyte(stage: &mut Stage) -> Result<()> {
    let _nginx = files(stage, "", GIGABYTE)?;
    let file = stage.shared.random(GIGABYTE)?;
    let at = stage.server_at();
    let script = format!(
        "curl -sSf --max-time 50 -w '%{{stderr}}%{{size_download}}' http://{at}/file | cmp - $1 && echo same down
         curl -sSf --max-time 50 -T $1 http://{at}/up/file -w '%{{http_code}} %{{size_upload}}\\n'
         cmp \"$0/server/root/up/file\" $1 && echo same up; rm \"$0/server/root/up/file\""
    );
    let text = stage.script(stage.client(), &script, &[&file])?;
    let good = text.contains("same down") && text.contains("same up");
    stage.check(good, || text.clone())?;
    stage.fact("compared", text);
    Ok(())
}
