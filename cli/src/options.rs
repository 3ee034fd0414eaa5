//! The command line: verbs, flags and filters, checked before anything is asked of the agent.

mod filter;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use underpass_bench::web::visit::Talk;

pub use filter::{ServiceFilter, is_end};

/// Verbs of the plan that are not built: refused, never guessed.
pub const PLANNED: [&str; 11] = [
    "dashboard",
    "demo",
    "dump",
    "edges",
    "import",
    "install",
    "routes",
    "tap",
    "top",
    "trace",
    "why",
];

/// Every connection of this node, with exact numbers and the reason for each decision.
#[derive(Debug, Parser)]
#[command(
    name = "underpass",
    version,
    after_help = "Exit codes: 0 ok, 1 failed or something was found (`check` and `status`: an error; `check -f`:\n\
        also a warning), 2 the command line is wrong.\n\
        Planned, refused for now (UP0301): dashboard, demo, dump, edges, import, install,\n\
        routes, tap, top, trace, why."
)]
pub struct Options {
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Check this node: kernel, mounts, capabilities, conflicts; or, with -f, a directory of objects
    Check(Check),
    /// Show the agent's state: plan, workloads, features, map fullness, problems
    Status(Status),
    /// List connections: open ones, and those that ended within the last hour
    Conns(Conns),
    /// Show one line of totals per service
    Stat(Stat),
    /// Show what is decided about SRC calling DST:PORT, and which object decides it
    Explain(Explain),
    /// Measure what the mesh costs a service of yours, with one client inside and one outside (needs root)
    Bench(Bench),
    /// Explain a code such as UP0101 or POLICY_DENIED, or list all of them
    Codes(Codes),
    /// Print a completion script
    Completion {
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    #[command(external_subcommand)]
    Other(Vec<String>),
}

#[derive(Debug, Args)]
pub struct Api {
    /// The agent's Unix socket
    #[arg(
        long = "api",
        value_name = "PATH",
        env = "UNDERPASS_API",
        default_value = underpass_api::DEFAULT_SOCKET
    )]
    pub path: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    /// The table with more columns, and a reason in every empty cell
    Wide,
    Json,
    Yaml,
}

#[derive(Debug, Args)]
pub struct Output {
    /// How to print
    #[arg(short, long = "output", value_enum, default_value = "table")]
    pub output: Format,
}

#[derive(Debug, Args)]
pub struct Rows {
    #[command(flatten)]
    pub output: Output,
    /// Leave the table's header out
    #[arg(long)]
    pub no_headers: bool,
}

#[derive(Debug, Args)]
pub struct Namespace {
    /// Only rows with an end or a service in this namespace
    #[arg(short, long, value_name = "NAME", conflicts_with = "all_namespaces")]
    pub namespace: Option<String>,
    /// All namespaces (the default)
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
}

#[derive(Debug, Args)]
pub struct Check {
    /// Check the objects in this directory instead, without an agent
    #[arg(short = 'f', long, value_name = "DIR")]
    pub file: Option<PathBuf>,
    /// The underpass-agent that tries the node's kernel if no agent answers [default: the one beside
    /// this program, else in PATH]
    #[arg(long, value_name = "PATH", conflicts_with = "file")]
    pub agent: Option<PathBuf>,
    #[command(flatten)]
    pub output: Output,
    #[command(flatten)]
    pub api: Api,
}

#[derive(Debug, Args)]
pub struct Status {
    #[command(flatten)]
    pub output: Output,
    #[command(flatten)]
    pub api: Api,
}

