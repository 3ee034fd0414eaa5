//! `setup`: installs what is missing, and says what it does. Idempotent, and fast when done.
//!
//! Only LLVM's packages, QEMU and the rust-src component are installed system-wide; everything else
//! goes to a private prefix outside the clone. Nothing is started.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use crate::{
    Result, envoy,
    flags::{Flags, Verb},
    grpcio,
    process::{self, output, step},
    servers, workspace,
};

pub const VERB: Verb = Verb {
    name: "setup",
    about: "installs what the build, the tests and the demo need",
    flags: &[],
    rest: None,
    run,
};

const LINKER: &str = "0.13.0";
const DENY: &str = "0.20.2";
/// Of the LLVM that bpf-linker is built with; it must read what rustc's LLVM writes.
pub const LLVM: &str = "22";
const MINUTES: fn(u64) -> Duration = |n| Duration::from_secs(60 * n);

fn run(_: &Flags) -> Result<()> {
    let (built, emulator) = (build_tools(), emulator());
    programs()?;
    built?;
    emulator?;
    println!("ready; tools are in {}", workspace::tools().display());
    Ok(())
}

/// What `build-ebpf` needs.
pub fn build_tools() -> Result<()> {
    let _lock = lock()?;
    same_llvm()?;
    rust_src()?;
    bpf_linker()
}

/// Third-party servers, and gRPC's; without apt this says what is missing and goes on.
pub fn servers() -> Result<()> {
    let _lock = lock()?;
    grpcio::unpack(&workspace::tools().join("grpcio"));
    servers::unpack(&workspace::tools().join("debs-prefix"), servers::SERVERS)
}

/// The same with what `bench shortcut` needs beside them.
pub fn databases() -> Result<()> {
    servers()?;
    let _lock = lock()?;
    servers::unpack(&workspace::tools().join("debs-prefix"), servers::POSTGRES)
}

/// The same with what `bench` compares the mesh with.
pub fn peers() -> Result<()> {
    servers()?;
    let _lock = lock()?;
    let tools = workspace::tools();
    servers::unpack(&tools.join("debs-prefix"), servers::PEERS)?;
    envoy::unpack(&tools.join("envoy"));
    Ok(())
}

/// The same with what `test --programs` needs beside them.
pub fn programs() -> Result<()> {
    databases()?;
    peers()?;
    let _lock = lock()?;
    servers::unpack(&workspace::tools().join("debs-prefix"), servers::MORE)
}

/// QEMU, for `vm`.
pub fn emulator() -> Result<()> {
    let _lock = lock()?;
    if output("qemu-system-x86_64", &["--version"]).is_some() {
        return Ok(());
    }
    println!("QEMU is missing; installing it with apt-get");
    apt_install(&["qemu-system-x86"])
}

/// cargo-deny, for `test`.
pub fn cargo_deny() -> Result<PathBuf> {
    let _lock = lock()?;
    let binary = workspace::tools().join("bin/cargo-deny");
    if !installed(&format!("cargo-deny {DENY}"), "") {
        println!(
            "cargo-deny {DENY} is not in {}; building it",
            workspace::tools().display()
        );
        install(&["cargo-deny", "--version", &format!("={DENY}")], |_| ())?;
    }
    Ok(binary)
}

/// The compiler and the linker exchange LLVM bitcode, which only fits within one major version;
/// the linker's own message for a mismatch is "Invalid record".
fn same_llvm() -> Result<()> {
    let version = output("rustc", &["-vV"]).ok_or("rustc does not run: is rustup installed?")?;
    let llvm = version
        .lines()
        .find_map(|l| l.strip_prefix("LLVM version: "))
        .unwrap_or("?");
    if llvm.split('.').next() == Some(LLVM) {
        return Ok(());
    }
    let rustc = version.lines().next().unwrap_or_default();
    Err(format!(
        "{rustc} uses LLVM {llvm}, but bpf-linker is built with LLVM {LLVM}. \
         Try: the toolchain that rust-toolchain.toml pins"
    ))
}

fn rust_src() -> Result<()> {
    let sysroot = output("rustc", &["--print", "sysroot"]).unwrap_or_default();
    if Path::new(sysroot.trim())
        .join("lib/rustlib/src/rust/library/core")
        .exists()
    {
        return Ok(());
    }
    println!("the standard library's source (rust-src) is missing; adding it with rustup");
    let mut rustup = Command::new("rustup");
    rustup
        .args(["component", "add", "rust-src"])
        .current_dir(workspace::root());
    step("rust-src", &mut rustup, MINUTES(5))
}

