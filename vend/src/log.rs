//! Problems, and lines on standard error (the journal).

use underpass_abi::reason::{self, Code};

/// What failed, with a code of the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub code: u16,
    pub text: String,
}

pub type Result<T> = std::result::Result<T, Problem>;

impl Problem {
    pub fn new(code: u16, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
        }
    }

    /// For `map_err`: what was tried, then the cause.
    pub fn at<E: std::fmt::Display>(
        code: u16,
        what: impl std::fmt::Display,
    ) -> impl FnOnce(E) -> Self {
        move |e| Self::new(code, format!("{what}: {e}"))
    }
}

/// `UP0430 NAME: text. Try: hint`.
pub fn coded(code: u16, text: &str) -> String {
    let hint = Code::find(code).map_or("", |c| c.hint);
    let name = reason::name(code);
    if hint.is_empty() {
        format!("UP{code:04} {name}: {text}")
    } else {
        format!("UP{code:04} {name}: {text}. Try: {hint}")
    }
}

/// A line of what happened.
pub fn say(text: &str) {
    eprintln!("{text}");
}

/// A line of what went wrong.
pub fn warn(code: u16, text: &str) {
    say(&coded(code, text));
}
