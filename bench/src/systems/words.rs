//! What the report of the comparison says about itself.

use super::rounds::{Options, Text};
use crate::{lab::Wire, rig::Cpus};

const METHOD: &str = "Client and server are two single-threaded processes that check every answer; each \
    system stands between the same two, one worker thread for each proxy, and each party has a cgroup of \
    its own. <b>CPU</b> is that of all parties together, client and server included, with the softirq work \
    that falls to them, divided by the requests. Every round runs every system once, in random order, and \
    each ratio is taken to <code>none</code> of the same round, so that a noisy machine hits all alike. \
    Shown are medians over the rounds, with a bootstrap interval of 95 %; a ratio whose interval holds 1 is \
    called “no difference”, and a round whose baseline is more than 15 % off is rejected and listed below. \
    In open loop (<code>@rate</code>) requests begin by an absolute schedule and latency counts from the \
    scheduled time; a system that does not reach the rate is marked saturated and not compared.";

pub fn text_of(options: &Options) -> Text {
    let wire = match options.wire {
        Wire::Loopback => "all parties share one network namespace",
        Wire::Veth => "client and server have a network namespace each, joined by a veth pair",
    };
    let cpus = match options.cpus {
        Cpus::One => "all parties run on one CPU",
        Cpus::Two => "the client runs on the first CPU, server and proxies on the second",
        Cpus::Any => "the scheduler places the parties",
    };
    Text {
        title: "What stands between client and server",
        cpu: "CPU: all parties and softirq, for one request; ratios: to `none` in the same round",
        method: METHOD,
        layout: format!(
            "Here {wire}, {cpus}; rounds: {}, {} s for each run.",
            options.rounds, options.seconds
        ),
    }
}
