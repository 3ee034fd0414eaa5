//! A directory of objects, without an agent: what the agent would say about it, and what only shows
//! between objects (policies that select nothing, services without endpoints).

use std::{
    fs,
    io::{self, Read as _},
    path::Path,
};

use underpass_abi::reason::{code, name};
use underpass_api::check::{Finding, Mark, Report};
use underpass_mesh::{Model, Problem};

use super::{coded, print};
use crate::{
    error::CliError,
    options::Format,
    render::{self, Look},
    row::some,
};

/// As the agent's directory source reads: largest file in bytes, and files at most.
const FILE_MAX: u64 = 32 << 20;
const FILES_MAX: usize = 20_000;

/// True if there is nothing to say about the directory.
pub fn run(dir: &Path, output: Format) -> Result<bool, CliError> {
    if dir.is_file() {
        let text = format!("-f takes a directory, and {} is a file", dir.display());
        return Err(CliError::usage(code::BAD_ARGUMENT, text));
    }
    let unreadable =
        |e: io::Error| CliError::failed(code::UNREADABLE, format!("{}: {e}", dir.display()));
    let names = manifests(dir).map_err(unreadable)?;
    let checks = findings(dir, &names);
    let ok = checks.iter().all(|f| f.result == Mark::Ok);
    let report = Report { ok, checks };
    render::emit(&print(&report, output, Look::of_stdout(true)))?;
    Ok(ok)
}

/// Names of the files that the agent would read, in its order.
fn manifests(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let Ok(name) = entry?.file_name().into_string() else {
            continue;
        };
        let known = [".yaml", ".yml", ".json"]
            .iter()
            .any(|ending| name.ends_with(ending));
        if known && !name.starts_with('.') {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Of all that can be read in a directory.
pub fn model(dir: &Path) -> Result<Model, CliError> {
    let names = manifests(dir)
        .map_err(|e| CliError::failed(code::UNREADABLE, format!("{}: {e}", dir.display())))?;
    let mut model = Model::default();
    for name in names.iter().take(FILES_MAX) {
        if let Ok(text) = read(&dir.join(name)) {
            model.set_file(name, &text);
        }
    }
    Ok(model)
}

fn findings(dir: &Path, names: &[String]) -> Vec<Finding> {
    if names.is_empty() {
        let detail = "no *.yaml, *.yml or *.json file";
        let place = dir.display().to_string();
        return vec![coded(Mark::Error, &place, code::UNREADABLE, detail)];
    }
    let mut model = Model::default();
    let mut findings = Vec::new();
    if names.len() > FILES_MAX {
        let detail = format!("{} files, {FILES_MAX} are read at most", names.len());
        findings.push(coded(Mark::Error, "files", code::TOO_LARGE, detail));
    }
    for name in names.iter().take(FILES_MAX) {
        match read(&dir.join(name)) {
            Ok(text) => {
                model.set_file(name, &text);
            }
            Err((number, detail)) => {
                findings.push(coded(Mark::Error, name, number, detail));
            }
        }
    }
    findings.extend(model.check().iter().map(of_problem));
    if findings.is_empty() {
        findings.push(Finding::ok("files", format!("{} read", names.len())));
    }
    findings
}

fn read(path: &Path) -> Result<String, (u16, String)> {
    let unreadable = |e: io::Error| (code::UNREADABLE, e.to_string());
    let meta = fs::metadata(path).map_err(unreadable)?;
    if !meta.is_file() {
        // A FIFO would be waited for without end.
        return Err((code::UNREADABLE, "is no regular file".to_owned()));
    }
    let mut text = String::new();
    let file = fs::File::open(path).map_err(unreadable)?;
    // One byte more than allowed tells a file that is too large.
    file.take(FILE_MAX + 1)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    if text.len() as u64 > FILE_MAX {
        return Err((
            code::TOO_LARGE,
            format!("{FILE_MAX} bytes are read at most"),
        ));
    }
    Ok(text)
}

fn of_problem(problem: &Problem) -> Finding {
    let mut check = problem.file.to_string();
    if problem.line > 0 {
        check.push_str(&format!(":{}", problem.line));
    }
    let detail = match problem.field.as_str() {
        "" => problem.message.clone(),
        field => format!("{field}: {}", problem.message),
    };
    Finding {
        result: if problem.is_error() {
            Mark::Error
        } else {
            Mark::Warning
        },
        check,
        detail,
        code: Some(format!("UP{:04} {}", problem.code, name(problem.code))),
        hint: some(problem.hint().to_owned()),
    }
}
