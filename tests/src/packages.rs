//! Third-party programs that `cargo xtask setup` unpacked into its private prefix.

use std::path::{Path, PathBuf};

use crate::{Failure, Lab, Result, lab::Place, lab::Proc};

/// Root of the unpacked packages.
pub fn prefix() -> Result<PathBuf> {
    let home = std::env::var_os("HOME").map_or_else(|| "/root".into(), PathBuf::from);
    let tools = std::env::var_os("UNDERPASS_TOOLS")
        .map_or(home.join(".cache/underpass/tools"), PathBuf::from);
    let prefix = tools.join("debs-prefix");
    if prefix.is_dir() {
        return Ok(prefix);
    }
    Err(Failure(format!(
        "{} is missing. Try: cargo xtask setup",
        prefix.display()
    )))
}

/// What to put in front of a packaged program, so that it finds the libraries that were unpacked
/// beside it: `env` becomes the program.
pub fn with_libraries() -> Result<[String; 2]> {
    let root = prefix()?;
    let libraries = format!(
        "LD_LIBRARY_PATH={0}/usr/lib/{1}-linux-gnu:{0}/lib/{1}-linux-gnu",
        root.display(),
        std::env::consts::ARCH,
    );
    Ok(["env".into(), libraries])
}

/// Starts a packaged program.
pub fn run(lab: &Lab, place: &Place, program: &Path, args: &[&str]) -> Result<Proc> {
    let [env, libraries] = with_libraries()?;
    let program = prefix()?.join(program).to_string_lossy().into_owned();
    lab.run(
        place,
        &[&[env.as_str(), &libraries, &program], args].concat(),
    )
}
