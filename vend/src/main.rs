//! `underpass-vend`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;
use underpass_vend::{
    child, ctl, enter, log,
    options::{Options, Verb},
    vendor,
};

fn main() -> ExitCode {
    // Its own stages, before clap: they start often.
    let mut args = std::env::args_os().skip(1);
    let result = match args.next().as_deref().and_then(|a| a.to_str()) {
        Some(enter::WORKER) => enter::worker(args),
        Some(enter::CHILD) => enter::child(args).and_then(|setup| child::run(&setup)),
        _ => {
            let options = Options::parse();
            match &options.verb {
                Some(Verb::Ctl(ctl)) => ctl::run(&options.control, ctl),
                None => vendor::run(&options),
            }
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!(
                "underpass-vend: {}",
                log::coded(problem.code, &problem.text)
            );
            ExitCode::FAILURE
        }
    }
}
