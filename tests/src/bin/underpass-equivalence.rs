//! The equivalence suite's program: the controller that compares paths, the runner of cases inside a
//! lab, and what a case's other processes do.
#![forbid(unsafe_code)]

use std::{io::Write as _, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use underpass_tests::{
    Result,
    equivalence::{
        Path,
        engine::stand_by,
        fixture, part,
        play::{Place, play},
        report,
        stage::Peer,
    },
    soak::{burst, plan, run},
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
    /// Random schedules over the shortcut; needs root.
    Soak(run::SoakArgs),
    /// Runs bursts here until so many bytes were checked, one JSON line for each.
    Bursts(BurstsArgs),
    /// A case's other process.
    Part { verb: String, args: Vec<u64> },
}

#[derive(Args)]
struct PlayArgs {
    /// Part of the names of the cases to run.
    #[arg(long, default_value = "")]
    only: String,
    /// Only the core.
    #[arg(long)]
    core: bool,
    #[command(flatten)]
    place: PlaceArgs,
}

#[derive(Args)]
struct BurstsArgs {
    #[arg(long)]
    seed: u64,
    #[arg(long)]
    bytes: u64,
    #[command(flatten)]
    place: PlaceArgs,
}

#[derive(Args)]
struct PlaceArgs {
    #[arg(long, default_value = "tcp")]
    path: Path,
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
        Verb::Play(args) => play_here(args),
        Verb::Soak(args) => run::run(&args),
        Verb::Bursts(args) => bursts(args),
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

impl PlaceArgs {
    fn place(self) -> Place {
        Place {
            path: self.path,
            pins: self.pins,
            peers: self.peer,
        }
    }
}

fn play_here(args: PlayArgs) -> Result<()> {
    let place = args.place.place();
    let _listener = stand_by(place.path, place.pins.as_deref())?;
    play(&place, &args.only, args.core, |outcome| print(&outcome));
    Ok(())
}

fn bursts(args: BurstsArgs) -> Result<()> {
    let place = args.place.place();
    let _listener = stand_by(place.path, place.pins.as_deref())?;
    let (mut seed, mut bytes) = (args.seed, 0);
    while bytes < args.bytes {
        let outcome = burst::run(&place, plan::burst(seed));
        print(&outcome);
        if !outcome.problems.is_empty() {
            break;
        }
        bytes += outcome.bytes;
        seed = plan::next(seed);
    }
    Ok(())
}

fn print(outcome: &impl serde::Serialize) {
    let line = serde_json::to_string(outcome).expect("strings and numbers");
    println!("{line}");
    let _ = std::io::stdout().flush();
}
