//! redis-server and redis-benchmark from the private prefix, in the places of our own server and client.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use super::{Measured, packaged};
use crate::{
    BenchError, Context as _, Result,
    cases::Redis,
    cpu::Clocks,
    ends::Trip,
    generator::{Latency, Outcome},
    lab::Place,
    manifests::APP_PORT,
};

/// Commands of a first run; later ones follow its rate.
const COMMANDS: u64 = 5_000;

/// A server on one side; it ends with this.
#[derive(Debug)]
pub struct Server {
    child: Child,
    place: Place,
    client: Place,
    unix: PathBuf,
}

impl Server {
    pub fn start(client: &Place, place: &Place, unix: &Path) -> Result<Self> {
        let mut server = Self {
            child: spawn(place, unix)?,
            place: place.clone(),
            client: client.clone(),
            unix: unix.to_owned(),
        };
        server.wait_ready()?;
        Ok(server)
    }

    /// Ends it and starts another, so that whoever watches sees it listen.
    pub fn restart(&mut self) -> Result<()> {
        self.end();
        self.child = spawn(&self.place, &self.unix)?;
        self.wait_ready()
    }

    /// How often it has run a command.
    fn calls(&self, command: &str) -> Result<u64> {
        let text = info(&self.unix).context("redis-server")?;
        let line = format!("cmdstat_{command}:calls=");
        let calls = text.lines().find_map(|l| l.strip_prefix(line.as_str()));
        let Some(calls) = calls else { return Ok(0) };
        let number = calls.split(',').next().and_then(|n| n.parse().ok());
        number.ok_or_else(|| BenchError::Setup(format!("redis-server: cmdstat {calls}")))
    }

    fn wait_ready(&mut self) -> Result<()> {
        let unix = &self.unix;
        packaged::wait_ready("redis-server", &mut self.child, || info(unix).is_ok())
    }

    /// Runs redis-benchmark against it.
    pub fn run(
        &mut self,
        redis: Redis,
        clients: u32,
        trip: &Trip,
        clocks: &Clocks,
    ) -> Result<Measured> {
        let commands = trip.count(COMMANDS);
        let calls = self.calls(redis.command)?;
        let before = clocks.read()?;
        let outcome = self.benchmark(redis, clients, trip, commands)?;
        let cpu = clocks.read()?.since(&before);
        let calls = self.calls(redis.command)? - calls;
        // It ends when enough are answered, and may have asked for a few more.
        let more = u64::from(clients * redis.pipeline);
        let wrong = (!(commands..=commands + more).contains(&calls))
            .then(|| format!("redis-server ran {calls} commands of {commands}"));
        Ok((outcome, cpu, wrong))
    }

    /// One run of so many commands.
    fn benchmark(&self, case: Redis, clients: u32, trip: &Trip, commands: u64) -> Result<Outcome> {
        let program = packaged::find("usr/bin/redis-benchmark")?;
        let mut benchmark = packaged::command(&[&program], &self.client)?;
        if trip.unix {
            benchmark.arg("-s").arg(&self.unix);
        } else {
            let to = trip.targets.at(0);
            let (host, port) = (to.ip().to_string(), to.port().to_string());
            benchmark.args(["-h", &host, "-p", &port]);
        }
        let (clients, pipeline) = (clients.to_string(), case.pipeline.to_string());
        benchmark
            .args(["--csv", "-t", case.command, "-c", &clients])
            .args(["-P", &pipeline, "-n", &commands.to_string()])
            .stdin(Stdio::null());
        let begin = Instant::now();
        let done = benchmark.output().context("redis-benchmark")?;
        let seconds = begin.elapsed().as_secs_f64();
        let said = String::from_utf8_lossy(&done.stdout);
        parse(&said, case.command, commands, seconds).ok_or_else(|| BenchError::Party {
            party: "redis-benchmark".into(),
            why: format!("{said}{}", String::from_utf8_lossy(&done.stderr)),
        })
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

fn spawn(place: &Place, unix: &Path) -> Result<Child> {
    let (port, program) = (
        APP_PORT.to_string(),
        packaged::find("usr/bin/redis-server")?,
    );
    let mut command = packaged::command(&[&program], place)?;
    command
        .args([
            "--port",
            &port,
            "--bind",
            "0.0.0.0",
            "--protected-mode",
            "no",
        ])
        .args(["--save", "", "--appendonly", "no", "--loglevel", "warning"])
        .arg("--unixsocket")
        .arg(unix)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command.spawn().context("redis-server")
}

/// `None` unless its table has exactly the one line that was asked for.
fn parse(csv: &str, command: &str, commands: u64, seconds: f64) -> Option<Outcome> {
    let rows: Vec<Vec<&str>> = csv
        .lines()
        .map(|line| line.split(',').map(|cell| cell.trim_matches('"')).collect())
        .collect();
    let [head, row] = &rows[..] else { return None };
    if !row.first()?.eq_ignore_ascii_case(command) {
        return None;
    }
    let nanoseconds = |name: &str| {
        let index = head.iter().position(|h| *h == name)?;
        let milliseconds: f64 = row.get(index)?.parse().ok()?;
        Some((milliseconds * 1e6) as u64)
    };
    Some(Outcome {
        operations: commands,
        connections: 0,
        errors: 0,
        first_error: None,
        seconds,
        latency: Latency {
            p50: nanoseconds("p50_latency_ms")?,
            p90: None,
            p99: nanoseconds("p99_latency_ms")?,
            p999: None,
            max: nanoseconds("max_latency_ms")?,
        },
        distribution: Vec::new(),
    })
}

fn info(unix: &Path) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(unix)?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(b"INFO commandstats\r\nQUIT\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CSV: &str = "\"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\"p50_latency_ms\",\
        \"p95_latency_ms\",\"p99_latency_ms\",\"max_latency_ms\"\n\
        \"GET\",\"111111.11\",\"0.123\",\"0.048\",\"0.119\",\"0.183\",\"0.223\",\"0.535\"\n";

    #[test]
    fn its_table_is_read_and_nothing_else_is() {
        let outcome = parse(CSV, "get", 1000, 2.0).unwrap();
        let latency = &outcome.latency;
        assert_eq!(
            (latency.p50, latency.p99, latency.max),
            (119_000, 223_000, 535_000)
        );
        assert_eq!(outcome.operations, 1000);
        assert!(parse(CSV, "set", 1000, 2.0).is_none());
        assert!(parse("ERR max number of clients reached\n", "get", 1, 1.0).is_none());
    }
}
