//! The live part: the command's own tables, redrawn on a terminal, printed twice elsewhere.

use std::{
    io::{IsTerminal as _, Write as _},
    thread,
    time::{Duration, Instant},
};

use underpass_tests::Result;

use super::{saving::CALLERS, shop::Shop};

/// The newest connections and denials that are shown.
const CONNECTIONS: &str = "14";
const DENIALS: &str = "3";
const REDRAW: Duration = Duration::from_millis(700);

pub struct Screen {
    terminal: bool,
}

impl Screen {
    pub fn new() -> Self {
        Self {
            terminal: std::io::stdout().is_terminal(),
        }
    }

    /// Shows the tables until `time` has passed.
    pub fn live(&mut self, shop: &Shop, time: Duration) -> Result<()> {
        let start = Instant::now();
        let pause = if self.terminal { REDRAW } else { time / 2 };
        while start.elapsed() < time {
            thread::sleep(pause.min(time.saturating_sub(start.elapsed())));
            let text = frame(shop, start.elapsed())?;
            let mut out = std::io::stdout().lock();
            if self.terminal {
                // Home, and clear to the end: no flicker of an empty screen.
                write!(out, "\x1b[H\x1b[J")?;
            }
            writeln!(out, "{text}")?;
            out.flush()?;
        }
        Ok(())
    }

    /// Connections that took the shortcut, and one that says why it did not.
    pub fn past_tcp(&mut self, shop: &Shop) -> Result<()> {
        for caller in CALLERS {
            let from = format!("store/{caller}");
            let done = shop
                .agent
                .cli
                .run(&["conns", "-o", "wide", "--from", &from, "--limit", "3"])?;
            println!("== {from} (underpass conns -o wide)\n{}", done.stdout);
        }
        Ok(())
    }
}

fn frame(shop: &Shop, elapsed: Duration) -> Result<String> {
    let table = |args: &[&str]| -> Result<String> {
        let done = shop.agent.cli.run(args)?;
        Ok(if done.code == Some(0) {
            done.stdout
        } else {
            done.stderr
        })
    };
    Ok(format!(
        "== {:.0} s: the newest connections (underpass conns)\n{}\n\n== services (underpass stat)\n{}\n\n\
         == denied (underpass conns --verdict denied)\n{}\n",
        elapsed.as_secs_f64(),
        table(&["conns", "--limit", CONNECTIONS])?,
        table(&["stat"])?,
        table(&["conns", "--verdict", "denied", "--limit", DENIALS])?,
    ))
}
