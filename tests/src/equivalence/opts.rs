//! Socket options that rustix has no name for.

use nix::{
    getsockopt_impl, setsockopt_impl, sockopt_impl,
    sys::socket::{getsockopt, setsockopt},
};
use std::{io, os::fd::AsFd};

sockopt_impl!(RcvLowat, Both, libc::SOL_SOCKET, libc::SO_RCVLOWAT, i32);
sockopt_impl!(ZeroCopy, Both, libc::SOL_SOCKET, libc::SO_ZEROCOPY, i32);
sockopt_impl!(PeekOff, Both, libc::SOL_SOCKET, libc::SO_PEEK_OFF, i32);
sockopt_impl!(
    DeferAccept,
    Both,
    libc::IPPROTO_TCP,
    libc::TCP_DEFER_ACCEPT,
    i32
);
sockopt_impl!(FastOpen, Both, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, i32);
sockopt_impl!(
    Info,
    GetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    libc::tcp_info
);

pub const MSG_ZEROCOPY: u32 = libc::MSG_ZEROCOPY as u32;
pub const MSG_FASTOPEN: u32 = libc::MSG_FASTOPEN as u32;

pub fn set_rcvlowat(fd: &impl AsFd, value: i32) -> io::Result<()> {
    Ok(setsockopt(fd, RcvLowat, &value)?)
}

pub fn set_zerocopy(fd: &impl AsFd) -> io::Result<()> {
    Ok(setsockopt(fd, ZeroCopy, &1)?)
}

pub fn set_peek_off(fd: &impl AsFd, value: i32) -> io::Result<()> {
    Ok(setsockopt(fd, PeekOff, &value)?)
}

pub fn set_defer_accept(fd: &impl AsFd, seconds: i32) -> io::Result<()> {
    Ok(setsockopt(fd, DeferAccept, &seconds)?)
}

pub fn set_fastopen(fd: &impl AsFd, queue: i32) -> io::Result<()> {
    Ok(setsockopt(fd, FastOpen, &queue)?)
}

pub fn tcp_info(fd: &impl AsFd) -> io::Result<libc::tcp_info> {
    Ok(getsockopt(fd, Info)?)
}
