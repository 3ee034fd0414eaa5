//! The node's own addresses.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Addresses of the agent's network namespace, without loopback, in order.
pub fn addresses() -> Vec<IpAddr> {
    let v4 = fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let v6 = fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    let all = local_v4(&v4).into_iter().map(IpAddr::V4);
    let all: BTreeSet<IpAddr> = all
        .chain(local_v6(&v6).into_iter().map(IpAddr::V6))
        .collect();
    all.into_iter().filter(|ip| !ip.is_loopback()).collect()
}

/// Leaves of the routing trie (`|-- 10.0.0.1`) that are followed by `/32 host LOCAL`.
fn local_v4(trie: &str) -> Vec<Ipv4Addr> {
    let mut leaf = None;
    let mut out = Vec::new();
    for line in trie.lines() {
        if let Some((_, address)) = line.split_once("|-- ") {
            leaf = address.trim().parse().ok();
        } else if line.trim() == "/32 host LOCAL"
            && let Some(address) = leaf
        {
            out.push(address);
        }
    }
    out
}

/// `fe800000000000000000000000000001 02 40 20 80 eth0`
fn local_v6(table: &str) -> Vec<Ipv6Addr> {
    let address = |line: &str| u128::from_str_radix(line.split_whitespace().next()?, 16).ok();
    table
        .lines()
        .filter_map(address)
        .map(Ipv6Addr::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_tables() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.0.0\n        /24 link UNICAST\n     \
                    |-- 10.0.0.7\n        /32 host LOCAL\n     |-- 10.0.0.255\n        /32 link BROADCAST\n";
        assert_eq!(local_v4(trie), [Ipv4Addr::new(10, 0, 0, 7)]);
        let table = "00000000000000000000000000000001 01 80 10 80       lo\n\
                     fd000000000000000000000000000002 02 40 00 80     eth0\n";
        assert_eq!(
            local_v6(table),
            [Ipv6Addr::LOCALHOST, "fd00::2".parse().unwrap()]
        );
    }

    #[test]
    fn agrees_with_this_machine() {
        // Whatever the machine has, the loopback is local and not the node's own.
        let trie = fs::read_to_string("/proc/net/fib_trie").unwrap();
        assert!(local_v4(&trie).contains(&Ipv4Addr::LOCALHOST));
        assert!(!addresses().contains(&IpAddr::V4(Ipv4Addr::LOCALHOST)));
    }
}
