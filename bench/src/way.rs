//! The ways that the bytes of one case can go; each is compared with the first.

use serde::Serialize;

use crate::lab::Side;

/// Whose connections go through an HTTP worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Workers {
    #[default]
    None,
    /// The client's, at its own.
    Client,
    /// Those of the server as well, at the server's.
    Both,
}

/// What runs of the mesh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mesh {
    pub shortcut: bool,
    pub workers: Workers,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// TCP, and no mesh on the machine: the baseline.
    NoMesh,
    /// TCP under the mesh, the shortcut off.
    Mesh,
    /// The mesh with `--shortcut on`.
    Shortcut,
    /// A Unix socket without mesh: what leaving TCP out can give.
    Unix,
}

impl Way {
    /// What the mesh costs.
    pub const PLAIN: &[Self] = &[Self::NoMesh, Self::Mesh];
    /// What the shortcut gives.
    pub const ALL: &[Self] = &[Self::NoMesh, Self::Mesh, Self::Shortcut, Self::Unix];

    pub const fn name(self) -> &'static str {
        match self {
            Self::NoMesh => "no mesh",
            Self::Mesh => "mesh",
            Self::Shortcut => "shortcut",
            Self::Unix => "unix",
        }
    }

    /// Whose parties carry it. The Unix socket is the same processes' as no mesh.
    pub const fn side(self) -> Side {
        match self {
            Self::NoMesh | Self::Unix => Side::Off,
            Self::Mesh | Self::Shortcut => Side::On,
        }
    }

    /// What runs meanwhile, if anything does.
    pub const fn mesh(self) -> Option<Mesh> {
        let workers = Workers::None;
        let shortcut = match self {
            Self::NoMesh | Self::Unix => return None,
            Self::Mesh => false,
            Self::Shortcut => true,
        };
        Some(Mesh { shortcut, workers })
    }
}
