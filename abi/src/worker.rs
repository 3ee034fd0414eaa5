//! What a worker asks its accepted sockets by getsockopt(2). The program answers only sockets that were
//! made below the vendor's cgroup.

/// `SOL_IP`: for connections of IPv4, also on an IPv6 socket.
pub const SOL_IP: i32 = 0;
/// `SOL_IPV6`
pub const SOL_IPV6: i32 = 41;
/// `SO_ORIGINAL_DST`, `IP6T_SO_ORIGINAL_DST`: what was dialed, as `sockaddr_in` or `sockaddr_in6`;
/// `ENOENT` on a connection that the mesh did not send there. What conntrack answers in sidecar mode.
pub const ORIGINAL_DST: i32 = 80;
/// At level `SOL_IP`: a [`Peer`]; `ENOENT` on a connection that was not steered. ("UP")
pub const PEER: i32 = 0x5550;

/// Who dialed a steered connection, as far as it is proven.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Workload index, 0: none.
    pub workload: u32,
    /// A [`kind`].
    pub kind: u32,
}

/// What a [`Peer`] is.
pub mod kind {
    /// A workload of this node, proven by its connect, or of another, by its address.
    pub const WORKLOAD: u32 = 1;
    /// A process of this node outside the mesh.
    pub const HOST: u32 = 2;
    /// On this node, but no connect of it was seen.
    pub const UNKNOWN_LOCAL: u32 = 3;
    /// Off this node and no workload.
    pub const OUTSIDE: u32 = 4;
}

const _: () = assert!(size_of::<Peer>() == 8);
