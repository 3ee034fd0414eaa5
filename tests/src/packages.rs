//! Third-party programs that `cargo xtask setup` unpacked into its private prefix.

use std::path::{Path, PathBuf};

use underpass_bench::apps::packaged;

use crate::{Failure, Lab, Result, lab::Place, lab::Proc};

/// Root of the unpacked packages.
pub fn prefix() -> Result<PathBuf> {
    let prefix = packaged::prefix();
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
    let libraries = format!("LD_LIBRARY_PATH={}", packaged::libraries(&prefix()?));
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
