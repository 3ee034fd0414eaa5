//! Errors of the kernel side: each has a code of the registry.

use std::{fmt, io};

use underpass_abi::reason::Code;

/// What went wrong, as the user sees it: `UP0403 NO_BPFFS: <text>: <detail>. Try: <hint>`.
#[derive(Debug, thiserror::Error)]
pub struct KernelError {
    /// A number of `abi::reason::code`.
    pub code: u16,
    /// Which file, program, map or call, and what the kernel said.
    pub detail: String,
}

impl KernelError {
    pub fn new(code: u16, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
        }
    }

    /// For `map_err`: "`what`: the kernel's words".
    pub fn io(code: u16, what: impl fmt::Display) -> impl FnOnce(io::Error) -> Self {
        move |e| Self::new(code, format!("{what}: {e}"))
    }
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(code) = Code::find(self.code) else {
            return write!(f, "UP{:04}: {}", self.code, self.detail);
        };
        write!(
            f,
            "UP{:04} {}: {}: {}",
            code.number, code.name, code.text, self.detail
        )?;
        if code.hint.is_empty() {
            Ok(())
        } else {
            write!(f, ". Try: {}", code.hint)
        }
    }
}

#[cfg(test)]
mod tests {
    use underpass_abi::reason::code;

    use super::*;

    #[test]
    fn shows_code_text_detail_and_hint() {
        let text = KernelError::new(code::NO_OBJECT, "target/bpf/underpass.o").to_string();
        assert_eq!(
            text,
            "UP0409 NO_OBJECT: the agent was built without its BPF object: target/bpf/underpass.o. \
             Try: build with `cargo xtask build-ebpf` first"
        );
    }
}
