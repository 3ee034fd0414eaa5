//! A timer that is exact to some microseconds, as a file descriptor. An event loop's own is exact to a
//! millisecond, which an open loop would show as latency.

use std::{io, os::fd::OwnedFd, time::Duration};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

/// Not set.
pub fn create() -> io::Result<OwnedFd> {
    let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
    Ok(timerfd_create(TimerfdClockId::Monotonic, flags)?)
}

/// Once, so long from now.
pub fn set(timer: &OwnedFd, after: Duration) -> io::Result<()> {
    let zero = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // Zero would switch it off.
    let after = after.max(Duration::from_nanos(1));
    let value = Itimerspec {
        it_interval: zero,
        it_value: Timespec::try_from(after).map_err(io::Error::other)?,
    };
    timerfd_settime(timer, TimerfdTimerFlags::empty(), &value)?;
    Ok(())
}

/// Takes the notice that it has gone off.
pub fn clear(timer: &OwnedFd) {
    // Nothing to take if it was set anew meanwhile.
    let _ = rustix::io::read(timer, &mut [0; 8]);
}
