//! The `underpass` command, as a user runs it: the only way in which tests read the mesh.

use std::time::Duration;

use serde_json::Value;

use super::{Failure, Lab, Place, Proc, Result, process::Done, until};

const LIMIT: Duration = Duration::from_secs(30);

pub struct Cli {
    api: String,
    place: Place,
}

/// A row of `conns -o json`.
pub type Row = Value;

impl Cli {
    pub fn new(lab: &Lab) -> Self {
        let api = lab.dir.join("api.sock").to_string_lossy().into_owned();
        Self {
            api,
            place: lab.backstage(),
        }
    }

    pub fn run(&self, args: &[&str]) -> Result<Done> {
        let mut command = vec!["underpass"];
        command.extend(args);
        command.extend(["--api", &self.api]);
        Proc::start(&self.place, &command)?.finish(LIMIT)
    }

    /// Runs with `-o json`; fails unless it exits with 0.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let done = self.run(&[args, &["-o", "json"]].concat())?;
        if done.code != Some(0) {
            return Err(Failure(format!(
                "underpass {}: exit {:?}: {}",
                args.join(" "),
                done.code,
                done.stderr
            )));
        }
        serde_json::from_str(&done.stdout)
            .map_err(Failure::at(format_args!("underpass {}", args.join(" "))))
    }

    /// `status` exits with 1 if it lists an error, and prints all the same.
    pub fn status(&self) -> Result<Value> {
        let done = self.run(&["status", "-o", "json"])?;
        serde_json::from_str(&done.stdout)
            .map_err(|e| Failure(format!("underpass status: {e}: {}", done.stderr)))
    }

    /// The rows of `conns` with these filters, all of them.
    pub fn conns(&self, filters: &[&str]) -> Result<Vec<Row>> {
        match self.json(&[&["conns"], filters].concat())?["items"].take() {
            Value::Array(rows) => Ok(rows),
            other => Err(Failure(format!("conns: items is {other}"))),
        }
    }

    /// Polls `conns` until a row satisfies `pick`.
    pub fn row(&self, what: &str, filters: &[&str], pick: impl Fn(&Row) -> bool) -> Result<Row> {
        self.rows(what, filters, 1, pick)
            .map(|mut rows| rows.remove(0))
    }

    /// Polls `conns` until at least `count` rows satisfy `pick`.
    pub fn rows(
        &self,
        what: &str,
        filters: &[&str],
        count: usize,
        pick: impl Fn(&Row) -> bool,
    ) -> Result<Vec<Row>> {
        until(&format!("row: {what}"), Duration::from_secs(5), || {
            let rows = self.conns(filters).map_err(|f| f.0)?;
            let (found, other): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(&pick);
            if found.len() >= count {
                return Ok(found);
            }
            let last = other
                .iter()
                .rev()
                .take(3)
                .map(Value::to_string)
                .collect::<Vec<_>>()
                .join("\n");
            Err(format!(
                "{} such rows, {} others, of which the last:\n{last}",
                found.len(),
                other.len()
            ))
        })
    }

    /// One service's row of `stat`.
    pub fn stat(&self, service: &str) -> Result<Value> {
        let rows = self.json(&["stat"])?;
        let row = rows["items"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|r| r["service"] == service);
        row.cloned()
            .ok_or_else(|| Failure(format!("stat has no row for {service}: {rows}")))
    }
}

/// A string field, empty if absent.
pub fn text<'a>(row: &'a Row, path: &str) -> &'a str {
    row.pointer(path)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// A whole number; `None` if absent. Numbers may be printed as strings (64 bits in JSON).
pub fn number(row: &Row, path: &str) -> Option<u64> {
    let value = row.pointer(path)?;
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// The port of an "address:port" field, 0 if there is none.
pub fn port(row: &Row, path: &str) -> u16 {
    text(row, path)
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse().ok())
        .unwrap_or(0)
}
