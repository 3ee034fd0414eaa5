//! The command line of `underpass-vend`.

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};

/// Underpass's vendor: starts one worker for each tenant and gives it sockets of the tenant's workloads.
/// It reads no payload.
///
/// Exit codes: 0 stopped or done, 1 failed or refused (the message starts with a code, see
/// docs/reference/codes.md), 2 bad usage.
#[derive(Clone, Debug, Parser)]
#[command(name = "underpass-vend", version)]
pub struct Options {
    /// The worker's program
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/usr/local/bin/underpass-proxy"
    )]
    pub worker: PathBuf,

    /// Directory that keeps the workloads for a restart of the vendor; on a file system that a reboot
    /// empties
    #[arg(long, value_name = "DIR", default_value = "/run/underpass-vend")]
    pub state: PathBuf,

    /// Unix socket (SOCK_SEQPACKET) that takes commands from root
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/run/underpass-vend/control.sock",
        global = true
    )]
    pub control: PathBuf,

    /// The cgroup2 directory below which each tenant gets its own [default: the vendor's own cgroup]
    #[arg(long, value_name = "DIR")]
    pub cgroup: Option<PathBuf>,

    /// First user id of the workers; each tenant gets the next one. The default lies in a range that
    /// systemd and container managers leave free
    #[arg(long, value_name = "UID", default_value_t = 1_900_000_000, value_parser = clap::value_parser!(u32).range(65_536..=4_000_000_000))]
    pub uid_base: u32,

    /// User ids from --uid-base on; they are used again only after all of them
    #[arg(long, value_name = "N", default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(16..=1_000_000))]
    pub uid_count: u32,

    /// Seconds without a connection after which a worker ends; 0: never
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub idle: u32,

    /// Memory of one tenant's worker and of its sockets
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(8..=1_000_000))]
    pub memory_max: u32,

    /// Threads of one tenant's worker and vendor child
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(4..=100_000))]
    pub pids_max: u32,

    /// CPU time of one tenant, in percent of one CPU
    #[arg(long, value_name = "PERCENT", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub cpu_max: u32,

    /// Descriptors of one worker
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(64..=1_000_000))]
    pub nofile: u32,

    /// Milliseconds that workers have to finish when the vendor is stopped
    #[arg(long, value_name = "MS", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(0..=3_600_000))]
    pub drain: u32,

    /// One worker for all tenants: less memory, and nothing between tenants if it is broken into. For
    /// small nodes
    #[arg(long)]
    pub shared: bool,

    /// Go on without this where the kernel lacks it: landlock, seccomp, memory, pids, cpu
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = ["landlock", "seccomp", "memory", "pids", "cpu"])]
    pub allow_missing: Vec<String>,

    /// Give this capability up as well: for the test that each is needed
    #[arg(long, hide = true)]
    pub without: Option<String>,

    #[command(subcommand)]
    pub verb: Option<Verb>,
}

#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Say something to a running vendor
    #[command(subcommand)]
    Ctl(Ctl),
}

#[derive(Clone, Debug, Subcommand)]
pub enum Ctl {
    /// A workload of a tenant, in a network namespace
    Add(Add),
    /// A workload is about to end: its worker finishes what is under way
    Drain { name: String },
    /// A workload has ended: waits until everything of it is closed
    Gone { name: String },
    /// A listener in a workload's namespace; the first connection to it starts the worker
    Listen(Listen),
    /// Start a tenant's worker now
    Start { tenant: String },
    /// One line for each tenant
    Status,
}

#[derive(Clone, Debug, Args)]
pub struct Add {
    /// `name` or `namespace/name`
    pub name: String,
    pub tenant: String,
    /// Such as /run/netns/NAME or /proc/PID/ns/net
    pub netns: PathBuf,
}

#[derive(Clone, Debug, Args)]
pub struct Listen {
    pub name: String,
    pub port: u16,
    /// `::` takes IPv4 too
    #[arg(long, default_value = "::")]
    pub address: IpAddr,
}
