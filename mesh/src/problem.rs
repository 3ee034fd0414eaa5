//! What is wrong with the input, as a user reads it.

use std::fmt;

use underpass_abi::reason::Code;

use crate::Str;

/// Whether a problem keeps a file from being used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The file is used; a part of it has no effect or looks wrong.
    Warning,
    /// The file is not used; its last good version stays in force.
    Error,
}

/// One finding, with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub severity: Severity,
    /// A number of `abi::reason::code`.
    pub code: u16,
    pub file: Str,
    /// Line in the file, from 1; 0 if unknown.
    pub line: u32,
    /// Path of the field, as `spec.ports[0].port`; empty if the object as a whole is meant.
    pub field: String,
    pub message: String,
}

impl Problem {
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// The registry's hint for this code.
    pub fn hint(&self) -> &'static str {
        Code::find(self.code).map_or("", |c| c.hint)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        let name = underpass_abi::reason::name(self.code);
        write!(f, ": UP{:04} {name}: ", self.code)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        write!(f, "{}", self.message)?;
        if !self.hint().is_empty() {
            write!(f, ". Try: {}", self.hint())?;
        }
        Ok(())
    }
}
