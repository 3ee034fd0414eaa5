//! The normal form of a request's path; the rules are the model's (`mesh/src/path.rs`), so that what a
//! manifest names and what a request asks are compared in one form.

use std::borrow::Cow;

use underpass_mesh::path::{self, NoNormalForm};

use crate::Refusal;

pub(crate) use underpass_mesh::path::escape;

/// The normal form; borrowed if `path` has it already. `path` begins with `/` and ends before `?`.
///
/// The result is ASCII, has no dot segment and no empty one but the last, and is its own normal form.
pub fn normalize(path: &[u8]) -> Result<Cow<'_, str>, Refusal> {
    Ok(path::normalize(path)?)
}

/// Refuses what a query, too, may not hold: it would end the request line, or is not sent at all.
pub fn check_query(query: &[u8]) -> Result<(), Refusal> {
    Ok(path::check_query(query)?)
}

impl From<NoNormalForm> for Refusal {
    fn from(why: NoNormalForm) -> Self {
        match why {
            NoNormalForm::NotAbsolute => Self::BadTarget,
            NoNormalForm::Control => Self::PathControl,
            NoNormalForm::NonAscii => Self::PathNonAscii,
            NoNormalForm::Fragment => Self::PathFragment,
            NoNormalForm::Backslash => Self::PathBackslash,
            NoNormalForm::EncodedSlash => Self::PathEncodedSlash,
            NoNormalForm::Escape => Self::PathEscape,
            NoNormalForm::DoubleEscape => Self::PathDoubleEscape,
            NoNormalForm::Overlong => Self::PathOverlong,
            NoNormalForm::AboveRoot => Self::PathAboveRoot,
            NoNormalForm::DotParameter => Self::PathDotParameter,
        }
    }
}

#[cfg(test)]
mod tests;
