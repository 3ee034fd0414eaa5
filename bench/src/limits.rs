//! Where the shortcut ends: what the kernel holds for readers that do not read, and how soon the kill
//! switch takes hold.

pub mod memory;
pub mod stall;
pub mod switch;

use std::fmt::Write as _;

use serde::Serialize;

use crate::{
    Result,
    environment::Environment,
    lab::Wire,
    manifests::Size,
    rig::{Cpus, Rig},
};

const SIZE: Size = Size {
    services: 1,
    endpoints: 1,
};

#[derive(Clone, Debug, Serialize)]
pub struct Options {
    pub wire: Wire,
    pub cpus: Cpus,
    /// Of each way and size of writes.
    pub rounds: usize,
    /// Stalled readers.
    pub readers: u32,
    /// Bytes of one write to them.
    pub writes: Vec<u32>,
    /// Of the kill switch.
    pub throws: u32,
}

#[derive(Clone, Debug, Serialize)]
pub struct LimitsReport {
    pub format: &'static str,
    pub environment: Environment,
    pub options: Options,
    pub stalls: Vec<stall::Row>,
    pub switch: switch::Switched,
}

pub fn run(options: &Options, progress: &mut dyn FnMut(&str)) -> Result<LimitsReport> {
    let mut rig = Rig::of_size(SIZE, options.wire, options.cpus, true)?;
    let stalls = stall::run(&mut rig, options, progress)?;
    let switch = switch::run(&mut rig, options.throws, progress)?;
    Ok(LimitsReport {
        format: "underpass-bench-limits/1",
        environment: Environment::read(),
        options: options.clone(),
        stalls,
        switch,
    })
}

pub fn text(report: &LimitsReport) -> String {
    let e = &report.environment;
    let mut text = format!(
        "{} on {} × {}, {} build of {}; load {}\n\n",
        e.kernel, e.cpus, e.cpu, e.build, e.commit, e.load
    );
    let _ = writeln!(
        text,
        "{} stalled readers: messages past TCP, and KiB that the kernel took and holds; medians of {} \
         rounds. The last three columns are the whole machine's",
        report.options.readers, report.options.rounds
    );
    text += &stall::table(&report.stalls, report.options.readers);
    text.push('\n');
    text + &switch::text(&report.switch)
}