fn bpf_linker() -> Result<()> {
    let present = installed(&format!("bpf-linker {LINKER}"), &format!("llvm-{LLVM}"));
    if present && linker_runs() {
        return Ok(());
    }
    let llvm = PathBuf::from(format!("/usr/lib/llvm-{LLVM}"));
    if !llvm.join("bin/llvm-config").exists() {
        println!("LLVM {LLVM} is missing; installing its development packages with apt-get");
        apt_install(&[
            &format!("llvm-{LLVM}-dev"),
            &format!("libpolly-{LLVM}-dev"),
            "libzstd-dev",
        ])?;
        if present && linker_runs() {
            return Ok(());
        }
    }
    println!("bpf-linker {LINKER} for LLVM {LLVM} is missing; building it (about a minute)");
    let feature = format!("llvm-{LLVM}");
    let version = format!("={LINKER}");
    let args = [
        "bpf-linker",
        "--version",
        &version,
        "--no-default-features",
        "--features",
        &feature,
    ];
    install(&args, |cargo| {
        // Without both the link ends in "unable to find library -lLLVM".
        cargo
            .env("LLVM_PREFIX", &llvm)
            .env("PATH", workspace::path_with(&[&llvm.join("bin")]));
    })?;
    if linker_runs() {
        Ok(())
    } else {
        Err("bpf-linker was built but does not run".to_owned())
    }
}

fn linker_runs() -> bool {
    let linker = workspace::tools().join("bin/bpf-linker");
    output(&linker.to_string_lossy(), &["--version"]).is_some_and(|v| v.contains(LINKER))
}

/// True if cargo noted this package in the prefix, built with `feature`.
fn installed(package: &str, feature: &str) -> bool {
    let noted = fs::read_to_string(workspace::tools().join(".crates2.json")).unwrap_or_default();
    let Some((_, entry)) = noted.split_once(&format!("\"{package} ")) else {
        return false;
    };
    entry.split('}').next().is_some_and(|e| e.contains(feature))
}

fn install(args: &[&str], prepare: impl FnOnce(&mut Command)) -> Result<()> {
    let tools = workspace::tools();
    let build = tools.join("build");
    let mut cargo = process::cargo(&["install", "--locked", "--force"]);
    cargo
        .args(args)
        .arg("--root")
        .arg(&tools)
        .arg("--target-dir")
        .arg(&build);
    prepare(&mut cargo);
    let result = step(
        &format!("cargo install {}", args[0]),
        &mut cargo,
        MINUTES(20),
    );
    let _ = fs::remove_dir_all(&build);
    result
}

/// Installs packages, after `apt-get update` only if the lists at hand do not do.
pub fn apt_install(packages: &[&str]) -> Result<()> {
    let wanted = packages.join(" ");
    let by_hand = format!("Try: as root, apt-get install {wanted}");
    if output("apt-get", &["--version"]).is_none() {
        return Err(format!("there is no apt-get; these are missing: {wanted}"));
    }
    if output("id", &["-u"]).is_none_or(|id| id.trim() != "0") {
        return Err(format!(
            "not root, so packages cannot be installed. {by_hand}"
        ));
    }
    let install = || {
        let mut apt = apt(&["install", "--yes", "--no-install-recommends"]);
        apt.args(packages);
        step(&format!("apt-get install {wanted}"), &mut apt, MINUTES(10))
    };
    install()
        .or_else(|_| apt_update().and_then(|()| install()))
        .map_err(|e| format!("{e}. {by_hand}"))
}

pub fn apt_update() -> Result<()> {
    step("apt-get update", &mut apt(&["update"]), MINUTES(5))
}

fn apt(args: &[&str]) -> Command {
    let mut apt = Command::new("apt-get");
    apt.arg("--quiet")
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdout(Stdio::null());
    apt
}

/// Two runs at once would write one prefix.
fn lock() -> Result<File> {
    let tools = workspace::tools();
    let path = tools.join(".lock");
    fs::create_dir_all(&tools)
        .and_then(|()| File::create(&path))
        .and_then(|file| {
            if file.try_lock().is_err() {
                println!("waiting for another setup to end");
                file.lock()?;
            }
            Ok(file)
        })
        .map_err(|e| format!("{}: {e}", path.display()))
}
