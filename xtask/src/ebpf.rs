//! `build-ebpf`: one object for all programs.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{
    Result,
    flags::{Flag, Flags, Verb},
    process, setup, workspace,
};

pub const VERB: Verb = Verb {
    name: "build-ebpf",
    about: "builds the BPF programs into target/bpf/underpass.o",
    flags: &[
        Flag {
            name: "--out",
            value: Some("PATH"),
            help: "write the object here instead",
        },
        Flag {
            name: "--features",
            value: Some("LIST"),
            help: "features of the ebpf crate",
        },
    ],
    rest: None,
    run,
};

fn run(flags: &Flags) -> Result<()> {
    setup::build_tools()?;
    let out = flags.get("--out").map_or_else(workspace::object, |out| {
        env::current_dir()
            .unwrap_or_else(|_| workspace::root())
            .join(out)
    });
    build(&out, flags.get("--features"))
}

/// The default object.
pub fn build_default() -> Result<()> {
    build(&workspace::object(), None)
}

/// A changed object beside it, for the upgrade test.
pub fn build_second() -> Result<()> {
    build(
        &workspace::object().with_file_name("second-build.o"),
        Some("second-build"),
    )
}

fn build(out: &Path, features: Option<&str>) -> Result<()> {
    let target = workspace::target().join("bpf-build");
    let target_text = target.to_string_lossy();
    let mut args = vec![
        "build",
        "--package",
        "underpass-ebpf",
        "--bins",
        "--release",
        "--target",
        "bpfel-unknown-none",
        "-Z",
        "build-std=core",
        "--target-dir",
        &target_text,
    ];
    args.extend(features.into_iter().flat_map(|f| ["--features", f]));
    let flags = [
        &format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH),
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
        "-Ctarget-cpu=v3",
    ]
    .join("\x1f");
    let mut cargo = process::cargo(&args);
    cargo
        .env(
            "PATH",
            workspace::path_with(&[&workspace::tools().join("bin")]),
        )
        // Only for this child: crates that probe for nightly features change behavior under it.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags);
    process::step("BPF object", &mut cargo, Duration::from_secs(600))?;
    let built = target.join("bpfel-unknown-none/release/underpass");
    let stripped = strip(&built)?;
    let changed = copy_if_changed(&stripped, out)?;
    let size = fs::metadata(out).map_or(0, |m| m.len());
    let state = if changed { "new" } else { "unchanged" };
    println!("{} ({} KiB, {state})", out.display(), size / 1024);
    Ok(())
}

/// The object without DWARF: four fifths of it, read by nobody once BTF is made from it, and carried
/// by every agent in its memory.
fn strip(built: &Path) -> Result<PathBuf> {
    let tool = PathBuf::from(format!("/usr/lib/llvm-{}/bin/llvm-strip", setup::LLVM));
    if !tool.exists() {
        println!("{} is missing: the object keeps its DWARF", tool.display());
        return Ok(built.to_owned());
    }
    let stripped = built.with_extension("stripped");
    let mut command = Command::new(tool);
    command
        .arg("--strip-debug")
        .arg("-o")
        .arg(&stripped)
        .arg(built);
    process::step(
        "BPF object without DWARF",
        &mut command,
        Duration::from_secs(60),
    )?;
    Ok(stripped)
}

/// An untouched file keeps what embeds it from being built again.
fn copy_if_changed(from: &Path, to: &Path) -> Result<bool> {
    let new = fs::read(from).map_err(|e| format!("{}: {e}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(false);
    }
    let dir = to.parent().map_or_else(PathBuf::new, Path::to_path_buf);
    let partial = to.with_extension("partial");
    fs::create_dir_all(&dir)
        .and_then(|()| fs::write(&partial, new))
        .and_then(|()| fs::rename(&partial, to))
        .map_err(|e| format!("{}: {e}", to.display()))?;
    Ok(true)
}
