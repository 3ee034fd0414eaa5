//! The driver's end of a client or a server: starts it in its place and talks to it in lines.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, Command as Process, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    time::Duration,
};

use crate::{
    BenchError, Context as _, Result,
    generator::{
        Load, Outcome,
        protocol::{Answer, Command, Counted},
    },
    lab::Place,
};

/// What a party may take longer than its load says.
const GRACE: Duration = Duration::from_secs(15);

#[derive(Debug)]
pub struct Party {
    name: String,
    child: Child,
    input: ChildStdin,
    answers: Receiver<String>,
}

impl Party {
    /// `role` is `client` or `server`; waits until it is ready.
    pub fn start(name: &str, role: &[&str], place: &Place) -> Result<Self> {
        let program = std::env::current_exe().context("own executable")?;
        Self::start_program(&program, name, role, place)
    }

    /// The same with another executable of this crate.
    pub fn start_program(program: &Path, name: &str, role: &[&str], place: &Place) -> Result<Self> {
        let mut child = Process::new(program)
            .arg("party")
            .args(arguments(place))
            .args(role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context(name)?;
        let input = child.stdin.take().expect("piped above");
        let output = BufReader::new(child.stdout.take().expect("piped above"));
        let (sender, answers) = sync_channel(4);
        std::thread::spawn(move || {
            for line in output.lines().map_while(std::io::Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let party = Self {
            name: name.to_owned(),
            child,
            input,
            answers,
        };
        match party.answer(GRACE)? {
            Answer::Ready => Ok(party),
            other => Err(party.unexpected(&other)),
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn ask(&mut self, command: &Command, within: Duration) -> Result<Answer> {
        self.tell(command)?;
        self.answer(within + GRACE)
    }

    /// Sends a command whose answer is read later.
    pub fn tell(&mut self, command: &Command) -> Result<()> {
        let mut line = serde_json::to_vec(command).map_err(|e| self.failed(e.to_string()))?;
        line.push(b'\n');
        self.input.write_all(&line).context(&self.name)
    }

    pub fn answer(&self, within: Duration) -> Result<Answer> {
        let line = self.answers.recv_timeout(within).map_err(|e| match e {
            RecvTimeoutError::Timeout => self.failed(format!("no answer within {within:?}")),
            RecvTimeoutError::Disconnected => self.failed("it has ended, see above".into()),
        })?;
        match serde_json::from_str(&line).map_err(|e| self.failed(format!("{e} in {line}")))? {
            Answer::Failed(why) => Err(self.failed(why)),
            answer => Ok(answer),
        }
    }

    pub fn run(&mut self, load: &Load) -> Result<Outcome> {
        let within = Duration::from_secs_f64(load.seconds);
        match self.ask(&Command::Run(load.clone()), within)? {
            Answer::Ran(outcome) => Ok(outcome),
            other => Err(self.unexpected(&other)),
        }
    }

    pub fn count(&mut self) -> Result<Counted> {
        match self.ask(&Command::Count, Duration::ZERO)? {
            Answer::Counted(counted) => Ok(counted),
            other => Err(self.unexpected(&other)),
        }
    }

    pub fn tally(&mut self, on: bool) -> Result<()> {
        self.order(&Command::Tally(on))
    }

    /// A command that is answered with "done".
    pub fn order(&mut self, command: &Command) -> Result<()> {
        match self.ask(command, Duration::ZERO)? {
            Answer::Done => Ok(()),
            other => Err(self.unexpected(&other)),
        }
    }

    pub fn unexpected(&self, answer: &Answer) -> BenchError {
        self.failed(format!("unexpected answer {answer:?}"))
    }

    fn failed(&self, why: String) -> BenchError {
        BenchError::Party {
            party: self.name.clone(),
            why,
        }
    }
}

impl Drop for Party {
    fn drop(&mut self) {
        // It may be in the middle of a run, so the end of its input is not enough.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Flags that [`crate::lab::enter`]'s place is made of.
pub fn arguments(place: &Place) -> Vec<String> {
    let mut arguments = Vec::new();
    if let Some(cgroup) = &place.cgroup {
        arguments.extend(["--cgroup".to_owned(), cgroup.display().to_string()]);
    }
    if let Some(netns) = &place.netns {
        arguments.extend(["--netns".to_owned(), netns.clone()]);
    }
    if let Some(cpu) = place.cpu {
        arguments.extend(["--cpu".to_owned(), cpu.to_string()]);
    }
    arguments
}
