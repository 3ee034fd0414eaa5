//! The equivalence suite's program: the controller that compares paths, the runner of cases inside a
//! lab, and what a case's other processes do.
#![forbid(unsafe_code)]

use std::{io::Write as _, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use underpass_tests::equivalence::{
    Path, fixture, part,
    play::{Place, play},
    report,
    stage::Peer,
};

#[derive(Parser)]
#[command(about = "Compares what applications see over TCP and over the shortcut")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Runs every case on every path and compares; needs root.
    Run(report::RunArgs),
    /// Runs cases here and prints one JSON line for each.
    Play(PlayArgs),
    /// A case's other process.
    Part { verb: String, args: Vec<u64> },
}

#[derive(Args)]
struct PlayArgs {
    #[arg(long, default_value = "tcp")]
    path: Path,
    /// Part of the names of the cases to run.
    #[arg(long, default_value = "")]
    only: String,
    /// The agent's pin directory.
    #[arg(long)]
    pins: Option<PathBuf>,
    /// Another pod: its namespace and addresses.
    #[arg(long, value_name = "NETNS,IPV4,IPV6", value_parser = fixture::peer)]
    peer: Vec<Peer>,
}

fn main() -> ExitCode {
    let done = match Cli::parse().verb {
        Verb::Run(args) => report::run(&args),
        Verb::Play(args) => {
            play_here(args);
            Ok(())
        }
        Verb::Part { verb, args } => part::run(&verb, &args).map_err(Into::into),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("underpass-equivalence: {e}");
            ExitCode::FAILURE
        }
    }
}

fn play_here(args: PlayArgs) {
    let place = Place {
        path: args.path,
        pins: args.pins,
        peers: args.peer,
    };
    play(&place, &args.only, |outcome| {
        let line = serde_json::to_string(&outcome).expect("strings and numbers");
        println!("{line}");
        let _ = std::io::stdout().flush();
    });
}
