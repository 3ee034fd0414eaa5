//! `underpass`: asks the node's agent and prints. Data goes to stdout, messages to stderr.
#![forbid(unsafe_code)]

mod bench;
mod check;
mod client;
mod codes;
mod conns;
mod error;
mod explain;
mod options;
mod render;
mod row;
mod stat;
mod status;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _, error::ErrorKind};
use underpass_abi::reason::code;

use crate::{
    error::{CliError, EXIT_FAILED, EXIT_USAGE},
    options::{Options, PLANNED, Verb},
};

fn main() -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) => return usage(&error),
    };
    match run(options.verb) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_FAILED),
        Err(error) => {
            let exit = error.exit_code();
            if exit != 0 {
                render::note(&error.to_string());
            }
            ExitCode::from(exit)
        }
    }
}

/// False if something was found that is not as it should be.
fn run(verb: Verb) -> Result<bool, CliError> {
    match verb {
        Verb::Check(options) => match &options.file {
            Some(dir) => check::files::run(dir, options.output.output),
            None => block_on(check::node::run(&options)),
        },
        Verb::Status(options) => block_on(status::run(&options)),
        Verb::Conns(options) => block_on(conns::run(&options)).map(|()| true),
        Verb::Stat(options) => block_on(stat::run(&options)).map(|()| true),
        Verb::Explain(options) => block_on(explain::run(&options)).map(|()| true),
        Verb::Bench(options) => bench::run(&options),
        Verb::Codes(options) => codes::run(&options).map(|()| true),
        Verb::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Options::command(), "underpass", &mut script);
            render::emit(&String::from_utf8_lossy(&script))?;
            Ok(true)
        }
        Verb::Other(words) => bench::part(&words).unwrap_or_else(|| Err(unknown(&words))),
    }
}

fn block_on<T>(work: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

fn unknown(words: &[String]) -> CliError {
    let verb = words.first().map(String::as_str).unwrap_or_default();
    if PLANNED.contains(&verb) {
        return CliError::usage(code::NOT_IMPLEMENTED, format!("`underpass {verb}`"));
    }
    CliError::usage(code::BAD_ARGUMENT, format!("there is no verb `{verb}`"))
}

/// clap's message with our code; help and version are no errors.
fn usage(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A closed reader has seen enough.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::from(EXIT_USAGE)
        }
        _ => {
            let text = error.to_string();
            let text = text.strip_prefix("error: ").unwrap_or(&text).trim_end();
            render::note(&format!("UP0503 BAD_ARGUMENT: {text}"));
            ExitCode::from(EXIT_USAGE)
        }
    }
}
