//! The network namespaces of a lab.

use std::{
    io::Write as _,
    net::Ipv4Addr,
    process::{Command, Stdio},
};

use super::{CLIENT, Lab, POD_BASE, STRANGER, Side, Wire};
use crate::{BenchError, Context as _, Result};

/// TIME_WAIT sockets of a namespace at most. A growing table would slow each connect a little more
/// than the one before it, and the later side of a round with it.
const TIME_WAITS: u32 = 4096;

/// Those of one side.
pub fn make(lab: &Lab, side: Side) -> Result<()> {
    let server = lab.server_netns(side);
    ip(&["netns", "add", &server], "")?;
    // On loopback devices the whole range of an address is local.
    let own = format!("link set lo up\naddr add {POD_BASE}/16 dev lo\n");
    ip(&["-n", &server, "-batch", "-"], &own)?;
    limit_time_waits(&server)?;
    if lab.wire == Wire::Loopback {
        return Ok(());
    }
    join(&server, "eth0", &lab.client_netns(side), CLIENT)?;
    join(&server, "eth1", &lab.stranger_netns(side), STRANGER)
}

/// Makes a namespace whose way to the server's addresses, and to those of services, is a veth pair.
fn join(server: &str, device: &str, netns: &str, own: Ipv4Addr) -> Result<()> {
    ip(&["netns", "add", netns], "")?;
    let next = Ipv4Addr::from_bits(own.to_bits() + 1);
    let joined = format!(
        "link add {device} type veth peer name eth0 netns {netns}\n\
         link set {device} up\naddr add {next}/30 dev {device}\n"
    );
    ip(&["-n", server, "-batch", "-"], &joined)?;
    let routes = format!(
        "link set lo up\nlink set eth0 up\naddr add {own}/30 dev eth0\n\
         route add 10.64.0.0/16 via {next}\nroute add 10.96.0.0/16 via {next}\n"
    );
    ip(&["-n", netns, "-batch", "-"], &routes)?;
    limit_time_waits(netns)
}

/// Makes a namespace that is joined to this process's by a veth pair, with this end's name, and whose way to
/// everything it is.
pub fn join_here(device: &str, netns: &str, own: Ipv4Addr) -> Result<()> {
    ip(&["netns", "add", netns], "")?;
    let next = Ipv4Addr::from_bits(own.to_bits() - 1);
    let joined = format!(
        "link add {device} type veth peer name eth0 netns {netns}\n\
         link set {device} up\naddr add {next}/30 dev {device}\n"
    );
    ip(&["-batch", "-"], &joined)?;
    let routes = format!(
        "link set lo up\nlink set eth0 up\naddr add {own}/30 dev eth0\nroute add default via {next}\n"
    );
    ip(&["-n", netns, "-batch", "-"], &routes)?;
    limit_time_waits(netns)
}

fn limit_time_waits(netns: &str) -> Result<()> {
    let script = format!("echo {TIME_WAITS} > /proc/sys/net/ipv4/tcp_max_tw_buckets");
    ip(&["netns", "exec", netns, "sh", "-c", &script], "")
}

/// Runs `ip`; `batch` goes to its standard input.
pub fn ip(args: &[&str], batch: &str) -> Result<()> {
    let mut child = Command::new("ip")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("ip (package iproute2)")?;
    // `ip` may have failed before it read anything; its own message is the better one.
    let _ = child
        .stdin
        .take()
        .expect("piped above")
        .write_all(batch.as_bytes());
    let done = child.wait_with_output().context("ip")?;
    if done.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&done.stderr);
    Err(BenchError::Setup(format!(
        "ip {}: {}",
        args.join(" "),
        why.trim()
    )))
}
