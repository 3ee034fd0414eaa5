//! The runner's handle on the engine: turns redirection off and on, reads its counters. It writes the
//! same pinned settings as the agent's kill switch.

use std::{
    fs, io,
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use underpass_abi::{
    plain,
    shortcut::{ProgramKey, switch},
    sock::counter,
    tables::{maps, setting},
};
use underpass_agent::{
    kernel::shortcut::set_switches,
    sys::{
        bpf::{link_detach, obj_get},
        maps::{Map, Put},
    },
};

use super::{Path, fixture::PROGRAM};

const ATTACHED_WITHIN: Duration = Duration::from_secs(10);

/// Messages since the engine was installed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counters {
    pub redirected: u64,
    /// Messages of sockets in the map that went by TCP, and connections that did not enter it.
    pub stayed: u64,
}

impl Counters {
    pub fn since(self, before: Self) -> Self {
        Self {
            redirected: self.redirected - before.redirected,
            stayed: self.stayed - before.stayed,
        }
    }
}

pub struct Engine {
    path: Path,
    /// The agent's pins, none for [`Path::Tcp`].
    pins: Option<PathBuf>,
    /// Changes from one path to the other that scripts made.
    pub mixes: u64,
    on: bool,
    /// The engine's own, while it is replaced.
    node_bound: Option<Vec<u8>>,
}

impl Engine {
    /// `pins`: what the agent has pinned for its ABI version. Redirection is on.
    pub fn new(path: Path, pins: Option<PathBuf>) -> io::Result<Self> {
        if path != Path::Tcp && pins.is_none() {
            return Err(io::Error::other(format!("{path} needs the agent's pins")));
        }
        let mut engine = Self {
            path,
            pins,
            mixes: 0,
            on: false,
            node_bound: None,
        };
        engine.forget_splices()?;
        engine.redirect(true)?;
        engine.mixes = 0;
        Ok(engine)
    }

    /// Lets the next messages take the shortcut, or sends them over TCP. Without effect on the
    /// paths that never redirect.
    pub fn redirect(&mut self, on: bool) -> io::Result<()> {
        let redirects = matches!(self.path, Path::Shortcut | Path::Control);
        if self.on != on && redirects {
            self.mixes += 1;
        }
        self.on = on;
        let mut bits = switch::INSERT | switch::NODE_ON;
        if on && redirects {
            bits |= switch::REDIRECT;
        }
        if self.path == Path::Control {
            bits |= switch::WITHOUT_VERDICT;
        }
        match &self.pins {
            Some(pins) if self.path != Path::Tcp => set_switches(&pins.join("maps"), bits),
            _ => Ok(()),
        }
    }

    /// As if TCP's memory on the node were short, or the bound as it was.
    pub fn short_of_memory(&mut self, short: bool) -> io::Result<()> {
        let Some(map) = self.map(maps::SETTINGS)? else {
            return Ok(());
        };
        let index = plain::bytes(&setting::SHORTCUT_NODE);
        if short {
            self.mixes += u64::from(self.path == Path::Shortcut);
            self.node_bound = map.get(index)?;
            // Signed: a quiet node's count may be below zero.
            map.put(index, plain::bytes(&(1_u64 << 63)), Put::Any)
        } else if let Some(bound) = self.node_bound.take() {
            map.put(index, &bound, Put::Any)
        } else {
            Ok(())
        }
    }

    pub fn counters(&self) -> io::Result<Counters> {
        let Some(map) = self.map(maps::COUNTERS)? else {
            return Ok(Counters::default());
        };
        let sum = |index: u32| -> io::Result<u64> {
            let value = map.get(plain::bytes(&index))?.unwrap_or_default();
            let each = value.as_chunks::<8>().0.iter();
            Ok(each.map(|c| u64::from_ne_bytes(*c)).sum())
        };
        let mut stayed = 0;
        for index in counter::SHORTCUT_OFF..counter::COUNT as u32 {
            stayed += sum(index)?;
        }
        Ok(Counters {
            redirected: sum(counter::SHORTCUT_TAKEN)?,
            stayed,
        })
    }

    /// A case that splices must not decide how the next cases go.
    fn forget_splices(&self) -> io::Result<()> {
        if let Some(map) = self.map(maps::PROGRAMS)? {
            map.delete(plain::bytes(&ProgramKey::new(PROGRAM)))?;
        }
        Ok(())
    }

    fn map(&self, name: &str) -> io::Result<Option<Map>> {
        let Some(pins) = &self.pins else {
            return Ok(None);
        };
        let fd = obj_get(&pins.join("maps").join(name))?;
        Map::new(fd, possible_cpus()?).map(Some)
    }
}

/// A listener that qualifies, for as long as it is held: between the cases' own, the agent would take
/// the watch for splice away, without which nothing enters the map. Returns once it is attached.
pub fn stand_by(path: Path, pins: Option<&std::path::Path>) -> io::Result<Option<TcpListener>> {
    let Some(pins) = pins.filter(|_| path != Path::Tcp) else {
        return Ok(None);
    };
    // What this program did in an earlier run is forgotten.
    Engine::new(path, Some(pins.to_owned()))?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let fd = obj_get(&pins.join("maps").join(maps::SETTINGS))?;
    let settings = Map::new(fd, possible_cpus()?)?;
    let until = Instant::now() + ATTACHED_WITHIN;
    loop {
        let value = settings.get(plain::bytes(&setting::SHORTCUT_WATCHED))?;
        if value.is_some_and(|v| v.iter().any(|b| *b != 0)) {
            return Ok(Some(listener));
        }
        if Instant::now() > until {
            return Err(io::Error::other("the watch for splice is not attached"));
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Takes the verdict program off the map, for the control: sockets that enter later are without it.
pub fn without_verdict(pins: &std::path::Path) -> io::Result<()> {
    link_detach(obj_get(&pins.join("links/up_sk_skb"))?)
}

fn possible_cpus() -> io::Result<usize> {
    let text = fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = text.trim().rsplit(['-', ',']).next().unwrap_or("0");
    Ok(last.parse::<usize>().map_err(io::Error::other)? + 1)
}
