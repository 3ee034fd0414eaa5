//! PostgreSQL and pgbench from the private prefix, in the places of our own server and client. The
//! server refuses to run as root, so it runs in a user namespace where root has another name.

use std::{
    fs::{self, File},
    net::SocketAddrV4,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{Measured, packaged};
use crate::{
    BenchError, Context as _, Result,
    cpu::Clocks,
    ends::Trip,
    generator::{Latency, Outcome},
    lab::Place,
    manifests::APP_PORT,
};

/// Where its packages have their programs.
pub const BIN: &str = "usr/lib/postgresql/15/bin";
/// What starts a program that refuses to be root; files stay ours.
pub const NOT_ROOT: [&str; 3] = ["unshare", "--user", "--map-user=1000"];
/// Who may come: everybody, by every way.
pub const HBA: &str = "local all all trust\nhost all all all trust\n";

/// Transactions of a first run; later ones follow its rate.
const TRANSACTIONS: u64 = 2_000;
/// Until its sessions have told what they did.
const TOLD_WITHIN: Duration = Duration::from_secs(3);
const ENDED_WITHIN: Duration = Duration::from_secs(10);

/// Flags of `initdb`.
pub fn initdb(data: &str) -> [&str; 9] {
    [
        "-D",
        data,
        "-U",
        "postgres",
        "-A",
        "trust",
        "-N",
        "--no-locale",
        "-EUTF8",
    ]
}

/// Flags of `postgres`; `sockets` is the directory of its Unix socket, empty for none.
pub fn serve<'a>(data: &'a str, host: &'a str, port: &'a str, sockets: &'a str) -> [&'a str; 11] {
    let memory = "shared_buffers=64MB";
    [
        "-D", data, "-h", host, "-p", port, "-k", sockets, "-F", "-c", memory,
    ]
}

/// A server on one side; it ends with this.
pub struct Server {
    child: Child,
    client: Place,
    place: Place,
    dir: PathBuf,
}

impl Server {
    /// Makes a database in `dir`, which must not exist yet.
    pub fn start(client: &Place, place: &Place, dir: &Path) -> Result<Self> {
        fs::create_dir(dir).context(dir.display())?;
        let data = dir.join("data").display().to_string();
        let program = packaged::find(&format!("{BIN}/initdb"))?;
        let words = [&NOT_ROOT[..], &[program.as_str()], &initdb(&data)[..]].concat();
        output(&mut packaged::command(&words, place)?, "initdb")?;
        fs::write(dir.join("data/pg_hba.conf"), HBA).context(dir.display())?;
        let mut server = Self {
            child: spawn(place, dir)?,
            client: client.clone(),
            place: place.clone(),
            dir: dir.to_owned(),
        };
        server.wait_ready()?;
        let program = packaged::find(&format!("{BIN}/pgbench"))?;
        let mut fill = packaged::command(&[&program], client)?;
        fill.args(["-i", "-q"]);
        output(at(&mut fill, &server.dir, None), "pgbench -i")?;
        server.warm()?;
        Ok(server)
    }

    /// Ends it and starts another, so that whoever watches sees it listen.
    pub fn restart(&mut self) -> Result<()> {
        self.end()?;
        self.child = spawn(&self.place, &self.dir)?;
        self.wait_ready()?;
        self.warm()
    }

    /// Reads all accounts by their index into its memory, as the other side's server has them there
    /// that was not restarted.
    fn warm(&self) -> Result<()> {
        let query = "set enable_seqscan = off; set enable_bitmapscan = off; \
                     select sum(abalance) from pgbench_accounts where aid > 0; \
                     select pg_stat_force_next_flush()";
        sql(&self.dir, query).map(drop)
    }

    /// Runs pgbench against it.
    pub fn run(&mut self, clients: u32, trip: &Trip, clocks: &Clocks) -> Result<Measured> {
        let each = trip.count(TRANSACTIONS).div_ceil(u64::from(clients));
        let all = each * u64::from(clients);
        let queries = self.queries()?;
        let before = clocks.read()?;
        let outcome = self.pgbench(clients, each, trip)?;
        let cpu = clocks.read()?.since(&before);
        let wrong = if outcome.operations == all {
            self.wait_queries(queries + all)?
        } else {
            let logged = outcome.operations;
            Some(format!("pgbench logged {logged} transactions of {all}"))
        };
        Ok((outcome, cpu, wrong))
    }

    fn pgbench(&self, clients: u32, each: u64, trip: &Trip) -> Result<Outcome> {
        let logs = self.dir.join("logs");
        fs::create_dir(&logs).context(logs.display())?;
        let program = packaged::find(&format!("{BIN}/pgbench"))?;
        let mut benchmark = packaged::command(&[&program], &self.client)?;
        benchmark
            .args(["-n", "-S", "-c", &clients.to_string()])
            .args(["-t", &each.to_string(), "-l", "--log-prefix"])
            .arg(logs.join("log"));
        let to = (!trip.unix).then(|| trip.targets.at(0));
        let done = output(at(&mut benchmark, &self.dir, to), "pgbench");
        let took = read_logs(&logs);
        fs::remove_dir_all(&logs).context(logs.display())?;
        let (said, mut took) = (done?, took?);
        took.sort_unstable();
        outcome(&took, clients, &said).ok_or_else(|| failed("pgbench", &said))
    }

    /// How often it has looked up an account.
    fn queries(&self) -> Result<u64> {
        let query = "select idx_scan from pg_stat_user_tables where relname = 'pgbench_accounts'";
        let said = sql(&self.dir, query)?;
        let number = said.trim().parse();
        number.map_err(|_| failed("psql", &format!("{query}: {said:?}")))
    }

