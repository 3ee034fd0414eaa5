//! What an application can notice of the shortcut. Nothing else may differ, and what is listed here
//! and does not differ is an error as well. `docs/reference/shortcut-differences.md` is generated
//! from this file, which therefore uses nothing but the core library.

pub struct Exception {
    /// What differs, as an application sees it.
    pub what: &'static str,
    /// TCP against a socket that the shortcut has.
    pub tcp: &'static str,
    pub here: &'static str,
    pub cases: &'static [&'static str],
    /// Also without redirection, as long as the socket is in the map.
    pub mapped: bool,
    pub shortcut: bool,
    pub reason: &'static str,
    /// What keeps it from harming a user.
    pub protection: &'static str,
}

pub const EXCEPTIONS: &[Exception] = &[];
