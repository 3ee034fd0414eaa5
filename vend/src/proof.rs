//! What the kernel says of a worker: the vendor does not take its word for it.

use std::{fs, io};

/// Bits beside those of `underpass_api::vend::sandbox`; no flag allows these.
pub const WRONG_USER: u32 = 1 << 8;
pub const HAS_CAPABILITIES: u32 = 1 << 9;
pub const MAY_GAIN: u32 = 1 << 10;
/// As `underpass_api::vend::sandbox` numbers them, which the vendor does not link.
pub const NO_LANDLOCK: u32 = 1;
pub const NO_SECCOMP: u32 = 2;

/// Names of all bits, for messages.
pub const NAMES: [(u32, &str); 5] = [
    (NO_LANDLOCK, "landlock"),
    (NO_SECCOMP, "seccomp"),
    (WRONG_USER, "user id"),
    (HAS_CAPABILITIES, "capabilities"),
    (MAY_GAIN, "no_new_privs"),
];

/// What is missing of a worker's restrictions, as far as it can be seen from outside (landlock cannot).
///
/// # Errors
/// If the process is gone.
pub fn of_process(pid: u32, uid: u32) -> io::Result<u32> {
    fs::read_to_string(format!("/proc/{pid}/status")).map(|text| missing(&text, uid))
}

fn missing(status: &str, uid: u32) -> u32 {
    let words = |name: &str| -> Vec<&str> {
        let line = status.lines().find_map(|l| l.strip_prefix(name));
        line.unwrap_or_default().split_whitespace().collect()
    };
    let uid = uid.to_string();
    let all_mine = |name: &str| words(name) == [uid.as_str(); 4];
    let mut bits = 0;
    if !all_mine("Uid:") || !all_mine("Gid:") || !words("Groups:").is_empty() {
        bits |= WRONG_USER;
    }
    let none = |name: &str| words(name) == ["0000000000000000"];
    let sets = ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"];
    if !sets.into_iter().all(none) {
        bits |= HAS_CAPABILITIES;
    }
    if words("NoNewPrivs:") != ["1"] {
        bits |= MAY_GAIN;
    }
    if words("Seccomp:") != ["2"] {
        bits |= NO_SECCOMP;
    }
    bits
}

/// The names of the bits, for a message.
pub fn names(bits: u32) -> String {
    let set = NAMES.iter().filter(|(bit, _)| bits & bit != 0);
    set.map(|(_, name)| *name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "Name:\tw\nUid:\t7\t7\t7\t7\nGid:\t7\t7\t7\t7\nGroups:\t \n\
        CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n\
        CapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t2\n";

    #[test]
    fn each_restriction_is_looked_at() {
        assert_eq!(missing(GOOD, 7), 0);
        assert_eq!(missing(GOOD, 8), WRONG_USER);
        for (from, to, bit) in [
            ("Groups:\t \n", "Groups:\t4\n", WRONG_USER),
            ("Gid:\t7", "Gid:\t0", WRONG_USER),
            (
                "CapBnd:\t0000000000000000",
                "CapBnd:\t0000000000200000",
                HAS_CAPABILITIES,
            ),
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0", MAY_GAIN),
            ("Seccomp:\t2", "Seccomp:\t0", NO_SECCOMP),
        ] {
            assert_eq!(missing(&GOOD.replace(from, to), 7), bit, "{to}");
        }
        // A table that says nothing proves nothing.
        assert_eq!(
            missing("", 7),
            WRONG_USER | HAS_CAPABILITIES | MAY_GAIN | NO_SECCOMP
        );
    }
}
