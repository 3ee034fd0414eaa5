//! The watch for splice, `tp_btf/tcp_rcv_space_adjust`. It costs each TCP receive of the node 50 to
//! 70 ns, so it is attached only while something could enter the shortcut's map, or is in it.
//!
//! No socket in the map is ever without the watch: programs let sockets in only while
//! `SETTINGS[SHORTCUT_WATCHED]` is set, which it is after the link is pinned, and it is taken away, with
//! a grace period, before the link goes.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use aya::Ebpf;
use underpass_abi::{
    reason::code,
    tables::{maps, setting},
};

use super::{
    Feature, KernelError,
    apply::{self, Maps},
    btf, iter,
    loader::{self, Source},
    pins,
    program::{ITER_CANDIDATES, SPLICE},
};
use crate::sys::bpf::{link_create_tracing, obj_get, obj_pin};

/// How long the watch outlives the last candidate: a server that restarts finds it there.
const LINGER: Duration = Duration::from_secs(5);

/// Loaded, attached nowhere.
pub struct Programs {
    watch: OwnedFd,
    candidates: OwnedFd,
}

impl Programs {
    pub fn load(ebpf: &mut Ebpf, kernel: &btf::Btf) -> Result<Self, KernelError> {
        Ok(Self {
            watch: loader::load(ebpf, SPLICE, kernel)?,
            candidates: loader::load(ebpf, ITER_CANDIDATES, kernel)?,
        })
    }
}

pub struct SpliceWatch {
    /// `None`: the shortcut is off, so that the watch can only end.
    programs: Option<Programs>,
    link: PathBuf,
    attached: bool,
    /// At the last look.
    candidates: usize,
    idle_since: Option<Instant>,
    failure: Option<KernelError>,
}

impl SpliceWatch {
    /// Goes on from what an earlier agent left. The switches are set already.
    pub fn adopt(
        programs: Option<Programs>,
        source: &Source,
        maps: &Maps,
    ) -> Result<Self, KernelError> {
        let link = source.pins.link(SPLICE);
        let _ = fs::remove_file(beside(&link));
        let mut watch = Self {
            programs,
            attached: obj_get(&link).is_ok(),
            link,
            candidates: 0,
            idle_since: None,
            failure: None,
        };
        if !watch.attached {
            // Somebody took the link away.
            apply::set(maps, setting::SHORTCUT_WATCHED, 0)?;
        }
        if watch.programs.is_some() && (watch.attached || in_use(maps)?) {
            // Such a link cannot be moved to another program: the new one is there before the old goes.
            watch.attach(maps)?;
        }
        watch.look(maps);
        Ok(watch)
    }

    /// Attaches or detaches, by what is in the maps now. Takes 0.1 ms if there is nothing to do (measured).
    pub fn look(&mut self, maps: &Maps) {
        self.failure = self.follow(maps).err();
    }

    fn follow(&mut self, maps: &Maps) -> Result<(), KernelError> {
        self.candidates = match &self.programs {
            Some(programs) => {
                let map = apply::map(maps, maps::CANDIDATES)?;
                iter::words(&programs.candidates, map)
                    .map_err(KernelError::io(code::FEATURE_OFF, ITER_CANDIDATES))?
            }
            None => 0,
        };
        if self.candidates > 0 {
            self.idle_since = None;
            if !self.attached {
                return self.attach(maps);
            }
            return apply::set(maps, setting::SHORTCUT_WATCHED, 1);
        }
        if !self.attached || in_use(maps)? {
            return Ok(());
        }
        let since = *self.idle_since.get_or_insert_with(Instant::now);
        if self.programs.is_none() || since.elapsed() >= LINGER {
            self.detach(maps)?;
        }
        Ok(())
    }

    fn attach(&mut self, maps: &Maps) -> Result<(), KernelError> {
        let Some(programs) = &self.programs else {
            return Ok(());
        };
        let failed = || KernelError::io(code::FEATURE_OFF, format!("{SPLICE}: attach"));
        let link = link_create_tracing(&programs.watch).map_err(failed())?;
        // In one step, also for an agent that is killed here.
        let new = beside(&self.link);
        obj_pin(&link, &new)
            .and_then(|()| fs::rename(&new, &self.link))
            .map_err(failed())?;
        self.attached = true;
        apply::set(maps, setting::SHORTCUT_WATCHED, 1)
    }

    /// Unless a socket has entered the map until nobody could any more.
    fn detach(&mut self, maps: &Maps) -> Result<(), KernelError> {
        apply::set(maps, setting::SHORTCUT_WATCHED, 0)?;
        apply::grace()?;
        if in_use(maps)? {
            return Ok(());
        }
        pins::unlink_link(&self.link)?;
        self.attached = false;
        Ok(())
    }

    /// What `status` says.
    pub fn describe(&self, feature: &mut Feature) {
        feature.on = self.attached;
        (feature.code, feature.detail) = match (&self.failure, self.attached) {
            (Some(e), _) => (e.code, e.detail.clone()),
            (None, true) => (
                0,
                format!("attached; {} listeners qualify", self.candidates),
            ),
            (None, false) => (0, "not attached: nothing can take the shortcut".into()),
        };
    }
}

/// The next pin of a link. A bpffs takes no names with a dot.
fn beside(link: &Path) -> PathBuf {
    link.with_file_name(format!("{SPLICE}_new"))
}

/// True if a socket is in the map.
pub(super) fn in_use(maps: &Maps) -> Result<bool, KernelError> {
    let mut found = false;
    let walked = apply::map(maps, maps::SHORTCUT)?.each_key(|_| {
        found = true;
        Err(io::ErrorKind::Interrupted.into())
    });
    match walked {
        Err(e) if !found => Err(apply::failed(maps::SHORTCUT)(e)),
        _ => Ok(found),
    }
}
