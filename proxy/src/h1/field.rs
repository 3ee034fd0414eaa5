//! The fields of a head that matter on the way from one hop to the next (RFC 9110, 7.6).

use httparse::Header;
use underpass_l7::{Refusal, head::Fields};

use super::{FIELDS_MAX, OPTIONS_MAX};

/// Fields that a proxy does not pass on as they are, and those that frame or route a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    Connection,
    ContentLength,
    Expect,
    Host,
    Http2Settings,
    KeepAlive,
    ProxyConnection,
    Te,
    Trailer,
    TransferEncoding,
    Upgrade,
    Other,
}

impl Known {
    pub fn of(name: &[u8]) -> Self {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        match name.len() {
            2 if is("te") => Self::Te,
            4 if is("host") => Self::Host,
            6 if is("expect") => Self::Expect,
            7 if is("upgrade") => Self::Upgrade,
            7 if is("trailer") => Self::Trailer,
            10 if is("connection") => Self::Connection,
            10 if is("keep-alive") => Self::KeepAlive,
            14 if is("content-length") => Self::ContentLength,
            14 if is("http2-settings") => Self::Http2Settings,
            16 if is("proxy-connection") => Self::ProxyConnection,
            17 if is("transfer-encoding") => Self::TransferEncoding,
            _ => Self::Other,
        }
    }

    /// Of this connection alone.
    fn is_of_hop(self) -> bool {
        matches!(
            self,
            Self::Connection
                | Self::Http2Settings
                | Self::KeepAlive
                | Self::ProxyConnection
                | Self::Te
                | Self::Upgrade
        )
    }
}

/// Parsed fields, without those that are not passed on.
#[derive(Clone, Copy, Debug)]
pub struct Lines<'h, 'b> {
    all: &'h [Header<'b>],
    /// One bit for each of them.
    dropped: u128,
}

const _: () = assert!(FIELDS_MAX <= u128::BITS as usize);

impl<'h, 'b> Lines<'h, 'b> {
    pub(crate) fn new(all: &'h [Header<'b>], dropped: u128) -> Self {
        Self { all, dropped }
    }

    /// Also what they are.
    pub(crate) fn kept(&self) -> impl Iterator<Item = (Known, &'b [u8], &'b [u8])> {
        let (all, dropped) = (self.all, self.dropped);
        let kept = all
            .iter()
            .enumerate()
            .filter(move |(i, _)| dropped >> i & 1 == 0);
        kept.map(|(_, line)| {
            (
                Known::of(line.name.as_bytes()),
                line.name.as_bytes(),
                trim(line.value),
            )
        })
    }
}

impl Fields for Lines<'_, '_> {
    fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let kept = self
            .all
            .iter()
            .enumerate()
            .filter(|(i, _)| self.dropped >> i & 1 == 0);
        kept.map(|(_, line)| (line.name.as_bytes(), line.value))
    }
}

/// What a head says about its connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hop<'b> {
    pub close: bool,
    pub keep_alive: bool,
    /// TE has `trailers`.
    pub trailers: bool,
    /// The Upgrade field's value, if Connection has `upgrade` and there is one such field.
    pub upgrade: Option<&'b [u8]>,
    /// Fields that end here: one bit for each.
    pub dropped: u128,
    /// The first field of each of these names, as in `dropped`; 0 if there is none.
    pub te_at: u128,
    pub upgrade_at: u128,
    pub connection_at: u128,
}

impl<'b> Hop<'b> {
    /// Refuses a Connection field that would take away what frames or routes the message.
    pub fn read(lines: &[Header<'b>]) -> Result<Self, Refusal> {
        let mut hop = Self::default();
        let mut options = 0;
        let mut upgrades = (0, None);
        let mut asked = false;
        for (i, line) in lines.iter().enumerate() {
            let known = Known::of(line.name.as_bytes());
            if !known.is_of_hop() {
                continue;
            }
            hop.dropped |= 1 << i;
            let first = |at: &mut u128| *at = if *at == 0 { 1 << i } else { *at };
            match known {
                Known::Te => {
                    hop.trailers |= list(line.value).any(|t| t.eq_ignore_ascii_case(b"trailers"));
                    first(&mut hop.te_at);
                }
                Known::Upgrade => {
                    upgrades = (upgrades.0 + 1, Some(trim(line.value)));
                    first(&mut hop.upgrade_at);
                }
                Known::Connection => {
                    first(&mut hop.connection_at);
                    for option in list(line.value) {
                        options += 1;
                        if options > OPTIONS_MAX {
                            return Err(Refusal::ConnectionOption);
                        }
                        asked |= option.eq_ignore_ascii_case(b"upgrade");
                        hop.option(option, lines)?;
                    }
                }
                _ => {}
            }
        }
        hop.upgrade = upgrades.1.filter(|_| asked && upgrades.0 == 1);
        Ok(hop)
    }

    fn option(&mut self, option: &[u8], lines: &[Header<'_>]) -> Result<(), Refusal> {
        if option.eq_ignore_ascii_case(b"close") {
            self.close = true;
        } else if option.eq_ignore_ascii_case(b"keep-alive") {
            self.keep_alive = true;
        } else {
            match Known::of(option) {
                Known::ContentLength | Known::Expect | Known::Host | Known::TransferEncoding => {
                    return Err(Refusal::ConnectionOption);
                }
                Known::Other => {
                    let named = |l: &Header<'_>| l.name.as_bytes().eq_ignore_ascii_case(option);
                    let bits = lines.iter().enumerate().filter(|(_, l)| named(l));
                    self.dropped = bits.fold(self.dropped, |bits, (i, _)| bits | 1 << i);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Elements of a comma-separated list, empty ones left out.
pub(crate) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|b| *b == b',')
        .map(trim)
        .filter(|e| !e.is_empty())
}

pub(crate) fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// The refusal for what `httparse` does not take; `line` for the first line.
pub(crate) fn refusal(error: httparse::Error, line: Refusal) -> Refusal {
    use httparse::Error;
    match error {
        Error::HeaderName => Refusal::HeaderName,
        Error::HeaderValue => Refusal::HeaderValue,
        Error::TooManyHeaders => Refusal::HeaderCount,
        Error::NewLine => Refusal::BadLine,
        Error::Token | Error::Status | Error::Version => line,
    }
}

/// Writes one field.
pub(crate) fn write(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}
