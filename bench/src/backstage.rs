//! Processes that a benchmark starts of its own program: parties, and the guard that cleans up. A program
//! that runs benchmarks of this library takes these commands too.

use std::{os::unix::process::CommandExt as _, path::PathBuf, process::Command};

use clap::{Args, Parser, Subcommand};

use crate::{
    BenchError, Context as _, Result,
    generator::{client, server},
    lab::{self, Place},
    web,
};

#[derive(Debug, Subcommand)]
pub enum Backstage {
    /// A client or a server, driven by its standard input
    #[command(hide = true)]
    Party {
        #[command(flatten)]
        place: PlaceArgs,
        #[arg(long, default_value_t = 0)]
        port: u16,
        /// The server's second listener
        #[arg(long)]
        unix: Option<PathBuf>,
        role: String,
    },
    /// A command in a place
    #[command(hide = true)]
    Exec {
        #[command(flatten)]
        place: PlaceArgs,
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Removes what a benchmark has made, when its input ends
    #[command(hide = true)]
    Guard {
        id: String,
        #[arg(long)]
        cgroup: Option<PathBuf>,
        #[arg(long)]
        file: Option<PathBuf>,
    },
}

#[derive(Args, Debug)]
pub struct PlaceArgs {
    #[arg(long)]
    pub cgroup: Option<PathBuf>,
    #[arg(long)]
    pub netns: Option<String>,
    #[arg(long)]
    pub cpu: Option<usize>,
}

impl From<PlaceArgs> for Place {
    fn from(args: PlaceArgs) -> Self {
        Self {
            cgroup: args.cgroup,
            netns: args.netns,
            cpu: args.cpu,
        }
    }
}

#[derive(Parser)]
struct Stage {
    #[command(subcommand)]
    part: Backstage,
}

/// Plays the part that a benchmark calls its program with; `None` for anything else.
pub fn called(words: &[String]) -> Option<Result<()>> {
    let parts = ["party", "exec", "guard"];
    words
        .first()
        .filter(|word| parts.contains(&word.as_str()))?;
    let whole = std::iter::once("underpass").chain(words.iter().map(String::as_str));
    let stage = Stage::try_parse_from(whole);
    Some(match stage {
        Ok(stage) => stage.part.play(),
        Err(why) => Err(BenchError::Setup(why.to_string())),
    })
}

impl Backstage {
    /// Returns when it is over.
    pub fn play(self) -> Result<()> {
        match self {
            Self::Party {
                place,
                port,
                unix,
                role,
            } => party(place, port, unix, &role),
            Self::Exec { place, command } => exec(place, &command),
            Self::Guard { id, cgroup, file } => lab::guard(&id, cgroup.as_deref(), file.as_deref()),
        }
    }
}

fn party(place: PlaceArgs, port: u16, unix: Option<PathBuf>, role: &str) -> Result<()> {
    let signal = rustix::process::Signal::KILL;
    rustix::process::set_parent_process_death_signal(Some(signal)).context("prctl")?;
    lab::enter(&place.into())?;
    match (role, unix) {
        ("client", _) => client::run().context("client"),
        ("server", unix) => server::serve(port, unix.as_deref()).context("server"),
        ("web-client", _) => web::client::run().context("web client"),
        ("web-server", Some(unix)) => web::server::serve(port, &unix).context("web server"),
        _ => Err(BenchError::Setup(format!("there is no party {role:?}"))),
    }
}

fn exec(place: PlaceArgs, command: &[String]) -> Result<()> {
    lab::enter(&place.into())?;
    let error = Command::new(&command[0]).args(&command[1..]).exec();
    Err(BenchError::Io {
        what: command[0].clone(),
        source: error,
    })
}
