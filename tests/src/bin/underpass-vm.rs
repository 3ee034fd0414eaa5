//! What `cargo xtask vm` boots: as process 1 it makes a machine of the bare kernel, runs itself as
//! the checks, and powers off. Run by hand as root it checks the machine that it is on.
//!
//! Results are lines of `kind TAB name TAB result TAB detail` on standard output.
#![forbid(unsafe_code)]

use std::process::ExitCode;

mod vm {
    pub mod checks;
    pub mod init;
    pub mod probes;
    pub mod report;
    pub mod shortcut;
    pub mod stage;
    pub mod suite;
}

use vm::report::Report;

fn main() -> ExitCode {
    if std::process::id() == 1 {
        vm::init::run();
    }
    let mut report = Report::default();
    // `--append UNDERPASS_VM_ONLY=shortcut`: what the kernel does not know is its first program's
    // environment.
    if std::env::var_os("UNDERPASS_VM_ONLY").is_none() {
        vm::probes::facts(&mut report);
        vm::probes::programs(&mut report);
        vm::probes::tracing(&mut report);
        vm::checks::run(&mut report);
    }
    vm::shortcut::run(&mut report);
    vm::suite::run(&mut report);
    if report.end() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
