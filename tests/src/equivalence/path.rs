//! How the bytes of a case travel.

use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Path {
    /// Not in the map.
    Tcp,
    /// In the map, nothing redirected.
    Mapped,
    /// Redirected where the guard allows it.
    Shortcut,
    /// The guard without the verdict program: it must fail.
    Control,
}

pub const ALL: [Path; 4] = [Path::Tcp, Path::Mapped, Path::Shortcut, Path::Control];

impl Path {
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Mapped => "mapped",
            Self::Shortcut => "shortcut",
            Self::Control => "control",
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
