//! The lines that `cargo xtask vm` reads.

use std::{
    io::{self, Write as _},
    panic::{AssertUnwindSafe, catch_unwind},
    time::Instant,
};

/// Counts what did not hold.
pub struct Report {
    failed: u64,
    start: Instant,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            failed: 0,
            start: Instant::now(),
        }
    }
}

impl Report {
    /// What this kernel is.
    pub fn fact(&mut self, name: &str, value: &str) {
        line(["fact", name, value, ""]);
    }

    /// What this kernel can do; no failure if it cannot.
    pub fn probe(&mut self, name: &str, result: Result<String, String>) {
        match result {
            Ok(detail) => line(["probe", name, "yes", &detail]),
            Err(why) => line(["probe", name, "no", &why]),
        }
    }

    pub fn program(&mut self, name: &str, result: Result<String, String>) {
        self.judge("program", name, result);
    }

    /// Runs `check`; a panic is a failure.
    pub fn check<E: ToString>(&mut self, name: &str, check: impl FnOnce() -> Result<String, E>) {
        let start = Instant::now();
        let result = match catch_unwind(AssertUnwindSafe(check)) {
            Ok(result) => result.map_err(|e| e.to_string()),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or(panic.downcast_ref::<&str>().copied());
                Err(text.unwrap_or("panic").to_owned())
            }
        };
        let took = start.elapsed().as_secs_f64();
        self.judge("check", name, result.map(|d| format!("{took:.1} s; {d}")));
    }

    /// A line of `underpass check` about what this kernel lacks.
    pub fn lacks(&mut self, name: &str, why: &str) {
        match name.strip_prefix("program ") {
            Some(hook) => line(["program", &format!("up_{hook}"), "no", why]),
            None => self.off(name, why),
        }
    }

    /// What this kernel cannot do, so that the check cannot be made; the page says so.
    pub fn off(&mut self, name: &str, why: &str) {
        line(["check", name, "off", why]);
    }

    fn judge(&mut self, kind: &str, name: &str, result: Result<String, String>) {
        match result {
            Ok(detail) => line([kind, name, "ok", &detail]),
            Err(why) => {
                self.failed += 1;
                line([kind, name, "failed", &why]);
            }
        }
    }

    /// The last line. True if everything held.
    pub fn end(&self) -> bool {
        let seconds = format!("{:.1}", self.start.elapsed().as_secs_f64());
        line(["end", &self.failed.to_string(), &seconds, ""]);
        self.failed == 0
    }
}

/// One line whatever the texts hold.
pub fn line(columns: [&str; 4]) {
    let columns = columns.map(|c| {
        c.trim_end()
            .replace('\\', "\\\\")
            .replace('\t', " ")
            .replace('\n', "\\n")
    });
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{}", columns.join("\t")).and_then(|()| out.flush());
}
