//! One request and its response, both under way at once, between ends of any version of HTTP.

use std::{
    rc::Rc,
    task::{Context, Poll},
};

use h2::Reason;
use tokio::time::Instant;
use underpass_l7::Refusal;

use super::{
    STREAM_IDLE, answer,
    body::{Broken, Fault, Sink},
    ends::{Awaited, Client, Head},
    head::{self, Facts},
    relay::{Flow, Relay},
    upstream::Slot,
};
use crate::{
    clock::Clock, counters::Count, forward::INTERIM_MAX, plan::Ticket, pool::Key, shard::Shard,
};

pub(super) struct Exchange<'a> {
    pub shard: &'a Rc<Shard>,
    pub facts: &'a Facts,
    pub client: &'a mut Client,
    pub ticket: Ticket,
    pub key: Key,
    /// By the route's timeout or the caller's.
    pub deadline: Option<Instant>,
    /// The endpoint's connection has waited for this request, and may have ended meanwhile.
    pub reused: bool,
    pub upload: Relay,
    pub awaited: Option<Awaited>,
    pub download: Option<Relay>,
    /// Until the response is over.
    pub slot: Option<Slot>,
    /// Of HTTP/1: the endpoint's connection may be used again.
    pub keep: bool,
    pub interim: usize,
    /// A tunnel that has been granted.
    pub granted: bool,
    /// The endpoint takes no more of the request.
    pub deaf: bool,
    pub up_at: Instant,
    pub down_at: Instant,
}

/// How an exchange ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The response is over; all of the request has gone.
    Done {
        sent: bool,
    },
    /// The client has seen nothing, and the request may go once more.
    Again(Fault),
    /// The client has seen nothing, and is told this with this status.
    Refuse(Refusal, u16),
    /// The client's stream ends here.
    Cut(Reason),
    ClientGone,
}

use Outcome::{ClientGone, Cut, Done, Refuse};

