//! Calls that block: on a thread beside the script, or in another process.

use std::{
    fs,
    io::{self, BufRead as _, BufReader},
    os::fd::OwnedFd,
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    net::{Shutdown, shutdown},
    process::{Pid, Signal, kill_process},
    thread::gettid,
};

use super::{
    script::{End, PATIENCE},
    transcript::Log,
};

/// A thread that has taken an end.
pub struct Task {
    name: String,
    log: Log,
    tid: i32,
    back: mpsc::Receiver<End>,
    /// To wake it if it hangs.
    socket: OwnedFd,
}

impl Task {
    pub fn start(mut end: End, f: impl FnOnce(&mut End) + Send + 'static) -> io::Result<Self> {
        let (name, log) = (end.name.clone(), end.log.clone());
        let socket = end.dup("wake")?.into_fd();
        let (tell_tid, tid) = mpsc::channel();
        let (give, back) = mpsc::channel();
        thread::spawn(move || {
            let _ = tell_tid.send(gettid().as_raw_nonzero().get());
            f(&mut end);
            let _ = give.send(end);
        });
        let tid = tid.recv().map_err(io::Error::other)?;
        Ok(Self {
            name,
            log,
            tid,
            back,
            socket,
        })
    }

    /// Waits until the thread sleeps, and notes if it does.
    pub fn blocks(&self) {
        let blocked = sleeps(&format!("/proc/self/task/{}/stat", self.tid));
        self.log.line(&self.name, format!("blocks: {blocked}"));
    }

    /// The end, once the thread is done with it. A thread that hangs is noted and woken.
    pub fn join(self) -> io::Result<End> {
        if let Ok(end) = self.back.recv_timeout(PATIENCE) {
            return Ok(end);
        }
        self.log.line(&self.name, "HANGS");
        let _ = shutdown(&self.socket, Shutdown::Both);
        let _ = self.back.recv_timeout(PATIENCE);
        Err(io::Error::other("a call hangs"))
    }
}

/// True once a thread or process was seen asleep for a while; false if it never is.
fn sleeps(stat: &str) -> bool {
    let start = Instant::now();
    let mut since = None;
    while start.elapsed() < Duration::from_secs(2) {
        let text = fs::read_to_string(stat).unwrap_or_default();
        if text
            .rsplit_once(") ")
            .is_some_and(|(_, s)| s.starts_with('S'))
        {
            let since: Instant = *since.get_or_insert_with(Instant::now);
            if since.elapsed() > Duration::from_millis(30) {
                return true;
            }
        } else {
            since = None;
        }
        thread::sleep(Duration::from_millis(3));
    }
    false
}

/// A child process with the socket as its standard input; see [`super::part`] for what it can do.
pub struct Part {
    name: String,
    log: Log,
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Part {
    /// The child holds the same socket as `end`.
    pub fn start(end: &End, name: &str, verb: &str, args: &[u64]) -> io::Result<Self> {
        let socket = end.dup("fork")?.into_fd();
        Self::on(socket, &end.log, name, verb, args)
    }

    pub fn on(fd: OwnedFd, log: &Log, name: &str, verb: &str, args: &[u64]) -> io::Result<Self> {
        // Not by its path: the file may have been built anew since.
        let mut child = Command::new("/proc/self/exe")
            .args(["part", verb])
            .args(args.iter().map(u64::to_string))
            .stdin(Stdio::from(fd))
            .stdout(Stdio::piped())
            .spawn()?;
        let lines = BufReader::new(child.stdout.take().expect("piped above"));
        let mut part = Self {
            name: name.to_owned(),
            log: log.clone(),
            child,
            lines,
        };
        // The first line says that it has begun.
        part.next_line()?;
        Ok(part)
    }

    fn next_line(&mut self) -> io::Result<Option<String>> {
        let mut line = String::new();
        let got = self.lines.read_line(&mut line)?;
        Ok((got > 0).then(|| line.trim_end().to_owned()))
    }

    pub fn blocks(&self) {
        let blocked = sleeps(&format!("/proc/{}/stat", self.child.id()));
        self.log.line(&self.name, format!("blocks: {blocked}"));
    }

    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// Waits until the process stopped or goes on, as its state letter says.
    pub fn wait_state(&self, letter: char) {
        let path = format!("/proc/{}/stat", self.child.id());
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            let stat = fs::read_to_string(&path).unwrap_or_default();
            if stat
                .rsplit_once(") ")
                .is_some_and(|(_, rest)| rest.starts_with(letter))
            {
                return;
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn kill(mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        self.log.line(&self.name, "killed");
        Ok(())
    }

    /// Takes what the process saw into the transcript. A process that hangs is noted and killed.
    pub fn finish(mut self) -> io::Result<()> {
        let pid = Pid::from_child(&self.child);
        let (cancel, canceled) = mpsc::channel::<()>();
        let guard = thread::spawn(move || {
            let late = canceled.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout);
            if late {
                let _ = kill_process(pid, Signal::KILL);
            }
            late
        });
        while let Some(line) = self.next_line()? {
            self.log.line(&self.name, line);
        }
        drop(cancel);
        let late = guard.join().unwrap_or(true);
        self.child.wait()?;
        if late {
            self.log.line(&self.name, "HANGS");
            return Err(io::Error::other("a process hangs"));
        }
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
