//! redis-benchmark (non-blocking), and redis-cli, which dials without blocking and blocks from then on.

use std::{thread, time::Duration};

use rustix::process::Signal;

use super::{
    Scenario, scenario,
    stage::{LIMIT, Stage},
};
use crate::{
    Failure, Result,
    lab::{Pod, Proc},
};

pub const SCENARIOS: &[Scenario] = &[
    scenario("redis-benchmark", benchmark),
    scenario("redis-replica", replica),
    scenario("redis-cli-pipe", pipe),
    scenario("redis-cli", cli),
    scenario("redis-cli-stopped", stopped),
];

fn server(stage: &Stage) -> Result<Proc> {
    let dir = stage.path("");
    redis(
        stage,
        &stage.fixture.server,
        &dir,
        &["--repl-diskless-sync-delay", "0"],
    )
}

/// A redis-server in a pod that keeps nothing on disk.
fn redis(stage: &Stage, pod: &Pod, dir: &str, more: &[&str]) -> Result<Proc> {
    let (ip, port) = (pod.v4.to_string(), stage.port.to_string());
    let command = [
        "redis-server",
        "--bind",
        &ip,
        "--port",
        &port,
        "--dir",
        dir,
        "--save",
        "",
        "--protected-mode",
        "no",
        "--enable-debug-command",
        "yes",
    ];
    stage.serve(pod, &[&command, more].concat())
}

/// A first connection of redis-cli, from which the mesh learns that it blocks.
fn introduce(stage: &Stage) -> Result<()> {
    let at = stage.server_at();
    let ping = format!("redis-cli -h {} -p {} PING", at.ip(), at.port());
    stage.script(stage.client(), &ping, &[]).map(drop)
}

/// Facts that the server itself knows, asked from its own pod.
fn state(stage: &mut Stage) -> Result<()> {
    let at = stage.server_at();
    let ask = format!("redis-cli -h {} -p {}", at.ip(), at.port());
    let script = format!(
        "{ask} dbsize; {ask} debug digest; {ask} info errorstats; \
         {ask} info commandstats | grep -oE '^cmdstat_(set|get|lpush|lrange|incr|mset|blpop|rpush):calls=[0-9]+' | sort"
    );
    let text = stage.script(stage.server(), &script, &[])?;
    stage.fact("size, digest, errors, calls", text.replace('\r', ""));
    Ok(())
}

fn benchmark(stage: &mut Stage) -> Result<()> {
    let _server = server(stage)?;
    let at = stage.server_at();
    let ask = format!("redis-benchmark -h {} -p {} --csv", at.ip(), at.port());
    let runs = [
        (
            "one at a time",
            "-n 10000 -c 16 -d 1000 -t set,get,incr,lpush,lrange_300,mset",
        ),
        ("values of 200 kB", "-n 400 -c 4 -d 200000 -t set,get"),
        ("pipelines of 16", "-n 40000 -c 16 -P 16 -d 100 -t set,get"),
        (
            "two threads",
            "-n 10000 -c 16 --threads 2 -d 100 -t set,get",
        ),
    ];
    for (name, flags) in runs {
        let text = stage.script(stage.client(), &format!("{ask} {flags}"), &[])?;
        let tests: Vec<&str> = text.lines().filter_map(|l| l.split(',').next()).collect();
        stage.check(tests.len() > 2, || format!("{name}: {text}"))?;
        stage.fact(name, tests.join(" "));
    }
    state(stage)
}

/// 20,000 commands in one go; `--pipe` does not block.
fn pipe(stage: &mut Stage) -> Result<()> {
    let _server = server(stage)?;
    introduce(stage)?;
    let at = stage.server_at();
    let script = format!(
        "for i in $(seq 20000); do echo \"SET key:$i value:$i\"; done \
         | redis-cli -h {} -p {} --pipe | tail -1",
        at.ip(),
        at.port()
    );
    let text = stage.script(stage.client(), &script, &[])?;
    stage.fact("answers", text);
    state(stage)
}

