//! gRPC's own client and server, as its Python package, unpacked into the private prefix.

use std::{fs, path::Path, process::Command, time::Duration};

use crate::process::{output, step};

const VERSION: &str = "1.85.1";

/// Unpacks it if it is missing. A machine where it cannot be had is told so; the tests that need it then fail
/// and say so themselves.
pub fn unpack(dir: &Path) {
    let said = format!(
        "import sys; sys.path.insert(0, {:?}); import grpc; print(grpc.__version__)",
        dir.to_string_lossy()
    );
    if output("python3", &["-c", &said]).is_some_and(|said| said.contains(VERSION)) {
        return;
    }
    println!(
        "missing: grpcio {VERSION}; unpacking it into {}",
        dir.display()
    );
    if dir.exists() {
        let _ = fs::remove_dir_all(dir);
    }
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet"])
        .args(["--disable-pip-version-check", "--root-user-action=ignore"])
        .args(["--no-compile", "--only-binary=:all:", "--target"])
        .arg(dir)
        .arg(format!("grpcio=={VERSION}"));
    if let Err(why) = step("pip install grpcio", &mut pip, Duration::from_secs(300)) {
        println!("{why}");
    }
}
