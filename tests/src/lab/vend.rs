//! A lab's vendor, with workers that do what a test tells them (`underpass-tenant`).

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpStream},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use underpass_api::vend::{
    channel::{Channel, Received},
    control::{Reply, Request},
};

use super::{Failure, Lab, Pod, Proc, Result, place, until};

/// The port of every listener of these tests.
pub const PORT: u16 = 15_001;
const PATIENCE: Duration = Duration::from_secs(10);

pub struct Vend {
    pub proc: Proc,
    pub control: PathBuf,
    command: Vec<String>,
}

/// A line of the status: `key=value`.
pub type Line = BTreeMap<String, String>;

impl Vend {
    /// Starts it with the test worker and waits until it answers.
    pub fn start(lab: &Lab, flags: &[&str]) -> Result<Self> {
        Self::with_worker(lab, &place::binary("underpass-tenant")?, flags)
    }

    pub fn with_worker(lab: &Lab, worker: &Path, flags: &[&str]) -> Result<Self> {
        Self::under(lab, &[], worker, flags)
    }

    /// With the real worker, below the agent's cgroup root: the mesh's programs see its sockets.
    pub fn meshed(lab: &Lab, flags: &[&str]) -> Result<Self> {
        let cgroup = lab.cgroup_root().join("vend");
        let worker = place::binary("underpass-proxy")?;
        Self::at(lab, &[], &worker, &cgroup, flags)
    }

    /// `wrapper` is a command that becomes the vendor.
    pub fn under(lab: &Lab, wrapper: &[&str], worker: &Path, flags: &[&str]) -> Result<Self> {
        Self::at(lab, wrapper, worker, &lab.cgroup.join("vend"), flags)
    }

    fn at(
        lab: &Lab,
        wrapper: &[&str],
        worker: &Path,
        cgroup: &Path,
        flags: &[&str],
    ) -> Result<Self> {
        let control = lab.dir.join("vend.sock");
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let mut command: Vec<String> = wrapper.iter().map(|w| (*w).to_owned()).collect();
        command.push(text(place::binary("underpass-vend")?));
        command.extend(["--worker".into(), text(worker.to_owned())]);
        command.extend(["--state".into(), text(lab.dir.join("vend"))]);
        command.extend(["--control".into(), text(control.clone())]);
        command.extend(["--cgroup".into(), text(cgroup.to_owned())]);
        command.extend(flags.iter().map(|f| (*f).to_owned()));
        let proc = Self::spawn(lab, &command)?;
        let vend = Self {
            proc,
            control,
            command,
        };
        vend.wait_ready()?;
        Ok(vend)
    }

    fn spawn(lab: &Lab, command: &[String]) -> Result<Proc> {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        Proc::start(&lab.backstage(), &words)
    }

    fn wait_ready(&self) -> Result<()> {
        until("the vendor", PATIENCE, || {
            let log = self.proc.stderr();
            if !super::process::alive(self.proc.pid()) {
                return Ok(Err(Failure(format!("the vendor has ended: {log}"))));
            }
            if !log.contains("underpass-vend runs") {
                return Err(log);
            }
            self.status().map(|_| Ok(())).map_err(|f| f.0)
        })?
    }

    /// Starts it again with the same flags.
    pub fn restart(&mut self, lab: &Lab) -> Result<()> {
        self.proc = Self::spawn(lab, &self.command)?;
        self.wait_ready()
    }

    /// What the vendor says in refusal is an error that starts with its code.
    pub fn ask(&self, request: &Request) -> Result<Vec<String>> {
        let mut said = self.ask_all(std::slice::from_ref(request))?;
        said.pop().ok_or_else(|| Failure::new("no answer"))?
    }

    /// Asks all, over one connection.
    pub fn ask_all(&self, requests: &[Request]) -> Result<Vec<Result<Vec<String>>>> {
        let channel = Channel::connect(&self.control).map_err(Failure::at("control socket"))?;
        let mut all = Vec::new();
        for request in requests {
            channel.send(&request.frame(), &[])?;
            let mut lines = Vec::new();
            all.push(loop {
                match next(&channel)? {
                    Reply::Done => break Ok(lines),
                    Reply::Line(line) => lines.push(line),
                    Reply::Refused { code, why } => {
                        break Err(Failure(format!("{code} {why}")));
                    }
                }
            });
        }
        Ok(all)
    }

    /// Says it and does not wait for the answer.
    pub fn tell(&self, request: &Request) -> Result<Channel> {
        let channel = Channel::connect(&self.control).map_err(Failure::at("control socket"))?;
        channel.send(&request.frame(), &[])?;
        Ok(channel)
    }

    pub fn add(&self, name: &str, tenant: &str, netns: &Path) -> Result<()> {
        let netns = netns.to_string_lossy().into_owned();
        let (name, tenant) = (name.to_owned(), tenant.to_owned());
        let add = Request::Add {
            name,
            tenant,
            netns,
        };
        self.ask(&add).map(|_| ())
    }

    pub fn listen(&self, name: &str) -> Result<()> {
        let listen = Request::Listen {
            name: name.to_owned(),
            address: "::".parse().map_err(Failure::at("::"))?,
            port: PORT,
        };
        self.ask(&listen).map(|_| ())
    }

    /// Gives a tenant's worker a snapshot and a file for its report, which is returned.
    pub fn snapshot(&self, tenant: &str, version: u64, text: &str) -> Result<OwnedFd> {
        let report = memfd("report", b"")?;
        let file = sealed(text.as_bytes())?;
        self.hand(tenant, version, &[file.as_fd(), report.as_fd()])?;
        Ok(report)
    }

