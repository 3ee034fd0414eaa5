//! `cargo xtask`: sets the machine up, builds the BPF object and runs the binaries of other rooms.
//! No dependencies, so that the first line of output comes within seconds of a cold start.
#![forbid(unsafe_code)]

use std::process::ExitCode;

mod demo;
mod ebpf;
mod envoy;
mod flags;
mod grpcio;
mod process;
mod servers;
mod setup;
mod test;
mod tidy;
mod verify;
mod vm;
mod workspace;

use flags::{Flags, Verb};

/// Why a verb failed, as the user reads it.
type Result<T> = std::result::Result<T, String>;

const VERBS: &[Verb] = &[
    demo::DEMO,
    test::VERB,
    demo::BENCH,
    setup::VERB,
    ebpf::VERB,
    verify::VERB,
    vm::VERB,
    tidy::VERB,
];

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let Some(name) = args.next() else {
        print!("{}", overview());
        return ExitCode::from(2);
    };
    if matches!(name.as_str(), "-h" | "--help" | "help") {
        print!("{}", overview());
        return ExitCode::SUCCESS;
    }
    let Some(verb) = VERBS.iter().find(|v| v.name == name) else {
        eprintln!("UP0301 NOT_IMPLEMENTED: there is no verb `{name}`. Try: cargo xtask --help");
        return ExitCode::from(2);
    };
    match Flags::parse(verb, args) {
        Ok(None) => {
            print!("{}", verb.help());
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("UP0503 BAD_ARGUMENT: {why}. Try: cargo xtask {name} --help");
            ExitCode::from(2)
        }
        Ok(Some(flags)) => {
            println!("xtask {name}: {}", verb.about);
            match (verb.run)(&flags) {
                Ok(()) => ExitCode::SUCCESS,
                Err(why) => {
                    eprintln!("xtask {name}: {why}");
                    ExitCode::FAILURE
                }
            }
        }
    }
}

fn overview() -> String {
    let mut text =
        String::from("Usage: cargo xtask VERB [FLAGS]   (VERB --help shows its flags)\n\n");
    for verb in VERBS {
        text += &format!("  {:<12} {}\n", verb.name, verb.about);
    }
    text
}
