//! The rules that lead a namespace's TCP connections to its sidecar, as Linkerd and Istio have them: what
//! goes out and is not the sidecar's own, and what comes in.

use std::{
    io::{self, Write as _},
    process::{Command, Stdio},
};

use underpass_mesh::door;

/// The table of nftables that holds all of it.
pub const TABLE: &str = "inet underpass_sidecar";

/// What `nft -f` takes; `uid` is the sidecar's. Installed again it takes the place of what was there.
pub fn rules(uid: u32) -> String {
    let (outbound, inbound) = (door::OUTBOUND, door::INBOUND);
    format!(
        "table {TABLE} {{}}\n\
         delete table {TABLE}\n\
         table {TABLE} {{\n\
         \tchain output {{\n\
         \t\ttype nat hook output priority -100; policy accept;\n\
         \t\tmeta skuid {uid} return\n\
         \t\toifname \"lo\" return\n\
         \t\tmeta l4proto tcp redirect to :{outbound}\n\
         \t}}\n\
         \tchain prerouting {{\n\
         \t\ttype nat hook prerouting priority -100; policy accept;\n\
         \t\tiifname \"lo\" return\n\
         \t\tmeta l4proto tcp redirect to :{inbound}\n\
         \t}}\n\
         }}\n"
    )
}

/// What `nft -f` takes to remove them, whether they are there or not.
pub fn removal() -> String {
    format!("table {TABLE} {{}}\ndelete table {TABLE}\n")
}

/// Gives a text to nft, in this process's namespace.
///
/// # Errors
/// If there is no nft, or it refuses.
pub fn run(text: &str) -> io::Result<()> {
    let mut nft = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .spawn()?;
    if let Some(stdin) = &mut nft.stdin {
        stdin.write_all(text.as_bytes())?;
    }
    drop(nft.stdin.take());
    match nft.wait()? {
        status if status.success() => Ok(()),
        status => Err(io::Error::other(format!("nft: {status}"))),
    }
}
