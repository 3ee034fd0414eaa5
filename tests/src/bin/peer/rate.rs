//! Connect-rate client.

use std::{
    collections::BTreeMap,
    io::{self, Read as _, Write as _},
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use serde_json::json;

use super::{
    sink::now_ns,
    socket::{connect_tcp, errno, reset},
};

#[derive(Args)]
pub struct RateArgs {
    to: SocketAddr,
    /// Connects per second over all threads; 0: as fast as they go.
    #[arg(long, default_value_t = 0)]
    rate: u64,
    /// Stop after this time.
    #[arg(long, default_value_t = 3600.0)]
    seconds: f64,
    /// Stop after so many connects.
    #[arg(long, default_value_t = u64::MAX)]
    count: u64,
    #[arg(long, default_value_t = 1)]
    threads: u64,
    /// Bytes that go to the server and back on each connection (the server must echo).
    #[arg(long, default_value_t = 0)]
    echo: usize,
    /// Close by FIN instead of by reset.
    #[arg(long)]
    fin: bool,
}

#[derive(Default)]
struct Results {
    ok: u64,
    /// By errno of `connect`.
    failed: BTreeMap<i32, u64>,
    /// Connections that broke after they were established.
    lost: u64,
    slowest: Duration,
    first_failure_ns: u64,
}

pub fn run(args: &RateArgs) -> io::Result<()> {
    let start = Instant::now();
    let start_ns = now_ns();
    let results = thread::scope(|scope| {
        let lanes: Vec<_> = (0..args.threads)
            .map(|_| scope.spawn(move || lane(args, start)))
            .collect();
        lanes
            .into_iter()
            .map(|l| l.join().expect("lanes do not panic"))
            .fold(Results::default(), add)
    });
    let failed: BTreeMap<String, u64> = results
        .failed
        .iter()
        .map(|(e, n)| (e.to_string(), *n))
        .collect();
    let line = json!({
        "ok": results.ok,
        "failed": failed,
        "failed_total": results.failed.values().sum::<u64>(),
        "lost": results.lost,
        "slowest_us": results.slowest.as_micros() as u64,
        "seconds": start.elapsed().as_secs_f64(),
        "start_ns": start_ns,
        "end_ns": now_ns(),
        "first_failure_ns": results.first_failure_ns,
    });
    println!("{line}");
    Ok(())
}

fn add(mut sum: Results, one: Results) -> Results {
    sum.ok += one.ok;
    sum.lost += one.lost;
    sum.slowest = sum.slowest.max(one.slowest);
    for (errno, count) in one.failed {
        *sum.failed.entry(errno).or_default() += count;
    }
    if sum.first_failure_ns == 0
        || (one.first_failure_ns > 0 && one.first_failure_ns < sum.first_failure_ns)
    {
        sum.first_failure_ns = one.first_failure_ns;
    }
    sum
}

fn lane(args: &RateArgs, start: Instant) -> Results {
    let mut results = Results::default();
    let limit = Duration::from_secs_f64(args.seconds);
    let count = args.count / args.threads;
    let gap =
        (args.rate > 0).then(|| Duration::from_secs_f64(args.threads as f64 / args.rate as f64));
    for i in 0..count {
        if let Some(gap) = gap {
            let due = gap.mul_f64(i as f64);
            thread::sleep(due.saturating_sub(start.elapsed()));
        }
        if start.elapsed() >= limit {
            break;
        }
        one(args, &mut results);
    }
    results
}

fn one(args: &RateArgs, results: &mut Results) {
    let before = Instant::now();
    let mut stream = match connect_tcp(args.to, None) {
        Ok(stream) => stream,
        Err(e) => {
            if results.failed.is_empty() {
                results.first_failure_ns = now_ns();
            }
            *results.failed.entry(errno(&e)).or_default() += 1;
            return;
        }
    };
    results.ok += 1;
    results.slowest = results.slowest.max(before.elapsed());
    let mut block = vec![0x21; args.echo];
    if args.echo > 0
        && stream
            .write_all(&block)
            .and_then(|()| stream.read_exact(&mut block))
            .is_err()
    {
        results.lost += 1;
    }
    if !args.fin {
        // Leaves no TIME_WAIT behind, so that 100,000 connects find ports.
        let _ = reset(stream);
    }
}
