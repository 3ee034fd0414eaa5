//! The command line of `underpass-agent`.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Parser, ValueEnum};
use underpass_abi::shortcut::{Mode, learn};

use crate::kernel::KernelOptions;

/// Underpass's node agent: loads the mesh into this machine's kernel and keeps it up to date.
///
/// Exit codes: 0 stopped, uninstalled or checked, 1 failed (the message starts with a code, see
/// docs/reference/codes.md) or --check found an error, 2 bad usage.
#[derive(Clone, Debug, Parser)]
#[command(name = "underpass-agent", version)]
pub struct Options {
    /// Directory of Kubernetes manifests (*.yaml, *.yml, *.json) that describe the mesh
    #[arg(long, value_name = "DIR", required_unless_present_any = ["uninstall", "check"])]
    pub mesh: Option<PathBuf>,

    /// This node's name, as in the manifests' `nodeName` [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,

    /// The cgroup2 directory to attach to [default: the cgroup2 mount in /proc/self/mountinfo]
    #[arg(long, value_name = "DIR")]
    pub cgroup_root: Option<PathBuf>,

    /// Directory on a bpffs for maps and links; mounted if missing
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/underpass")]
    pub pin_dir: PathBuf,

    /// Directory that keeps the last good version of each manifest
    #[arg(long, value_name = "DIR", default_value = "/run/underpass")]
    pub state_dir: PathBuf,

    /// Unix socket of the node API
    #[arg(long, value_name = "PATH", default_value = underpass_api::DEFAULT_SOCKET)]
    pub api: PathBuf,

    /// Where /metrics, /healthz and /readyz are served
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:9464")]
    pub metrics: SocketAddr,

    /// Control socket of the vendor, which starts HTTP workers; where none answers, connections stay in
    /// the kernel and `status` says why
    #[arg(long, value_name = "PATH", default_value = underpass_api::vend::DEFAULT_CONTROL)]
    pub vend: PathBuf,

    /// What holds for a meshed workload that no policy selects
    #[arg(long, value_enum, value_name = "POLICY", default_value = "allow")]
    pub default_policy: DefaultPolicy,

    /// Sockets of this node's own connections past TCP: off, auto (programs on the tested list), or on
    /// (all meshed workloads whose sockets are non-blocking); `underpass.dev/shortcut` on a namespace,
    /// Pod or Workload overrides auto and on
    #[arg(long, value_enum, value_name = "MODE", default_value = "off")]
    pub shortcut: Shortcut,

    /// How long new connections between two workloads stay on TCP after earlier ones turned out to cost
    /// more past it (streams of small writes, readers that fall behind, 8 short connections in a row); 0:
    /// all are tried
    #[arg(long, value_name = "SECONDS", default_value_t = learn::KEEP_OUT as u32)]
    pub shortcut_keep_out: u32,

    /// The shortcut also on kernels that are refused by their number, if they pass the self-test: for
    /// tests of such kernels
    #[arg(long, hide = true)]
    pub shortcut_any_level: bool,

    /// Form of the log, and of what --check finds, on standard output
    #[arg(long, value_enum, value_name = "FORM", default_value = "text")]
    pub log: LogForm,

    /// Leave established connections alone when a policy change denies them
    #[arg(long)]
    pub keep_denied_connections: bool,

    /// Do not mount a bpffs if --pin-dir is not on one
    #[arg(long)]
    pub no_mount: bool,

    /// Try what an agent with these flags would meet on this node, say what was found, and exit:
    /// kernel, mounts, capabilities, each program, conflicts. Leaves nothing behind
    #[arg(long, conflicts_with = "uninstall")]
    pub check: bool,

    /// Remove every program and map of the mesh from this node, say what was removed, and exit
    #[arg(long)]
    pub uninstall: bool,

    /// With --uninstall: seconds to wait at most for connections that took the shortcut to close, after
    /// redirection was ended. Those that stay open go on by TCP
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(..=86_400))]
    pub drain: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DefaultPolicy {
    Allow,
    Deny,
    Audit,
}

impl DefaultPolicy {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Audit => "audit",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shortcut {
    Off,
    Auto,
    On,
}

impl Shortcut {
    pub const fn mode(self) -> Mode {
        match self {
            Self::Off => Mode::Off,
            Self::Auto => Mode::Auto,
            Self::On => Mode::On,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogForm {
    Text,
    Json,
}

impl Options {
    pub fn kernel(&self) -> KernelOptions {
        KernelOptions {
            pin_dir: self.pin_dir.clone(),
            cgroup_root: self.cgroup_root.clone(),
            mount_bpffs: !self.no_mount,
            shortcut: self.shortcut.mode(),
            shortcut_keep_out: self.shortcut_keep_out,
            shortcut_any_level: self.shortcut_any_level,
            ..KernelOptions::default()
        }
    }

    /// `--node`, or the host name.
    pub fn node_name(&self) -> String {
        self.node.clone().unwrap_or_else(|| {
            rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_a_directory_unless_it_uninstalls_or_checks() {
        assert!(Options::try_parse_from(["underpass-agent"]).is_err());
        let options = Options::try_parse_from(["underpass-agent", "--uninstall"]).unwrap();
        assert_eq!(options.pin_dir, PathBuf::from("/sys/fs/bpf/underpass"));
        assert!(!options.node_name().is_empty());
        assert!(Options::try_parse_from(["underpass-agent", "--check"]).is_ok());
        assert!(Options::try_parse_from(["underpass-agent", "--check", "--uninstall"]).is_err());
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        let parse = |extra: [&str; 2]| {
            Options::try_parse_from(["underpass-agent", "--mesh", "."].iter().chain(&extra))
        };
        assert_eq!(
            parse(["--default-policy", "audit"])
                .unwrap()
                .default_policy
                .name(),
            "audit"
        );
        assert!(parse(["--default-policy", "maybe"]).is_err());
        assert!(parse(["--metrics", "nowhere"]).is_err());
        assert!(parse(["--log", "xml"]).is_err());
    }
}
