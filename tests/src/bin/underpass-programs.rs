//! Real programs through the shortcut, compared with TCP.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use underpass_tests::programs::report;

#[derive(Parser)]
#[command(about = "Compares what real programs give over TCP and over the shortcut")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Runs every scenario on both paths and compares; needs root.
    Run(report::RunArgs),
}

fn main() -> ExitCode {
    let Verb::Run(args) = Cli::parse().verb;
    match report::run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("underpass-programs: {e}");
            ExitCode::FAILURE
        }
    }
}
