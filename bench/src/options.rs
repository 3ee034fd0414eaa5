//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use underpass_bench::{backstage::Backstage, lab::Wire, rig::Cpus};

/// Compares systems between the same client and server: none, the mesh, and the proxies of others;
/// interleaved, total CPU of all parties. Needs root and a release build of `underpass-agent` and
/// `underpass` beside it.
///
/// Exit codes: 0 every row was measured (but what this wire cannot have), 1 a row could not be measured, 2 bad
/// usage.
#[derive(Parser)]
#[command(
    name = "underpass-bench",
    version,
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    #[command(subcommand)]
    pub verb: Option<Verb>,
    #[command(flatten)]
    pub comparison: Comparison,
}

#[derive(Args)]
pub struct Comparison {
    /// Cases, or families of them: http1, http2, grpc, tcp [default: all]
    #[arg(value_name = "CASE")]
    pub case: Vec<String>,
    /// Only these systems, and `none` (repeatable) [default: all]
    #[arg(long, value_name = "NAME")]
    pub system: Vec<String>,
    /// The cases in open loop as well, with so many requests in a second (repeatable)
    #[arg(long, value_name = "RPS")]
    pub rate: Vec<u32>,
    /// Rounds that are kept; one more warms up
    #[arg(long, value_name = "N", default_value_t = 9)]
    pub rounds: usize,
    /// Seconds of each run
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    pub seconds: f64,
    /// How client and server are joined; HTTP workers need a namespace for each
    #[arg(long, value_enum, default_value = "veth")]
    pub wire: Wire,
    /// Where the parties run
    #[arg(long, value_enum, default_value = "one")]
    pub cpus: Cpus,
    /// Smoke test: one or two cases of each family, one round of 0.2 seconds; the figures mean nothing
    #[arg(long, conflicts_with_all = ["rounds", "seconds"])]
    pub quick: bool,
    /// Writes the rows and the environment
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Writes a page that needs nothing else
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Lists the cases and systems, and ends
    #[arg(long)]
    pub list: bool,
}

#[derive(Args)]
pub struct Compare {
    /// Rounds that are kept; one more warms up
    #[arg(long, value_name = "N", default_value_t = 9)]
    pub rounds: usize,
    /// Seconds of each run
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    pub seconds: f64,
    /// Only this case (repeatable) [default: all]
    #[arg(long, value_name = "NAME")]
    pub case: Vec<String>,
    #[command(flatten)]
    pub layout: Layout,
    /// Smoke test: a few cases, three rounds of 0.2 seconds; the figures mean nothing
    #[arg(long, conflicts_with_all = ["rounds", "seconds"])]
    pub quick: bool,
    /// Writes every raw round and the environment
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Lists the cases and ends
    #[arg(long)]
    pub list: bool,
}

#[derive(Args, Clone, Copy)]
pub struct Layout {
    /// How client and server are joined
    #[arg(long, value_enum, default_value = "loopback")]
    pub wire: Wire,
    /// CPUs of client and server
    #[arg(long, value_enum, default_value = "one")]
    pub cpus: Cpus,
}

#[derive(Subcommand)]
pub enum Verb {
    /// What the mesh costs a connect and a request, by the number of services and endpoints
    Connect {
        #[command(flatten)]
        compare: Compare,
        /// No mesh on either side: what the method itself shows, each ratio should be 1
        #[arg(long)]
        null: bool,
    },
    /// No mesh, the mesh without and with the shortcut, and a Unix socket, side by side
    Shortcut(Compare),
    /// 1,000 services, 10,000 endpoints, 10,000 workloads: from files to maps, and one change
    Plan {
        /// Changes of one endpoint
        #[arg(long, value_name = "N", default_value_t = 50)]
        changes: u32,
        /// Writes every figure and the environment
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// What the kernel holds for readers that do not read, and how soon the kill switch takes hold
    Limits {
        /// Rounds of each way and size of writes
        #[arg(long, value_name = "N", default_value_t = 5)]
        rounds: usize,
        /// Readers that do not read
        #[arg(long, value_name = "N", default_value_t = 100)]
        readers: u32,
        /// Bytes of one write to them (repeatable): however small, a message past TCP costs the
        /// kernel about 1 KiB
        #[arg(long, value_name = "BYTES", default_values_t = [64, 1024, 16384])]
        write: Vec<u32>,
        /// Throws of the kill switch
        #[arg(long, value_name = "N", default_value_t = 100)]
        throws: u32,
        #[command(flatten)]
        layout: Layout,
        /// Writes every figure and the environment
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// Runs and nanoseconds of each BPF program for one operation (needs bpftool)
    Programs {
        /// Only this case (repeatable) [default: all]
        #[arg(long, value_name = "NAME")]
        case: Vec<String>,
        /// Cases of `shortcut`, with the shortcut on
        #[arg(long)]
        shortcut: bool,
        /// Seconds of each run
        #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
        seconds: f64,
        #[command(flatten)]
        layout: Layout,
        /// Writes every figure
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    #[command(flatten)]
    Backstage(Backstage),
}
