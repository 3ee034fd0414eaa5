//! Network namespaces by the `ip` command: the node with a bridge, pods on the bridge, and one
//! host outside, routed through the node.

use std::{
    fs::{self, File},
    io::Write,
    net::{Ipv4Addr, Ipv6Addr},
    process::{Command, Stdio},
};

use super::{Failure, Result, cgroup, place::Place};

pub const BPFFS: &str = "/sys/fs/bpf";

/// The node's address on the bridge.
pub const NODE_V4: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 1);

/// Mounts bpffs where it is missing. One at a time: a second mount would hide the first one's pins.
pub fn mount_bpffs() -> Result<()> {
    let lock = File::create(std::env::temp_dir().join("underpass-lab.lock"))?;
    lock.lock()?;
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    if cgroup::mount_point(&table, "bpf").is_some_and(|at| at.as_os_str() == BPFFS) {
        return Ok(());
    }
    let status = Command::new("mount")
        .args(["-t", "bpf", "bpf", BPFFS])
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err(Failure(format!("mount of bpffs on {BPFFS}: {status}")))
    }
}

pub fn make_node(node: &str) -> Result<()> {
    ip(&["netns", "add", node], "")?;
    // A bridge without an address of its own takes one of its ports', and another when that pod ends, which
    // the other pods learn late.
    ip(
        &["-n", node, "-batch", "-"],
        "link set lo up\n\
         link add br0 address 02:00:00:00:00:01 type bridge\n\
         link set br0 up\n\
         addr add 10.42.0.1/16 dev br0\n\
         addr add fd00:42::1/64 dev br0 nodad\n",
    )?;
    for file in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        sysctl(node, file, "1")?;
    }
    Ok(())
}

pub fn make_pod(node: &str, pod: &str, index: u32) -> Result<(Ipv4Addr, Ipv6Addr)> {
    let low = u8::try_from(index).map_err(|_| Failure::new("a lab has at most 255 pods"))?;
    let v4 = Ipv4Addr::new(10, 42, 1, low);
    let v6 = Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 1, low.into());
    ip(&["netns", "add", pod], "")?;
    ip(
        &["-n", node, "-batch", "-"],
        &format!(
            "link add p{index} type veth peer name eth0 netns {pod}\n\
             link set p{index} master br0\n\
             link set p{index} up\n"
        ),
    )?;
    ip(
        &["-n", pod, "-batch", "-"],
        &format!(
            "link set lo up\n\
             link set eth0 up\n\
             addr add {v4}/16 dev eth0\n\
             addr add {v6}/64 dev eth0 nodad\n\
             route add default via 10.42.0.1\n\
             route add default via fd00:42::1\n"
        ),
    )?;
    Ok((v4, v6))
}

pub fn make_outside(node: &str, outside: &str) -> Result<(Ipv4Addr, Ipv6Addr)> {
    ip(&["netns", "add", outside], "")?;
    ip(
        &["-n", node, "-batch", "-"],
        &format!(
            "link add uplink type veth peer name eth0 netns {outside}\n\
             link set uplink up\n\
             addr add 192.0.2.1/24 dev uplink\n\
             addr add 2001:db8::1/64 dev uplink nodad\n"
        ),
    )?;
    ip(
        &["-n", outside, "-batch", "-"],
        "link set lo up\n\
         link set eth0 up\n\
         addr add 192.0.2.2/24 dev eth0\n\
         addr add 192.0.2.3/24 dev eth0\n\
         addr add 2001:db8::2/64 dev eth0 nodad\n\
         route add 10.42.0.0/16 via 192.0.2.1\n\
         route add fd00:42::/64 via 2001:db8::1\n",
    )?;
    Ok((
        Ipv4Addr::new(192, 0, 2, 2),
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2),
    ))
}

/// Writes `/proc/sys/net/<file>` as seen in a namespace.
pub fn sysctl(netns: &str, file: &str, value: &str) -> Result<()> {
    let script = format!("echo {value} > /proc/sys/net/{file}");
    let place = Place {
        cgroup: cgroup::root()?,
        netns: netns.to_owned(),
    };
    let status = place.command(&["sh", "-c", &script])?.status()?;
    if status.success() {
        Ok(())
    } else {
        Err(Failure(format!("{file} in {netns}: {status}")))
    }
}

pub fn delete(netns: &str) -> Result<()> {
    ip(&["netns", "del", netns], "")
}

/// Runs `ip`; `batch` goes to its standard input.
pub fn ip(args: &[&str], batch: &str) -> Result<()> {
    let mut child = Command::new("ip")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(Failure::at("ip (package iproute2)"))?;
    // `ip` may have failed before it read anything; its own message is the better one.
    let _ = child
        .stdin
        .take()
        .expect("piped above")
        .write_all(batch.as_bytes());
    let done = child.wait_with_output()?;
    if done.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&done.stderr);
    Err(Failure(format!("ip {}: {}", args.join(" "), why.trim())))
}
