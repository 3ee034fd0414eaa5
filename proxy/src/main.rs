//! `underpass-proxy`: one shard in front of the endpoints that the command line names, so that forwarding
//! can be tried with any client and server. It takes neither snapshots nor sockets from anybody yet.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use tokio::{
    net::TcpListener,
    runtime::{Builder, LocalOptions},
    signal::unix::{SignalKind, signal},
};
use underpass_proxy::{forward, shard::Shard};

mod options;

use options::{Options, Problem};

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("underpass-proxy: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Problem> {
    let plan = options.plan()?;
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .map_err(|why| Problem::Start {
            what: "the runtime".into(),
            why,
        })?;
    runtime.block_on(async {
        let at = options.listen;
        let failed = |why| Problem::Start {
            what: at.to_string(),
            why,
        };
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
