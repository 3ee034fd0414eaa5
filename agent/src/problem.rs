//! What a user should look at: a code of the registry, what failed, and where.

use underpass_abi::reason::{self, Code};
use underpass_api::v1alpha1 as api;

/// One problem of the node, shown by `underpass status` and in the log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// A number of [`reason::code`].
    pub code: u16,
    /// The failing input, without code and hint.
    pub message: String,
    /// `file:line field`, or the object; empty if neither.
    pub place: String,
    /// Else a warning.
    pub error: bool,
}

impl Problem {
    pub fn error(code: u16, message: impl Into<String>, place: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            place: place.into(),
            error: true,
        }
    }

    pub fn warning(code: u16, message: impl Into<String>, place: impl Into<String>) -> Self {
        Self {
            error: false,
            ..Self::error(code, message, place)
        }
    }

    /// As the node API shows it.
    pub fn to_api(&self) -> api::Problem {
        let code = Code::find(self.code);
        api::Problem {
            code: format!("UP{:04}", self.code),
            name: reason::name(self.code).to_owned(),
            severity: if self.error { "error" } else { "warning" }.to_owned(),
            message: self.message.clone(),
            hint: code.map_or("", |c| c.hint).to_owned(),
            r#where: self.place.clone(),
        }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&coded(self.code, &self.message))?;
        if !self.place.is_empty() {
            write!(f, " ({})", self.place)?;
        }
        Ok(())
    }
}

/// `UP0302 BAD_YAML: message. Try: hint`.
pub fn coded(code: u16, message: &str) -> String {
    let hint = Code::find(code).map_or("", |c| c.hint);
    let name = reason::name(code);
    if hint.is_empty() {
        format!("UP{code:04} {name}: {message}")
    } else {
        format!("UP{code:04} {name}: {message}. Try: {hint}")
    }
}