#[derive(Debug, Args)]
pub struct Conns {
    /// Source: namespace/name, namespace/, name, host, outside, or an address
    #[arg(
        long,
        value_name = "PEER",
        default_value = "",
        hide_default_value = true
    )]
    pub from: String,
    /// Destination, written like --from
    #[arg(
        long,
        value_name = "PEER",
        default_value = "",
        hide_default_value = true
    )]
    pub to: String,
    /// Service: namespace/name or name, with :PORT if only one port is meant
    #[arg(
        long,
        value_name = "SERVICE",
        default_value = "",
        hide_default_value = true
    )]
    pub service: String,
    /// allowed, denied, audited or refused
    #[arg(
        long,
        value_name = "VERDICT",
        default_value = "",
        hide_default_value = true
    )]
    pub verdict: String,
    /// opening, established, closing, closed, failed or refused
    #[arg(
        long,
        value_name = "STATE",
        default_value = "",
        hide_default_value = true
    )]
    pub state: String,
    #[command(flatten)]
    pub namespace: Namespace,
    /// At most this many rows, the newest [default: the agent's, 10000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "watch")]
    pub limit: Option<u32>,
    /// Go on: print each row again when it changes (json: one object per line)
    #[arg(short, long)]
    pub watch: bool,
    #[command(flatten)]
    pub rows: Rows,
    #[command(flatten)]
    pub api: Api,
}

#[derive(Debug, Args)]
pub struct Stat {
    /// Only this service: namespace/name or name, with :PORT if only one port is meant
    #[arg(
        long,
        value_name = "SERVICE",
        default_value = "",
        hide_default_value = true
    )]
    pub service: String,
    #[command(flatten)]
    pub namespace: Namespace,
    /// Refresh every two seconds (json: one object per line)
    #[arg(short, long)]
    pub watch: bool,
    #[command(flatten)]
    pub rows: Rows,
    #[command(flatten)]
    pub api: Api,
}

#[derive(Debug, Args)]
pub struct Explain {
    /// namespace/name, name, host, or an address (of a workload or of anybody)
    #[arg(value_name = "SRC")]
    pub source: String,
    /// A service or workload (namespace/name or name) or an address, with its port: shop/ledger:8080,
    /// 10.0.0.7:53/udp, [fd00::7]:80
    #[arg(value_name = "DST:PORT[/tcp|udp]")]
    pub destination: String,
    #[command(flatten)]
    pub output: Output,
    #[command(flatten)]
    pub api: Api,
}

#[derive(Debug, Args)]
pub struct Bench {
    /// The service (namespace/name or name) or the address that is dialed, with its port
    #[arg(value_name = "SERVICE:PORT")]
    pub service: String,
    /// What is spoken
    #[arg(long, value_enum, default_value = "http1")]
    pub protocol: Talk,
    /// Path of each request; of a gRPC call /package.Service/Method, whose request is empty [default: /, or
    /// /grpc.health.v1.Health/Check]
    #[arg(long = "path", value_name = "PATH")]
    pub asked: Option<String>,
    /// Name of the host in each request [default: the service's]
    #[arg(long, value_name = "AUTHORITY")]
    pub host: Option<String>,
    /// Requests under way
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub concurrency: u32,
    /// Open loop: so many requests in a second, whether they are answered or not [default: closed loop]
    #[arg(long, value_name = "RPS", value_parser = clap::value_parser!(u32).range(1..=200_000))]
    pub rate: Option<u32>,
    /// Seconds of each run
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    pub seconds: f64,
    /// Rounds that are kept; one more warms up
    #[arg(long, value_name = "N", default_value_t = 9)]
    pub rounds: usize,
    /// One round of 0.2 seconds, whose figures mean nothing
    #[arg(long, conflicts_with_all = ["rounds", "seconds"])]
    pub quick: bool,
    /// Namespace and service account of the client inside [default: the service's namespace, and its
    /// account `default`]
    #[arg(long = "as", value_name = "NAMESPACE/ACCOUNT")]
    pub identity: Option<String>,
    /// The clients have no network namespaces of their own: they reach what this machine reaches, and no
    /// HTTP worker serves them
    #[arg(long)]
    pub shared: bool,
    /// Directory of manifests, for the client inside [default: what the agent says]
    #[arg(long, value_name = "DIR")]
    pub mesh: Option<PathBuf>,
    /// Writes the rows and the environment
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Writes a page that needs nothing else
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    #[command(flatten)]
    pub api: Api,
}

#[derive(Debug, Args)]
pub struct Codes {
    /// UP0101, 101 or POLICY_DENIED; without it all codes are listed
    pub code: Option<String>,
    #[command(flatten)]
    pub rows: Rows,
}

#[cfg(test)]
mod tests;
