//! `underpass-vend ctl`: one question to a running vendor.

use std::{path::Path, time::Duration};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use underpass_abi::reason::code;
use underpass_api::vend::{
    channel::{Channel, Received},
    control::{Reply, Request},
};

use crate::{
    log::{Problem, Result},
    options::Ctl,
};

/// How long an answer may take.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Asks, and prints what a status has.
///
/// # Errors
/// The vendor's refusal, or that there is none to ask.
pub fn run(control: &Path, ctl: &Ctl) -> Result<()> {
    for line in ask(control, &request(ctl))? {
        println!("{line}");
    }
    Ok(())
}

fn request(ctl: &Ctl) -> Request {
    match ctl.clone() {
        Ctl::Add(add) => Request::Add {
            name: add.name,
            tenant: add.tenant,
            netns: add.netns.to_string_lossy().into_owned(),
        },
        Ctl::Drain { name } => Request::Drain { name },
        Ctl::Gone { name } => Request::Gone { name },
        Ctl::Listen(listen) => Request::Listen {
            name: listen.name,
            address: listen.address,
            port: listen.port,
        },
        Ctl::Start { tenant } => Request::Start { tenant },
        Ctl::Status => Request::Status,
    }
}

/// The lines of the answer.
///
/// # Errors
/// As [`run`].
pub fn ask(control: &Path, request: &Request) -> Result<Vec<String>> {
    fn failed<E: std::fmt::Display>() -> impl FnOnce(E) -> Problem {
        Problem::at(code::VENDOR_UNREACHABLE, "control socket")
    }
    let channel = Channel::connect(control)
        .map_err(Problem::at(code::VENDOR_UNREACHABLE, control.display()))?;
    channel.send(&request.frame(), &[]).map_err(failed())?;
    let mut lines = Vec::new();
    loop {
        let timeout = Timespec::try_from(ANSWER_WITHIN).ok();
        let mut fds = [PollFd::new(&channel, PollFlags::IN)];
        if poll(&mut fds, timeout.as_ref()).map_err(failed())? == 0 {
            let text = format!("no answer within {ANSWER_WITHIN:?}");
            return Err(Problem::new(code::VENDOR_UNREACHABLE, text));
        }
        match channel.recv().map_err(failed())? {
            Received::Empty => {}
            Received::Closed => {
                return Err(Problem::new(
                    code::VENDOR_UNREACHABLE,
                    "it has closed the socket",
                ));
            }
            Received::Frame(frame, _) => match Reply::read(&frame).map_err(failed())? {
                Reply::Done => return Ok(lines),
                Reply::Refused { code, why } => return Err(Problem::new(code, why)),
                Reply::Line(line) => lines.push(line),
            },
        }
    }
}
