//! What a shard has done, and what it has refused. Nobody else writes the numbers; another thread may
//! read them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use underpass_l7::Refusal;

use crate::metrics::cells;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident $text:literal,)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Count { $($(#[$doc])* $name,)* }

        impl Count {
            pub const ALL: &[Count] = &[$(Self::$name,)*];

            /// As metrics and logs name it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

counters! {
    /// From clients.
    Accepted "connections_accepted",
    /// Closed, also those that were not accepted for long.
    Ended "connections_ended",
    /// Closed at once: there were as many as there may be.
    NoRoom "connections_no_room",
    /// Closed at once: nobody knows where it was going.
    NoOriginal "connections_no_original",
    /// accept(2) failed, as it does without file descriptors.
    AcceptFailed "connections_accept_failed",
    /// Heads that were judged good.
    Requests "requests",
    /// Heads of final responses that clients were sent.
    Responses "responses",
    Interim "responses_interim",
    Tunnels "tunnels",
    Opened "upstream_opened",
    Reused "upstream_reused",
    /// Found closed, or with bytes that nobody asked for, when it was to be used again.
    Stale "upstream_stale",
    /// Closed since nobody used it, or more waited than may.
    Dropped "upstream_dropped",
    /// Requests sent again after a connection that had waited failed.
    Retried "requests_retried",
    /// Idle connections of clients that were closed.
    IdleTimeout "timeout_idle",
    HeadTimeout "timeout_head",
    BodyTimeout "timeout_body",
    RequestTimeout "timeout_request",
    /// An endpoint took no more of a request.
    SlowEndpoint "timeout_endpoint_reads",
    /// A client took no more of a response.
    SlowClient "timeout_client_reads",
    /// No more of a response came.
    ResponseStalled "timeout_response",
    TunnelIdle "timeout_tunnel",
    /// Went away during a request.
    ClientGone "client_gone",
    /// Responses that ended before their end.
    Truncated "responses_truncated",
    /// Connections whose first bytes said so.
    DetectedHttp1 "detected_http1",
    DetectedHttp2 "detected_http2",
    DetectedOpaque "detected_opaque",
    /// Of those, whose first bytes did not say enough in time.
    Undecided "detect_undecided",
    /// Silent clients for which a server was asked.
    Probes "detect_probes",
    /// Those for which none was, since there were as many as there may be.
    ProbesFull "detect_probes_full",
    /// Servers that spoke first.
    ServerFirst "detected_server_first",
    /// Connections that are no HTTP, and were passed on as bytes.
    Opaque "opaque_connections",
    /// Those that could not be.
    OpaqueRefused "opaque_refused",
    /// Requests that ended in the series `other`: there were as many series as there may be.
    SeriesOverflow "series_overflow",
    /// Of HTTP/2, from clients.
    H2Connections "h2_connections",
    /// Streams that they have opened, but for those that were refused.
    H2Streams "h2_streams",
    /// Streams above the limit, refused with REFUSED_STREAM.
    H2Refused "h2_streams_refused",
    /// Connections that were ended since their client opened streams and reset them.
    H2ResetFlood "h2_reset_floods",
    /// Connections that were ended since their client sent too many frames that carry nothing.
    H2FrameFlood "h2_frame_floods",
    /// ENHANCE_YOUR_CALM that clients were sent for these and for other floods.
    H2Calm "h2_calm",
    /// RST_STREAM and GOAWAY with other errors that clients were sent, those of endpoints among them.
    H2Errors "h2_errors",
    /// Streams in which neither way anything moved.
    StreamIdle "timeout_stream",
    /// Connections to endpoints given up since a PING had no answer.
    PingLost "upstream_ping_lost",
}

#[derive(Debug)]
pub struct Counters {
    counts: [AtomicU64; Count::ALL.len()],
    refused: [AtomicU64; Refusal::ALL.len()],
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            counts: [const { AtomicU64::new(0) }; Count::ALL.len()],
            refused: [const { AtomicU64::new(0) }; Refusal::ALL.len()],
        }
    }
}

impl Counters {
    pub fn add(&self, what: Count) {
        cells::add(&self.counts[what as usize], 1);
    }

    pub fn refuse(&self, why: Refusal) {
        cells::add(&self.refused[why as usize], 1);
    }

    pub fn get(&self, what: Count) -> u64 {
        self.counts[what as usize].load(Relaxed)
    }

    pub fn refused(&self, why: Refusal) -> u64 {
        self.refused[why as usize].load(Relaxed)
    }

    /// Names and values, also of those that are 0 but for refusals.
    pub fn all(&self) -> impl Iterator<Item = (String, u64)> {
        let counts = Count::ALL.iter();
        let counts = counts.map(|what| (what.name().to_owned(), self.get(*what)));
        let refused = Refusal::ALL.iter().filter(|why| self.refused(**why) > 0);
        counts.chain(refused.map(|why| (format!("refused_{}", why.code()), self.refused(*why))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_own_place() {
        let counters = Counters::default();
        for (i, what) in Count::ALL.iter().enumerate() {
            assert_eq!(*what as usize, i);
            counters.add(*what);
        }
        for (i, why) in Refusal::ALL.iter().enumerate() {
            assert_eq!(*why as usize, i);
            counters.refuse(*why);
        }
        let all: Vec<_> = counters.all().collect();
        assert_eq!(all.len(), Count::ALL.len() + Refusal::ALL.len());
        assert!(all.iter().all(|(_, value)| *value == 1), "{all:?}");
        let names: std::collections::BTreeSet<_> = all.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), all.len());
    }
}
