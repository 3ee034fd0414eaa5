//! The codec as the engine uses it, without sockets: requests in pieces of any size.

use underpass_l7::{Refusal, framing::Framing, head::Fields as _, limit::Limits};
use underpass_proxy::h1::{
    body::Body,
    request,
    scan::{HeadReader, Kind},
};

use super::strict::Message;

/// What became of a stream of requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// As `l7` saw them; Host is the accepted one. The last may lack some of its body.
    pub decided: Vec<Message>,
    pub forwarded: Vec<u8>,
    pub refusal: Option<Refusal>,
    /// How many of them were passed on to the end.
    pub whole: usize,
}

pub const AUTHORITY: &str = "10.0.0.1:80";

enum At {
    Head(HeadReader),
    /// The same bytes are read twice: to pass them on, and for their data.
    Body(Body, Body),
    /// A tunnel may follow, or nothing.
    Stopped,
}

pub struct Feeder {
    limits: Limits,
    at: At,
    input: Vec<u8>,
    pub outcome: Outcome,
}

impl Feeder {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            at: At::Head(HeadReader::new(Kind::Request)),
            input: Vec::new(),
            outcome: Outcome::default(),
        }
    }

    pub fn feed(&mut self, piece: &[u8]) {
        self.input.extend_from_slice(piece);
        while let Ok(true) = self.step().map_err(|why| {
            self.outcome.refusal = Some(why);
            self.at = At::Stopped;
        }) {}
    }

    /// Whether there may be more to do.
    fn step(&mut self) -> Result<bool, Refusal> {
        let outcome = &mut self.outcome;
        match &mut self.at {
            At::Stopped => Ok(false),
            At::Head(reader) => {
                let Some(head) = reader.find(&self.input, &self.limits)? else {
                    return Ok(false);
                };
                let mut message = None;
                let out = &mut outcome.forwarded;
                let (facts, decided) = request::forward(
                    &self.input[head.clone()],
                    &self.limits,
                    AUTHORITY,
                    out,
                    |r, a| {
                        let mut target = Vec::new();
                        a.target.write(&mut target);
                        let fields = r.fields.iter().map(|(name, value)| {
                            let name = String::from_utf8_lossy(name).to_ascii_lowercase();
                            (name, value.trim_ascii().to_vec())
                        });
                        let mut fields: Vec<_> = fields.filter(|(n, _)| n != "host").collect();
                        let host = a.host.map_or(AUTHORITY.into(), |h| match h.port {
                            Some(port) => format!("{}:{port}", h.name),
                            None => h.name.to_owned(),
                        });
                        fields.push(("host".into(), host.into_bytes()));
                        message = Some(Message {
                            method: String::from_utf8_lossy(r.method).into(),
                            target: String::from_utf8_lossy(&target).into(),
                            fields,
                            body: Vec::new(),
                        });
                        Ok::<_, Refusal>(())
                    },
                )?;
                decided?;
                outcome.decided.extend(message);
                self.input.drain(..head.end);
                if facts.framing == Framing::Tunnel || facts.upgrade {
                    outcome.whole += 1;
                    self.at = At::Stopped;
                    return Ok(false);
                }
                let body = Body::new(facts.framing, self.limits.body_bytes);
                self.at = At::Body(body, body);
                Ok(true)
            }
            At::Body(body, data) => {
                let len = body.pass(&self.input)?;
                outcome.forwarded.extend_from_slice(&self.input[..len]);
                let last = outcome.decided.last_mut().expect("its head has been read");
                let stripped = data.strip(&self.input, &mut last.body)?;
                assert_eq!((stripped, &*data), (len, &*body));
                self.input.drain(..len);
                if !body.is_done() {
                    return Ok(false);
                }
                outcome.whole += 1;
                self.at = At::Head(HeadReader::new(Kind::Request));
                Ok(true)
            }
        }
    }
}

/// All of it in pieces of these sizes, again and again.
pub fn feed(input: &[u8], sizes: &[usize], limits: Limits) -> Outcome {
    let mut feeder = Feeder::new(limits);
    let mut rest = input;
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, after) = rest.split_at((*size).clamp(1, rest.len()));
        feeder.feed(piece);
        rest = after;
    }
    feeder.outcome
}

/// That the next parser reads what was decided on.
pub fn check(outcome: &Outcome) -> Result<(), String> {
    let read = super::strict::read(&outcome.forwarded)?;
    if read.len() != outcome.whole {
        return Err(format!(
            "{} messages, {} were passed on",
            read.len(),
            outcome.whole
        ));
    }
    for (decided, read) in outcome.decided.iter().zip(read) {
        let plain = |message: &Message| {
            let of_hop = |name: &str| matches!(name, "connection" | "te" | "upgrade");
            let mut fields = message.fields.clone();
            fields.retain(|(name, _)| !of_hop(name));
            for (name, value) in &mut fields {
                if name == "transfer-encoding" {
                    value.make_ascii_lowercase();
                }
            }
            // Of their order only that of equal names has a meaning.
            fields.sort_by(|a, b| a.0.cmp(&b.0));
            Message {
                fields,
                ..message.clone()
            }
        };
        if plain(decided) != plain(&read) {
            return Err(format!("decided on {decided:?}\nforwarded {read:?}"));
        }
    }
    Ok(())
}
