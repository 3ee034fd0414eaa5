//! `underpass explain`: the verdict and both layers, each with the object that caused it.

use serde::Serialize;
use underpass_abi::reason::{CODES, code};
use underpass_api::v1alpha1 as api;

use crate::{
    client::Client,
    error::CliError,
    options::{Explain, Format, is_end},
    render::{self, Look, Tone},
    row::some,
};

#[derive(Debug, Serialize)]
struct Document {
    source: String,
    destination: String,
    port: u32,
    protocol: String,
    /// One, or one per endpoint for which the answer differs.
    items: Vec<Item>,
}

#[derive(Debug, Serialize)]
struct Item {
    /// Null: all endpoints.
    endpoint: Option<String>,
    verdict: String,
    policy: Option<String>,
    reason: Option<String>,
    outbound: Layer,
    inbound: Layer,
}

#[derive(Debug, Serialize)]
struct Layer {
    layer: Option<String>,
    reason: Option<String>,
}

pub async fn run(options: &Explain) -> Result<(), CliError> {
    let request = request(&options.source, &options.destination)?;
    let (port, protocol) = (request.port, request.protocol.clone());
    let mut client = Client::connect(&options.api.path).await?;
    let answer = Document::new(client.explain(request).await?, port, protocol);
    let text = match options.output.output {
        Format::Table => text(&answer, false, Look::of_stdout(true)),
        Format::Wide => text(&answer, true, Look::of_stdout(true)),
        Format::Json => render::json(&answer),
        Format::Yaml => render::yaml(&answer),
    };
    Ok(render::emit(&text)?)
}

fn request(source: &str, destination: &str) -> Result<api::ExplainRequest, CliError> {
    let refuse = |what: &str| Err(CliError::usage(code::BAD_ARGUMENT, what));
    if !is_end(source) {
        return refuse(&format!(
            "SRC `{source}` is not namespace/name, name, host, or an address"
        ));
    }
    // Its address decides, by the policies' ipBlocks.
    if source == "outside" {
        return refuse("SRC `outside` is many: name one address, as 192.0.2.7");
    }
    let (end, protocol) = match destination {
        d if d.ends_with("/udp") => (&d[..d.len() - 4], "udp"),
        d if d.ends_with("/tcp") => (&d[..d.len() - 4], "tcp"),
        d => (d, "tcp"),
    };
    let parts = end.rsplit_once(':').and_then(|(name, port)| {
        let port: u16 = port.parse().ok().filter(|p| *p != 0)?;
        // An IPv6 address needs its brackets, else its last group would be the port.
        let name = match name.strip_prefix('[').and_then(|n| n.strip_suffix(']')) {
            Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok().then_some(v6)?,
            None => (!name.contains(':') && is_end(name)).then_some(name)?,
        };
        Some((name, port))
    });
    let Some((name, port)) = parts else {
        return refuse(&format!(
            "DST:PORT `{destination}` is not like shop/ledger:8080, 10.0.0.7:53/udp or [fd00::7]:80"
        ));
    };
    Ok(api::ExplainRequest {
        source: source.to_owned(),
        destination: name.to_owned(),
        port: port.into(),
        protocol: protocol.to_owned(),
    })
}

fn text(answer: &Document, wide: bool, look: Look) -> String {
    // The agent names a service's port with its protocol, another end's without.
    let protocol = format!("/{}", answer.protocol);
    let destination = answer.destination.trim_end_matches(&protocol);
    let mut out = render::printable(&format!("{} → {destination}{protocol}", answer.source));
    out.push('\n');
    for item in &answer.items {
        out.push('\n');
        if let Some(endpoint) = &item.endpoint {
            line("endpoint", endpoint, &mut out);
        }
        let verdict = render::printable(&item.verdict);
        let tone = match item.verdict.as_str() {
            "allowed" => Tone::Good,
            other => Tone::of_verdict(other),
        };
        out.push_str(&format!(
            "{:10}{}\n",
            "verdict",
            tone.paint(&verdict, look.color)
        ));
        line(
            "policy",
            item.policy.as_deref().unwrap_or("-(NOTHING_TO_DECIDE)"),
            &mut out,
        );
        if let Some(reason) = &item.reason {
            line("reason", &in_words(reason, wide), &mut out);
        }
        for (label, side) in [("outbound", &item.outbound), ("inbound", &item.inbound)] {
            let layer = side.layer.as_deref().unwrap_or("-");
            let reason = side
                .reason
                .as_deref()
                .map(|r| in_words(r, wide))
                .unwrap_or_default();
            line(label, format!("{layer:8}{reason}").trim_end(), &mut out);
        }
    }
    out
}

fn line(label: &str, text: &str, out: &mut String) {
    out.push_str(&format!("{label:10}{}\n", render::printable(text)));
}

/// A reason with what its code means, and in wide what to do about it; behind it the object that
/// caused it, which the agent adds in brackets: `NO_L7_NEEDED (Namespace shop)`.
fn in_words(reason: &str, wide: bool) -> String {
    let (name, object) = match reason.split_once(" (") {
        Some((name, object)) => (name, object.strip_suffix(')')),
        None => (reason, None),
    };
    let Some(entry) = CODES.iter().find(|entry| entry.name == name) else {
        return reason.to_owned();
    };
    let mut words = format!("{name} ({}", entry.text);
    if wide && !entry.hint.is_empty() {
        words.push_str("; try: ");
        words.push_str(entry.hint);
    }
    words.push(')');
    if let Some(object) = object {
        words.push_str(&format!(", by {object}"));
    }
    words
}

impl Document {
    fn new(answer: api::ExplainResponse, port: u32, protocol: String) -> Self {
        let items = answer.items.into_iter().map(|e| Item {
            endpoint: some(e.endpoint),
            verdict: e.verdict,
            policy: some(e.policy),
            reason: some(e.reason),
            outbound: Layer {
                layer: some(e.outbound_layer),
                reason: some(e.outbound_reason),
            },
            inbound: Layer {
                layer: some(e.inbound_layer),
                reason: some(e.inbound_reason),
            },
        });
        Self {
            items: items.collect(),
            source: answer.source,
            destination: answer.destination,
            port,
            protocol,
        }
    }
}

#[cfg(test)]
mod tests;