impl Exchange<'_> {
    pub fn poll(&mut self, cx: &mut Context<'_>, clock: &mut Clock<'_>) -> Poll<Outcome> {
        let held = self.facts.tunnel && !self.granted;
        let upload = match self.deaf {
            _ if held => self.upload.flush(cx),
            false => self.upload.poll(cx),
            true => Flow::Done,
        };
        match upload {
            Flow::From(fault) => return Poll::Ready(self.client_gone(fault)),
            Flow::Refused(why) => return Poll::Ready(self.refuse(why, why.status())),
            // It may have answered; else it will be heard of there.
            Flow::To(_) => self.deaf = true,
            Flow::Done => {
                if let Some(fault) = self.upload.listen(cx) {
                    return Poll::Ready(self.client_gone(fault));
                }
            }
            // It may take no more though nothing is under way to it.
            _ => self.deaf |= self.upload.to.poll_fault(cx).is_some(),
        }
        if let Some(ended) = self.poll_head(cx) {
            return Poll::Ready(ended);
        }
        if held && self.granted {
            cx.waker().wake_by_ref();
        }
        let download = match &mut self.download {
            Some(download) => download.poll(cx),
            None => Flow::WaitRead,
        };
        match download {
            Flow::Done => {
                let sent = matches!(upload, Flow::Done) && !self.deaf;
                if sent || self.deaf || held || !self.keep {
                    return Poll::Ready(Done { sent });
                }
            }
            Flow::To(fault) => return Poll::Ready(self.client_gone(fault)),
            Flow::From(fault) => return Poll::Ready(self.endpoint_gone(fault)),
            Flow::Refused(why) => {
                self.ticket.failed();
                return Poll::Ready(self.refuse(why, 502));
            }
            Flow::Yield | Flow::WaitRead | Flow::WaitWrite => {}
        }
        let gone = match &mut self.download {
            Some(download) => download.to.poll_fault(cx),
            None => self.client.poll_fault(cx),
        };
        if let Some(fault) = gone.filter(|_| download != Flow::Done) {
            return Poll::Ready(self.client_gone(fault));
        }
        if upload == Flow::Yield || download == Flow::Yield {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.wait(cx, clock, upload, download)
    }

    /// Until the final response's head has been passed on.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Option<Outcome> {
        let limits = &self.shard.settings.limits;
        while let Some(awaited) = &mut self.awaited {
            let head = match awaited.poll(cx, self.facts, limits) {
                Poll::Pending => {
                    let flushed = self.client.flush(cx).err();
                    return flushed.map(|fault| self.client_gone(fault));
                }
                Poll::Ready(Err(Broken::Fault(fault))) => return Some(self.endpoint_gone(fault)),
                Poll::Ready(Err(Broken::Refused(why))) => {
                    self.ticket.failed();
                    return Some(self.refuse(why, 502));
                }
                Poll::Ready(Ok(head)) => head,
            };
            let passed = match head {
                Head::Interim(parts) => {
                    self.interim += 1;
                    self.shard.counters.add(Count::Interim);
                    if self.interim > INTERIM_MAX {
                        self.ticket.failed();
                        return Some(self.refuse(Refusal::InterimCount, 502));
                    }
                    self.client.interim(parts)
                }
                Head::Final(parts, source, end, keep) => {
                    let status = parts.status;
                    self.ticket.answered(status.as_u16());
                    if self.facts.grpc {
                        // Unless trailers say more.
                        let code = head::grpc_status(&parts.headers);
                        self.ticket.grpc(code.unwrap_or(head::GRPC_UNKNOWN));
                    }
                    self.shard.counters.add(Count::Responses);
                    self.granted = self.facts.tunnel && status.is_success();
                    if self.granted {
                        self.shard.counters.add(Count::Tunnels);
                    }
                    self.upload.keep_no_more();
                    self.keep = keep;
                    let begun = self.client.begin(parts, end);
                    if let Some(Awaited::H2 { slot, .. }) = self.awaited.take() {
                        self.slot = Some(slot);
                    }
                    begun.map(|to| {
                        self.download = Some(match end {
                            true => Relay::finished(source, to),
                            false => Relay::new(source, to, u64::MAX),
                        });
                    })
                }
            };
            if let Err(fault) = passed {
                return Some(self.client_gone(fault));
            }
        }
        None
    }

    /// The endpoint is told, by the code that the client gave.
    fn client_gone(&mut self, fault: Fault) -> Outcome {
        self.shard.counters.add(Count::ClientGone);
        self.upload.to.reset(match fault {
            Fault::Reset(reason) => reason,
            _ => Reason::CANCEL,
        });
        ClientGone
    }

    fn endpoint_gone(&mut self, fault: Fault) -> Outcome {
        if let Some(awaited) = &self.awaited {
            let untouched = match awaited {
                Awaited::H1(awaited) => awaited.is_untouched(),
                Awaited::H2 { .. } => true,
            };
            let nothing = untouched && self.interim == 0;
            let stale = fault == Fault::Gone && self.reused && self.facts.repeatable;
            if nothing && (stale || awaited.is_unprocessed(fault)) {
                return Outcome::Again(fault);
            }
            self.ticket.failed();
            return match fault {
                Fault::Reset(reason) if !self.client.is_h1() => Cut(reason),
                Fault::Malformed(_) => Refuse(Refusal::BadResponse, 502),
                Fault::Reset(_) | Fault::Gone => Refuse(Refusal::EndpointClosed, 502),
            };
        }
        self.ticket.failed();
        self.shard.counters.add(Count::Truncated);
        match fault {
            Fault::Reset(reason) => self.cut(reason),
            Fault::Malformed(_) | Fault::Gone => self.refuse(Refusal::EndpointClosed, 502),
        }
    }

    /// As the client will see it.
    pub fn count(&mut self, outcome: Outcome) {
        match outcome {
            Done { .. } => {
                let grpc = self.download.as_ref().and_then(|d| d.grpc);
                if let Some(code) = grpc.filter(|_| self.facts.grpc) {
                    self.ticket.grpc(code);
                }
            }
            Refuse(why, status) => self.facts.refused(&mut self.ticket, why, status),
            Cut(_) => self.ticket.refused(Refusal::EndpointClosed, 0),
            Outcome::Again(_) | ClientGone => {}
        }
    }

    fn cut(&mut self, reason: Reason) -> Outcome {
        if let Some(download) = &mut self.download {
            download.to.reset(reason);
        }
        Cut(reason)
    }

    /// The client is told; if its response has begun, by trailers of gRPC or else by a reset.
    fn refuse(&mut self, why: Refusal, status: u16) -> Outcome {
        let timeout = matches!(why, Refusal::RequestTimeout | Refusal::BodyTimeout);
        self.upload.to.reset(if timeout {
            Reason::CANCEL
        } else {
            Reason::INTERNAL_ERROR
        });
        let Some(download) = &mut self.download else {
            return Refuse(why, status);
        };
        self.shard.counters.refuse(why);
        self.facts.refused(&mut self.ticket, why, status);
        if let (Sink::H2(stream), true) = (&mut download.to, self.facts.grpc)
            && stream.send_trailers(answer::trailers(why)).is_ok()
        {
            return Done { sent: false };
        }
        let reason = if timeout {
            Reason::CANCEL
        } else {
            Reason::INTERNAL_ERROR
        };
        self.cut(reason)
    }

    /// Nothing can move now: how long may it stay so?
    fn wait(
        &mut self,
        cx: &mut Context<'_>,
        clock: &mut Clock<'_>,
        upload: Flow,
        download: Flow,
    ) -> Poll<Outcome> {
        let moved = self.download.as_mut().map(|d| std::mem::take(&mut d.moved));
        let (up, down) = (std::mem::take(&mut self.upload.moved), moved == Some(true));
        if up || down {
            let now = Instant::now();
            self.up_at = if up { now } else { self.up_at };
            self.down_at = if down { now } else { self.down_at };
        }
        let settings = &self.shard.settings;
        let answered = self.download.is_some();
        let request = self.deadline.map(|d| (d, Count::RequestTimeout));
        let of_upload = match upload {
            Flow::WaitRead if (!answered || download == Flow::Done) && !self.facts.tunnel => {
                Some((self.up_at + settings.body, Count::BodyTimeout))
            }
            Flow::WaitWrite => Some((self.up_at + settings.write, Count::SlowEndpoint)),
            _ => None,
        };
        let of_download = match download {
            Flow::WaitWrite => Some((self.down_at + settings.write, Count::SlowClient)),
            Flow::WaitRead | Flow::Done if answered => {
                let idle = self.up_at.max(self.down_at) + STREAM_IDLE;
                Some((idle, Count::StreamIdle))
            }
            _ => None,
        };
        let all = [request, of_upload, of_download];
        let Some((deadline, what)) = all.into_iter().flatten().min_by_key(|(at, _)| *at) else {
            return Poll::Pending;
        };
        if !clock.is_over(cx, deadline) {
            return Poll::Pending;
        }
        self.shard.counters.add(what);
        let why = match what {
            Count::BodyTimeout => Refusal::BodyTimeout,
            _ => Refusal::RequestTimeout,
        };
        if !matches!(
            what,
            Count::BodyTimeout | Count::SlowClient | Count::StreamIdle
        ) {
            self.ticket.failed();
        }
        Poll::Ready(self.refuse(why, why.status()))
    }
}
