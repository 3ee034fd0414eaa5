//! A directory of objects, without an agent.
use crate::{error::CliError, options::Format};
use std::path::Path;
pub fn run(_dir: &Path, _output: Format) -> Result<bool, CliError> {
    unimplemented!()
}