    /// As [`Self::snapshot`], with whatever descriptors.
    pub fn hand(&self, tenant: &str, version: u64, files: &[BorrowedFd<'_>]) -> Result<()> {
        let tenant = tenant.to_owned();
        let channel = Channel::connect(&self.control).map_err(Failure::at("control socket"))?;
        channel.send(&Request::Snapshot { tenant, version }.frame(), files)?;
        match next(&channel)? {
            Reply::Done => Ok(()),
            Reply::Refused { code, why } => Err(Failure(format!("{code} {why}"))),
            Reply::Line(line) => Err(Failure(line)),
        }
    }

    pub fn gone(&self, name: &str) -> Result<()> {
        let name = name.to_owned();
        self.ask(&Request::Gone { name }).map(|_| ())
    }

    /// A pod of a tenant, with a listener.
    pub fn pod(&self, lab: &Lab, name: &str, tenant: &str) -> Result<Pod> {
        let pod = lab.pod(name)?;
        self.add(name, tenant, &pod.place.netns_path())?;
        self.listen(name)?;
        Ok(pod)
    }

    /// The vendor's own line first.
    pub fn status(&self) -> Result<Vec<Line>> {
        Ok(self
            .ask(&Request::Status)?
            .iter()
            .map(|l| words(l))
            .collect())
    }

    pub fn tenant(&self, name: &str) -> Result<Line> {
        let found = self
            .status()?
            .into_iter()
            .find(|l| l.get("tenant").is_some_and(|t| t == name));
        found.ok_or_else(|| Failure(format!("no tenant {name}; {}", self.proc.stderr())))
    }

    /// Waits until a field of a tenant's line has a value.
    pub fn wait(&self, tenant: &str, key: &str, value: &str) -> Result<Line> {
        until(&format!("{key}={value} of {tenant}"), PATIENCE, || {
            let line = self.tenant(tenant).map_err(|f| f.0)?;
            match line.get(key).map(String::as_str) == Some(value) {
                true => Ok(line),
                false => Err(format!("{line:?}")),
            }
        })
    }
}

/// A file in memory.
pub fn memfd(name: &str, bytes: &[u8]) -> Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = memfd_create(name, flags).map_err(Failure::at("memfd_create"))?;
    File::from(fd.try_clone()?).write_all(bytes)?;
    Ok(fd)
}

/// One that nobody can change.
pub fn sealed(bytes: &[u8]) -> Result<OwnedFd> {
    let fd = memfd("snapshot", bytes)?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    fcntl_add_seals(&fd, seals).map_err(Failure::at("seals"))?;
    Ok(fd)
}

/// A number of a status line.
pub fn number(line: &Line, key: &str) -> Result<u32> {
    let text = line
        .get(key)
        .ok_or_else(|| Failure(format!("no {key} in {line:?}")))?;
    text.parse()
        .map_err(Failure::at(format_args!("{key}={text}")))
}

pub fn words(line: &str) -> Line {
    let pair = |word: &str| {
        word.split_once('=')
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
    };
    line.split_whitespace().filter_map(pair).collect()
}

fn next(channel: &Channel) -> Result<Reply> {
    let timeout = Timespec::try_from(PATIENCE).ok();
    loop {
        let mut fds = [PollFd::new(channel, PollFlags::IN)];
        if poll(&mut fds, timeout.as_ref()).map_err(Failure::at("poll"))? == 0 {
            return Err(Failure::new("the vendor does not answer"));
        }
        match channel.recv().map_err(Failure::at("answer"))? {
            Received::Empty => {}
            Received::Closed => return Err(Failure::new("the vendor has closed the socket")),
            Received::Frame(frame, _) => return Reply::read(&frame).map_err(Failure::at("answer")),
        }
    }
}

/// A connection to a worker's listener, one command and one answer a line.
pub struct Talk {
    stream: BufReader<TcpStream>,
}

impl Talk {
    /// From the lab's node.
    pub fn to(lab: &Lab, pod: &Pod) -> Result<Self> {
        let at = SocketAddr::new(pod.v4.into(), PORT);
        Self::at(&lab.host().netns_path(), at)
    }

    /// From a network namespace.
    pub fn at(netns: &Path, at: SocketAddr) -> Result<Self> {
        let stream = within(netns, || TcpStream::connect_timeout(&at, PATIENCE))??;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    pub fn say(&mut self, command: &str) -> Result<()> {
        let line = format!("{command}\n");
        self.stream
            .get_mut()
            .write_all(line.as_bytes())
            .map_err(Failure::at(command))
    }

    pub fn ask(&mut self, command: &str) -> Result<String> {
        self.say(command)?;
        let mut line = String::new();
        self.stream
            .read_line(&mut line)
            .map_err(Failure::at(command))?;
        if line.ends_with('\n') {
            return Ok(line.trim_end().to_owned());
        }
        Err(Failure(format!("{command}: the connection ended")))
    }
}

/// Runs `f` in a network namespace, on a thread of its own.
pub fn within<T: Send>(netns: &Path, f: impl FnOnce() -> T + Send) -> Result<T> {
    let file = File::open(netns).map_err(Failure::at(netns.display()))?;
    thread::scope(|s| {
        let inside = s.spawn(move || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).map(|()| f())
        });
        inside
            .join()
            .map_err(|_| Failure::new("a panic in a namespace"))?
            .map_err(Failure::at("setns"))
    })
}

/// Proportional set size of a process, KiB.
pub fn pss_kib(pid: u32) -> Result<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix("Pss:"))
        .unwrap_or_default();
    line.trim()
        .trim_end_matches(" kB")
        .parse()
        .map_err(Failure::at("Pss"))
}

/// Open descriptors of a process.
pub fn descriptors(pid: u32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}
