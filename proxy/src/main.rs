//! `underpass-proxy`: a worker that a vendor starts, or by itself one shard in front of the endpoints that
//! the command line names.
#![forbid(unsafe_code)]

use std::{io, net::SocketAddr, process::ExitCode};

use clap::Parser;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use underpass_api::vend::{sandbox, worker::Vendor};
use underpass_proxy::{
    capture,
    crew::runtime,
    forward,
    shard::Shard,
    sidecar::{self, Sidecar},
    vended,
};

mod options;

use options::{Capture, Options, Problem};

fn main() -> ExitCode {
    let options = Options::parse();
    let done = match (options.listen, options.capture) {
        (_, Some(what)) => capture(&options, what),
        (Some(listen), _) => alone(&options, listen),
        _ if options.sidecar => sidecar(&options),
        _ => vended(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("underpass-proxy: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// As a worker. Nothing has come from anywhere before all restrictions are in force; tokio makes its pair
/// of sockets for signals first, which it could not afterwards.
fn vended(options: &Options) -> Result<(), Problem> {
    let runtime = runtime().map_err(vended::Problem::Start)?;
    let missing = sandbox::restrict();
    let hello = |e: io::Error| vended::Problem::Vendor(format!("standard input: {e}"));
    let vendor = Vendor::hello(missing).map_err(hello)?;
    Ok(runtime.block_on(vended::run(vendor, options.shards, options.settings()))?)
}

fn capture(options: &Options, what: Capture) -> Result<(), Problem> {
    let rules = capture::rules(options.capture_uid.unwrap_or_default());
    let done = match what {
        Capture::Print => {
            print!("{rules}");
            Ok(())
        }
        Capture::Apply => capture::run(&rules),
        Capture::Remove => capture::run(&capture::removal()),
    };
    let what = "--capture";
    done.map_err(|why| Problem::Sidecar { what, why })
}

fn sidecar(options: &Options) -> Result<(), Problem> {
    let failed = |why| Problem::Sidecar {
        what: "--sidecar",
        why,
    };
    let sidecar = Sidecar {
        mesh: options.mesh.clone().unwrap_or_default(),
        workload: options.workload.clone().unwrap_or_default(),
    };
    let runtime = runtime().map_err(failed)?;
    let serving = sidecar::run(&sidecar, options.shards, options.settings());
    runtime
        .block_on(async {
            let mut stop = signal(SignalKind::terminate())?;
            tokio::select! {
                done = serving => done,
                _ = stop.recv() => Ok(()),
                done = tokio::signal::ctrl_c() => done,
            }
        })
        .map_err(failed)
}

fn alone(options: &Options, at: SocketAddr) -> Result<(), Problem> {
    let plan = options.plan(at)?;
    let failed = |why| Problem::Start {
        what: at.to_string(),
        why,
    };
    let runtime = runtime().map_err(failed)?;
    runtime.block_on(async {
        let listener = TcpListener::bind(at).await.map_err(failed)?;
        let shard = Shard::of_one(options.settings(), plan);
        // Also the port, if it was 0.
        println!("listening on {}", listener.local_addr().map_err(failed)?);
        tokio::task::spawn_local(forward::listen(shard.clone(), listener));
        let sweeping = shard.clone();
        tokio::task::spawn_local(async move { sweeping.sweep().await });
        let (mut stop, mut show) = (
            signal(SignalKind::terminate()).map_err(failed)?,
            signal(SignalKind::user_defined1()).map_err(failed)?,
        );
        loop {
            tokio::select! {
                _ = stop.recv() => break,
                _ = tokio::signal::ctrl_c() => break,
                _ = show.recv() => print(&shard),
            }
        }
        print(&shard);
        Ok(())
    })
}

/// The counters, one a line.
fn print(shard: &Shard) {
    for (name, value) in shard.counters.all() {
        println!("{name} {value}");
    }
    println!("connections_open {}", shard.open());
    println!("upstream_idle {}", shard.pool.len());
}