    /// A session adds what it did when it ends. What is wrong if that stays another number.
    fn wait_queries(&self, wanted: u64) -> Result<Option<String>> {
        let begin = Instant::now();
        loop {
            let queries = self.queries()?;
            if queries == wanted {
                return Ok(None);
            }
            if queries > wanted || begin.elapsed() > TOLD_WITHIN {
                let why = format!("PostgreSQL looked up {queries} accounts of {wanted} in all");
                return Ok(Some(why));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn wait_ready(&mut self) -> Result<()> {
        let ready = || sql(&self.dir, "select 1").is_ok();
        packaged::wait_ready("postgres", &mut self.child, ready).map_err(|e| {
            let said = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            failed("postgres", &format!("{e}: {said}"))
        })
    }

    /// Asks it to end at once but in order: what a killed one leaves must be recovered by the next.
    fn end(&mut self) -> Result<()> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::INT).context("postgres")?;
        let begin = Instant::now();
        while self.child.try_wait().context("postgres")?.is_none() {
            if begin.elapsed() > ENDED_WITHIN {
                return Err(failed("postgres", "it does not end"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.end().is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn spawn(place: &Place, dir: &Path) -> Result<Child> {
    let data = dir.join("data").display().to_string();
    let (port, sockets) = (APP_PORT.to_string(), dir.display().to_string());
    let program = packaged::find(&format!("{BIN}/postgres"))?;
    let flags = serve(&data, "0.0.0.0", &port, &sockets);
    let words = [&NOT_ROOT[..], &[program.as_str()], &flags[..]].concat();
    let mut command = packaged::command(&words, place)?;
    let log = dir.join("log");
    // Nothing may run in the measured place but what the load asks for.
    command
        .args(["-c", "autovacuum=off", "-c", "log_min_messages=fatal"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&log).context(log.display())?);
    command.spawn().context("postgres")
}

/// Points a client to the Unix socket in `dir`, or to an address and port.
fn at<'a>(command: &'a mut Command, dir: &Path, to: Option<SocketAddrV4>) -> &'a mut Command {
    let (host, port) = match to {
        Some(to) => (to.ip().to_string(), to.port()),
        None => (dir.display().to_string(), APP_PORT),
    };
    command
        .args(["-h", &host, "-p", &port.to_string(), "-U", "postgres"])
        .arg("postgres")
        .stdin(Stdio::null())
}

/// From outside of the places that are measured.
fn sql(dir: &Path, query: &str) -> Result<String> {
    let program = packaged::find(&format!("{BIN}/psql"))?;
    let mut psql = packaged::command(&[&program], &Place::default())?;
    psql.args(["-X", "-Atc", query]);
    output(at(&mut psql, dir, None), "psql")
}

/// Microseconds of each transaction, of all files in a directory.
fn read_logs(dir: &Path) -> Result<Vec<u64>> {
    let mut took = Vec::new();
    for entry in fs::read_dir(dir).context(dir.display())?.flatten() {
        let path = entry.path();
        let text = fs::read_to_string(&path).context(path.display())?;
        for line in text.lines() {
            took.push(microseconds(line).ok_or_else(|| failed("pgbench's log", line))?);
        }
    }
    Ok(took)
}

/// `client transaction microseconds script seconds microseconds`; a failed transaction has a word there.
fn microseconds(line: &str) -> Option<u64> {
    line.split(' ').nth(2)?.parse().ok()
}

/// `took`: sorted microseconds. `said`: by pgbench, with its rate once all clients were connected.
fn outcome(took: &[u64], clients: u32, said: &str) -> Option<Outcome> {
    let rate = said.lines().find_map(|line| line.strip_prefix("tps = "))?;
    let rate: f64 = rate.split(' ').next()?.parse().ok()?;
    let last = took.len().checked_sub(1)?;
    let at = |quantile: f64| took[(quantile * last as f64) as usize] * 1_000;
    Some(Outcome {
        operations: took.len() as u64,
        connections: clients.into(),
        errors: 0,
        first_error: None,
        seconds: took.len() as f64 / rate,
        latency: Latency {
            p50: at(0.5),
            p90: Some(at(0.9)),
            p99: at(0.99),
            p999: Some(at(0.999)),
            max: at(1.0),
        },
        distribution: Vec::new(),
    })
}

/// Its standard output; an error unless it succeeds.
fn output(command: &mut Command, name: &str) -> Result<String> {
    let done = command.output().context(name)?;
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    if done.status.success() {
        return Ok(said);
    }
    let why = String::from_utf8_lossy(&done.stderr);
    Err(failed(name, &format!("{}: {said}{why}", done.status)))
}

fn failed(name: &str, why: &str) -> BenchError {
    BenchError::Party {
        party: name.to_owned(),
        why: why.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_log_is_read_and_a_failed_transaction_is_no_number() {
        assert_eq!(microseconds("0 199 2241 0 1175850568 995598"), Some(2241));
        assert_eq!(microseconds("3 0 failed 0 1499414498 84905"), None);
        assert_eq!(microseconds(""), None);
    }

    #[test]
    fn quantiles_are_of_the_sorted_log() {
        let took: Vec<u64> = (0..=100).collect();
        let said = "latency average = 1 ms\ntps = 50.5 (without initial connection time)\n";
        let outcome = outcome(&took, 4, said).unwrap();
        let latency = &outcome.latency;
        assert_eq!(
            (latency.p50, latency.p99, latency.max),
            (50_000, 99_000, 100_000)
        );
        assert_eq!((outcome.operations, outcome.connections), (101, 4));
        assert_eq!(outcome.seconds, 2.0);
        assert!(super::outcome(&[], 4, said).is_none());
        assert!(super::outcome(&took, 4, "pgbench: error").is_none());
    }
}
