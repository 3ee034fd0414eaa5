//! Who talks to the vendor on its control socket: root only, a bounded number, one question at a time.

use std::{io, os::fd::OwnedFd};

use underpass_abi::reason::code;
use underpass_api::vend::{
    channel::{Broken, Channel, Listener, Received},
    control::{Reply, Request},
};

use crate::{log, outbox::Outbox};

/// Clients at a time; the connections of more are closed.
pub const CLIENTS_MAX: usize = 16;

#[derive(Debug)]
pub struct Client {
    pub channel: Channel,
    out: Outbox,
    /// The workload whose answer it waits for.
    pub waits_for: Option<u64>,
    /// Gets this for an answer, whatever it asks.
    unwelcome: Option<Reply>,
    /// Gets its last answer and is closed.
    over: bool,
}

impl Client {
    pub fn answer(&mut self, reply: &Reply) {
        self.waits_for = None;
        self.over |= !self.out.push(reply.frame(), vec![]);
    }

    pub fn refuse(&mut self, code: u16, why: impl Into<String>) {
        let why = why.into();
        self.answer(&Reply::Refused { code, why });
    }

    pub fn behind(&self) -> bool {
        !self.out.is_empty()
    }

    /// The next question with its descriptors, if it is this client's turn to ask.
    pub fn ask(&mut self) -> Option<(Request, Vec<OwnedFd>)> {
        if self.waits_for.is_some() || self.over {
            return None;
        }
        match self.channel.recv() {
            Ok(Received::Empty) => None,
            Ok(Received::Closed) | Err(Broken::Io(_)) => {
                self.over = true;
                None
            }
            Ok(Received::Frame(..)) if self.unwelcome.is_some() => {
                let reply = self.unwelcome.take()?;
                self.answer(&reply);
                self.over = true;
                None
            }
            Ok(Received::Frame(frame, fds)) => match Request::read(&frame, fds.len()) {
                Ok(request) => Some((request, fds)),
                Err(e) => self.not_understood(&e),
            },
            Err(Broken::Malformed(e)) => self.not_understood(&e),
        }
    }

    fn not_understood<T>(&mut self, e: &underpass_api::vend::Malformed) -> Option<T> {
        self.refuse(code::VEND_PROTOCOL, e.to_string());
        None
    }

    /// False when it is to be forgotten.
    pub fn flush(&mut self) -> bool {
        let sent = self.out.flush(&self.channel).is_ok();
        sent && !(self.over && self.out.is_empty())
    }
}

/// Takes new clients in.
///
/// # Errors
/// Of `accept`.
pub fn accept(listener: &Listener, clients: &mut Vec<Client>) -> io::Result<()> {
    while let Some((channel, uid)) = listener.accept()? {
        // A refusal is read only by one who has been heard: closing at once would lose it.
        let unwelcome = (uid != 0).then(|| {
            let (code, why) = (code::VEND_FORBIDDEN, format!("user {uid}"));
            log::warn(code, &why);
            Reply::Refused { code, why }
        });
        if clients.len() == CLIENTS_MAX {
            log::warn(code::VEND_LIMIT, "clients");
            continue;
        }
        clients.push(Client {
            channel,
            out: Outbox::default(),
            waits_for: None,
            unwelcome,
            over: false,
        });
    }
    Ok(())
}
