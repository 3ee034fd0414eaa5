//! `underpass codes`: the registry of codes, offline.

use serde::Serialize;
use underpass_abi::reason::{CODES, Code, code};

use crate::{
    error::CliError,
    options::{Codes, Format},
    render::{self, Align, Cell, Look, Table},
    row::some,
};

#[derive(Debug, Serialize)]
struct CodeList {
    items: Vec<Entry>,
}

#[derive(Debug, Serialize)]
struct Entry {
    code: String,
    name: &'static str,
    text: &'static str,
    hint: Option<String>,
}

pub fn run(options: &Codes) -> Result<(), CliError> {
    let entries: Vec<Entry> = match &options.code {
        Some(wanted) => vec![Entry::from(find(wanted)?)],
        None => CODES.iter().map(Entry::from).collect(),
    };
    let output = options.rows.output.output;
    let text = match output {
        Format::Json => render::json(&CodeList { items: entries }),
        Format::Yaml => render::yaml(&CodeList { items: entries }),
        Format::Table if options.code.is_some() => entries.iter().map(Entry::paragraph).collect(),
        Format::Table | Format::Wide => {
            let look = Look::of_stdout(!options.rows.no_headers);
            table(&entries, output == Format::Wide, look)
        }
    };
    Ok(render::emit(&text)?)
}

fn find(wanted: &str) -> Result<&'static Code, CliError> {
    let upper = wanted.to_ascii_uppercase();
    let number = upper
        .strip_prefix("UP")
        .unwrap_or(&upper)
        .parse::<u16>()
        .ok();
    CODES
        .iter()
        .find(|c| Some(c.number) == number || c.name == upper)
        .ok_or_else(|| {
            let text = format!("there is no code `{wanted}`; `underpass codes` lists all");
            CliError::usage(code::BAD_ARGUMENT, text)
        })
}

fn table(entries: &[Entry], wide: bool, look: Look) -> String {
    let mut columns = vec![
        ("CODE", Align::Left),
        ("NAME", Align::Left),
        ("TEXT", Align::Left),
    ];
    if wide {
        columns.push(("HINT", Align::Left));
    }
    let mut table = Table::new(&columns, look);
    for entry in entries {
        let mut row = vec![
            Cell::new(&entry.code),
            Cell::new(entry.name),
            Cell::new(entry.text),
        ];
        if wide {
            row.push(Cell::new(entry.hint.as_deref().unwrap_or_default()));
        }
        table.push(row);
    }
    table.take()
}

impl Entry {
    fn paragraph(&self) -> String {
        let hint = self
            .hint
            .as_deref()
            .map(|h| format!("Try: {h}.\n"))
            .unwrap_or_default();
        format!("{} {}\n\n{}.\n{hint}", self.code, self.name, self.text)
    }
}

impl From<&Code> for Entry {
    fn from(entry: &Code) -> Self {
        Self {
            code: format!("UP{:04}", entry.number),
            name: entry.name,
            text: entry.text,
            hint: some(entry.hint.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_found_by_every_spelling() {
        for wanted in ["UP0101", "up0101", "101", "POLICY_DENIED", "policy_denied"] {
            assert_eq!(find(wanted).expect(wanted).number, 101);
        }
        let error = find("UP9999").expect_err("unknown");
        assert!(
            error.to_string().starts_with("UP0503 BAD_ARGUMENT: "),
            "{error}"
        );
    }
}
