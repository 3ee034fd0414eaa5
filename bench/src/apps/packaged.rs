//! Programs of the private prefix, which `cargo xtask setup` and `cargo xtask bench` unpack.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use crate::{BenchError, Context as _, Result, lab::Place, party};

const READY_WITHIN: Duration = Duration::from_secs(20);

/// Root of the unpacked packages.
pub fn prefix() -> PathBuf {
    tools().join("debs-prefix")
}

fn tools() -> PathBuf {
    let home = std::env::var_os("HOME").map_or_else(|| "/root".into(), PathBuf::from);
    std::env::var_os("UNDERPASS_TOOLS").map_or(home.join(".cache/underpass/tools"), PathBuf::from)
}

/// `LD_LIBRARY_PATH` of a packaged program.
pub fn libraries(prefix: &Path) -> String {
    let arch = std::env::consts::ARCH;
    let dirs = ["usr/lib", "lib"].map(|dir| prefix.join(dir).join(format!("{arch}-linux-gnu")));
    dirs.map(|dir| dir.display().to_string()).join(":")
}

/// Where a program is; `path` is below the prefix.
pub fn find(path: &str) -> Result<String> {
    here(prefix().join(path))
}

/// Where Envoy is; it comes in a Python package.
pub fn envoy() -> Result<String> {
    here(tools().join("envoy/envoy/_bin/envoy"))
}

fn here(path: PathBuf) -> Result<String> {
    if path.exists() {
        return Ok(path.display().to_string());
    }
    let why = format!(
        "{} is missing; `cargo xtask setup` fetches it",
        path.display()
    );
    Err(BenchError::Setup(why))
}

/// A program in its place. `words`: the program, and what stands before it if another starts it.
pub fn command(words: &[&str], place: &Place) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("own executable")?);
    command
        .arg("exec")
        .args(party::arguments(place))
        .arg("--")
        .args(words)
        .env("LD_LIBRARY_PATH", libraries(&prefix()));
    Ok(command)
}

/// Until it does what `ready` tries.
pub fn wait_ready(name: &str, child: &mut Child, ready: impl Fn() -> bool) -> Result<()> {
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait().context(name)? {
            return Err(BenchError::Setup(format!("{name}: {status}")));
        }
        if ready() {
            return Ok(());
        }
        if begin.elapsed() > READY_WITHIN {
            let why = format!("{name}: not ready within {READY_WITHIN:?}");
            return Err(BenchError::Setup(why));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
