//! One bare TCP segment of IPv4, as no socket would send it.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
};

use clap::{Args, ValueEnum};
use rustix::net::{
    AddressFamily, SendFlags, SocketAddrV4 as To, SocketType, bind, ipproto, sendto, socket,
};

#[derive(Args)]
pub struct SegmentArgs {
    from: SocketAddrV4,
    to: SocketAddrV4,
    #[arg(long, value_enum)]
    flags: Flags,
}

#[derive(Clone, Copy, ValueEnum)]
enum Flags {
    Syn = 0x02,
    Ack = 0x10,
}

pub fn send(args: &SegmentArgs) -> io::Result<()> {
    let raw = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::TCP))?;
    bind(&raw, &To::new(*args.from.ip(), 0))?;
    let segment = header(args.from, args.to, args.flags);
    sendto(
        &raw,
        &segment,
        SendFlags::empty(),
        &To::new(*args.to.ip(), 0),
    )?;
    println!("{}", serde_json::json!({"ok": true}));
    Ok(())
}

/// RFC 9293, section 3.1, without options and data.
fn header(from: SocketAddrV4, to: SocketAddrV4, flags: Flags) -> [u8; 20] {
    let mut h = [0; 20];
    h[..2].copy_from_slice(&from.port().to_be_bytes());
    h[2..4].copy_from_slice(&to.port().to_be_bytes());
    h[12] = 5 << 4; // Words of the header.
    h[13] = flags as u8;
    h[14..16].copy_from_slice(&1024_u16.to_be_bytes());
    let sum = checksum(*from.ip(), *to.ip(), &h);
    h[16..18].copy_from_slice(&sum.to_be_bytes());
    h
}

/// Over the pseudo-header and the segment, which has an even length.
fn checksum(from: Ipv4Addr, to: Ipv4Addr, segment: &[u8; 20]) -> u16 {
    const TCP: u32 = 6;
    let words = |bytes: &[u8]| -> u32 {
        let (pairs, _) = bytes.as_chunks::<2>();
        pairs
            .iter()
            .map(|p| u32::from(u16::from_be_bytes(*p)))
            .sum()
    };
    let mut sum = words(&from.octets()) + words(&to.octets()) + words(segment);
    sum += TCP + segment.len() as u32;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
