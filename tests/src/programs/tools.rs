//! Programs by name: unpacked ones, those of this workspace, and toolchains of the machine.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use crate::{Failure, Result, lab::place, packages};

/// Below the prefix of packages.
const PACKAGED: [&str; 3] = ["usr/bin", "usr/sbin", "usr/lib/postgresql/15/bin"];
/// Where Go's own installer puts it, which is in no PATH by itself.
const GO: &str = "/usr/local/go/bin";

/// Where a program is: packages first, so that versions are the same everywhere.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = path().unwrap_or_default();
    env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|p| p.is_file())
}

/// `PATH` with the packages in front.
pub fn path() -> Result<String> {
    let prefix = packages::prefix()?;
    let mut dirs: Vec<PathBuf> = PACKAGED.iter().map(|dir| prefix.join(dir)).collect();
    dirs.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    dirs.push(GO.into());
    let path = env::join_paths(dirs).map_err(Failure::at("PATH"))?;
    Ok(path.to_string_lossy().into_owned())
}

/// A command whose program is found, with the libraries of packages where it needs them. A program
/// with a slash or of this workspace is left as it is.
pub fn resolve(command: &[&str]) -> Result<Vec<String>> {
    let (name, args) = command
        .split_first()
        .ok_or_else(|| Failure::new("empty command"))?;
    let mut all = Vec::new();
    // The shell runs packaged programs.
    let (name, args) = match (*name, args.split_first()) {
        ("packaged", Some((name, args))) => {
            all.extend(packages::with_libraries()?);
            (name, args)
        }
        _ => (name, args),
    };
    if name.contains('/') || name.starts_with("underpass-") {
        all.push((*name).to_owned());
    } else {
        let path = find(name).ok_or_else(|| Failure(format!("{name} is not here")))?;
        if path.starts_with(packages::prefix()?) {
            all.extend(packages::with_libraries()?);
        }
        all.push(path.to_string_lossy().into_owned());
    }
    all.extend(args.iter().map(|a| (*a).to_owned()));
    Ok(all)
}

/// A source file of `tests/programs`.
pub fn source(name: &str) -> String {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs");
    dir.join(name).to_string_lossy().into_owned()
}

/// Where programs are built: beside this program, so that the next run finds them.
pub fn built() -> Result<PathBuf> {
    let beside = place::binary("underpass-programs")?;
    let dir = beside.with_file_name("programs");
    fs::create_dir_all(&dir).map_err(Failure::at(dir.display()))?;
    Ok(dir)
}

/// True if what was built is newer than its source.
pub fn is_fresh(built: &str, source: &str) -> bool {
    let of = |path| fs::metadata(path).and_then(|m| m.modified());
    matches!((of(built), of(source)), (Ok(built), Ok(source)) if built > source)
}
