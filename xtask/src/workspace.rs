//! Where things are: the clone, cargo's target directory, the private tools prefix.

use std::{
    env,
    path::{Path, PathBuf},
};

/// Root of the clone.
pub fn root() -> PathBuf {
    // Set by `cargo run`; the compiled-in value is for calling the binary by hand.
    let xtask = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    xtask
        .parent()
        .expect("xtask/ lies in the clone")
        .to_path_buf()
}

/// Cargo's target directory.
pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// The BPF object, where the agent's build script and the tests look for it.
pub fn object() -> PathBuf {
    target().join("bpf/underpass.o")
}

/// Private prefix for build tools and third-party servers; survives `cargo clean` and the clone.
pub fn tools() -> PathBuf {
    if let Some(dir) = env::var_os("UNDERPASS_TOOLS") {
        return root().join(dir);
    }
    let cache = env::var_os("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache"),
        PathBuf::from,
    );
    cache.join("underpass/tools")
}

/// `PATH` with `first` in front.
pub fn path_with(first: &[&Path]) -> std::ffi::OsString {
    let old = env::var_os("PATH").unwrap_or_default();
    let all = first
        .iter()
        .map(|p| p.to_path_buf())
        .chain(env::split_paths(&old));
    env::join_paths(all).expect("paths of this project hold no colon")
}