/// A value of 20 MB down, small ones up. A big one up fails now and then: see `python-late-blocking`.
fn cli(stage: &mut Stage) -> Result<()> {
    let _server = server(stage)?;
    let at = stage.server_at();
    let big = stage.shared.random(20_000_000)?;
    let ask = format!("ask=\"redis-cli -h {} -p {}\"", at.ip(), at.port());
    let script = format!(
        "{ask}
         (printf '*3\\r\\n$3\\r\\nSET\\r\\n$3\\r\\nbig\\r\\n$20000000\\r\\n'; cat $1; printf '\\r\\n') | $ask --pipe"
    );
    stage.script(stage.server(), &script, &[&big])?;
    let script = format!(
        "{ask}
         $ask GET big | head -c 20000000 | sha256sum
         for i in $(seq 500); do echo \"SET key:$i value:$i\"; done | $ask | sort | uniq -c
         $ask --scan --pattern 'key:*' | sort | sha256sum
         $ask -r 200 INCR n | tail -1"
    );
    let text = stage.script(stage.client(), &script, &[])?;
    let sum = stage.script(stage.client(), "sha256sum < $1", &[&big])?;
    stage.check(text.contains(&sum), || format!("{text}: not {sum}"))?;
    stage.fact("answers", text);
    state(stage)
}

/// A replica takes 200,000 keys, then what is written meanwhile and after; the same data at both ends.
fn replica(stage: &mut Stage) -> Result<()> {
    let _server = server(stage)?;
    let at = stage.server_at();
    let ask = format!("ask=\"redis-cli -h {} -p {}\"", at.ip(), at.port());
    let fill = format!("{ask}; $ask DEBUG POPULATE 200000 key 100");
    stage.script(stage.server(), &fill, &[])?;
    let pod = &stage.fixture.client;
    let (ip, port, dir) = (pod.v4, stage.port.to_string(), stage.path("replica"));
    let master = at.ip().to_string();
    std::fs::create_dir_all(&dir).map_err(Failure::at(&dir))?;
    let _replica = redis(stage, pod, &dir, &["--replicaof", &master, &port])?;
    // WAIT answers with the number of replicas that have what its own connection wrote.
    let script = format!(
        "{ask}
         redis-benchmark -h {master} -p {port} -n 5000 -c 4 -d 500 -r 1000000 -t set,lpush -q > /dev/null
         for i in $(seq 100); do
           [ \"$(printf 'SET last 1\\nWAIT 1 1000\\n' | $ask | tail -1)\" = 1 ] && break; sleep 0.1
         done
         $ask DBSIZE; $ask DEBUG DIGEST
         echo; ask=\"redis-cli -h {ip} -p {port}\"; $ask DBSIZE; $ask DEBUG DIGEST"
    );
    let text = stage.script(stage.server(), &script, &[])?;
    let (master, replica) = text.split_once("\n\n").unwrap_or_default();
    stage.check(master == replica.trim() && !master.is_empty(), || {
        text.clone()
    })?;
    stage.fact("master and replica", "the same");
    Ok(())
}

/// A blocking read that a stop and a continuation interrupt (Ctrl-Z, fg). The mesh knows by then that the
/// program blocks: one that it does not know gets EAGAIN.
fn stopped(stage: &mut Stage) -> Result<()> {
    let _server = server(stage)?;
    let (ip, port) = (stage.server_at().ip().to_string(), stage.port.to_string());
    let command = ["redis-cli", "-h", &ip, "-p", &port, "BLPOP", "list", "20"];
    introduce(stage)?;
    let waiting = stage.start(stage.client(), &command)?;
    thread::sleep(Duration::from_millis(500));
    waiting.signal(Signal::STOP)?;
    thread::sleep(Duration::from_millis(200));
    waiting.signal(Signal::CONT)?;
    thread::sleep(Duration::from_millis(200));
    let push = format!("redis-cli -h {ip} -p {port} RPUSH list hello");
    stage.script(stage.server(), &push, &[])?;
    let done = waiting.finish(LIMIT)?;
    stage.fact(
        "answer",
        format!("{:?} {} {}", done.code, done.stdout, done.stderr),
    );
    Ok(())
}
