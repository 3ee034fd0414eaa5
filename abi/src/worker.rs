//! What a worker asks its accepted sockets by getsockopt(2). The program answers only sockets that were
//! made below the vendor's cgroup.

/// `SOL_IP`: for connections of IPv4, also on an IPv6 socket.
pub const SOL_IP: i32 = 0;
/// `SOL_IPV6`
pub const SOL_IPV6: i32 = 41;
/// `SO_ORIGINAL_DST`, `IP6T_SO_ORIGINAL_DST`: what was dialed, as `sockaddr_in` or `sockaddr_in6`;
/// `ENOENT` on a connection that the mesh did not send there. What conntrack answers in sidecar mode.
pub const ORIGINAL_DST: i32 = 80;
/// `SOL_SOCKET`
pub const SOL_SOCKET: i32 = 1;
/// `SO_PEERCRED`: a [`Peer`]. (The kernel itself says of every TCP socket that its peer is process 0.)
pub const PEERCRED: i32 = 17;

/// Who dialed, as far as it is proven, in the shape of the kernel's `struct ucred`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// In the place of a process id: a [`kind`].
    pub kind: u32,
    /// In the place of a user id: a workload index, 0 if it is none.
    pub workload: u32,
    /// In the place of a group id: 0.
    pub pad: u32,
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
    /// The connection did not come by way of the mesh.
    pub const NOT_TOLD: u32 = 5;
}

const _: () = assert!(size_of::<Peer>() == 12);
