//! Copies the BPF object (`cargo xtask build-ebpf`) to where `kernel/object.rs` includes it. Without
//! one the agent still builds; it then refuses to start with NO_OBJECT.

use std::{env, fs, path::PathBuf};

fn main() {
    let object = match env::var_os("UNDERPASS_BPF_OBJECT") {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"))
            .join("../target/bpf/underpass.o"),
    };
    println!("cargo::rerun-if-env-changed=UNDERPASS_BPF_OBJECT");
    println!("cargo::rerun-if-changed={}", object.display());
    let bytes = fs::read(&object).unwrap_or_default();
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    fs::write(out.join("underpass.o"), bytes).expect("OUT_DIR is writable");
}
