//! Programs and toolchains that a scenario needs: a missing one is a failure, unless it is listed.

use std::{collections::BTreeMap, process::Command};

use super::{table::Need, tools};
use crate::{Failure, Result};

pub enum Here {
    /// The versions that are here.
    All(Vec<String>),
    /// Missing, and listed with this reason.
    Skip(String),
    Missing(String),
}

/// `name: reason` lines.
pub fn listed(text: &str) -> Result<BTreeMap<String, String>> {
    let rows = text
        .lines()
        .filter(|l| !l.is_empty() && !l.starts_with('#'));
    rows.map(|l| {
        let (name, reason) = l
            .split_once(": ")
            .ok_or_else(|| Failure(format!("no reason: {l}")))?;
        Ok((name.to_owned(), reason.to_owned()))
    })
    .collect()
}

pub fn check(needs: &[Need], listed: &BTreeMap<String, String>) -> Here {
    let mut versions = Vec::new();
    for need in needs {
        match (version(need), listed.get(need.program)) {
            (Some(text), None) => versions.push(said(need, &text)),
            (Some(_), Some(_)) => {
                return Here::Missing(format!(
                    "{} is listed as missing, but is here",
                    need.program
                ));
            }
            (None, Some(reason)) => return Here::Skip(format!("{}: {reason}", need.program)),
            (None, None) => {
                return Here::Missing(format!(
                    "{} is missing. Try: cargo xtask setup, or its toolchain's own installer",
                    need.program
                ));
            }
        }
    }
    Here::All(versions)
}

/// What the program prints of its version; `None` if it does not start.
fn version(need: &Need) -> Option<String> {
    let command = tools::resolve(&[need.program, need.flag]).ok()?;
    let mut run = Command::new(&command[0]);
    let out = run.args(&command[1..]).output().ok()?;
    // `wrk -v` exits with 1; the loader with 127.
    if out.status.code().is_none_or(|code| code > 125) {
        return None;
    }
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    Some(text + &String::from_utf8_lossy(&out.stderr))
}

fn said(need: &Need, text: &str) -> String {
    if text.contains(need.version) {
        return format!("{} {}", need.program, need.version);
    }
    let first = text.lines().next().unwrap_or_default();
    format!(
        "{} (the table says {}; here: {first})",
        need.program, need.version
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOWHERE: Need = Need {
        program: "no-such-program",
        flag: "-v",
        version: "1",
    };

    #[test]
    fn a_missing_program_fails_unless_it_is_listed() {
        let none = BTreeMap::new();
        assert!(matches!(check(&[NOWHERE], &none), Here::Missing(_)));
        let listed = listed("# why\nno-such-program: not packaged\n").unwrap();
        assert!(matches!(check(&[NOWHERE], &listed), Here::Skip(_)));
        assert!(super::listed("no-such-program\n").is_err());
    }
}
