//! Clients and servers of the end-to-end tests. Each prints what it counted itself, as JSON lines.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod peer {
    pub mod dial;
    pub mod door;
    pub mod exact;
    pub mod fetch;
    pub mod http_client;
    pub mod http_server;
    pub mod pass;
    pub mod rate;
    pub mod relay;
    pub mod rpc;
    pub mod segment;
    pub mod sink;
    pub mod socket;
    pub mod udp;
}

#[derive(Parser)]
#[command(about = "Clients and servers of the end-to-end tests")]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Server of the byte-exact runs: one port per behavior from BASE on.
    Server(peer::exact::ServerArgs),
    /// Client of the byte-exact runs.
    Client(peer::exact::ClientArgs),
    /// Listeners that count what they accept; `report` on standard input prints the counts.
    Sink(peer::sink::SinkArgs),
    /// Connects at a rate (or a number of times) and counts the results by errno.
    Connects(peer::rate::RateArgs),
    /// One connect, or one for each line of standard input.
    Dial(peer::dial::DialArgs),
    /// A worker of a few lines.
    Door(peer::door::DoorArgs),
    /// Makes a socket and passes it to another process.
    PassSend(peer::pass::SendArgs),
    /// Receives a socket and connects it.
    PassDial(peer::pass::DialArgs),
    /// Prints the body of an HTTP/1.1 answer.
    Fetch(peer::fetch::FetchArgs),
    /// An HTTP/1.1 server that says who it is.
    HttpServer(peer::http_server::ServerArgs),
    /// An HTTP/1.1 client that counts.
    Http(peer::http_client::ClientArgs),
    /// Gives back requests.
    RpcServer(peer::rpc::ServerArgs),
    /// Requests over one connection, told by lines of standard input.
    Rpc(peer::rpc::ClientArgs),
    /// A proxy that splices where it can.
    Relay(peer::relay::RelayArgs),
    /// Sends one TCP segment past every socket.
    Segment(peer::segment::SegmentArgs),
    /// Answers every datagram with its own bytes.
    UdpEcho(peer::udp::EchoArgs),
    /// Sends datagrams and prints who answered.
    Udp(peer::udp::ClientArgs),
}

fn main() -> ExitCode {
    let done = match Args::parse().verb {
        Verb::Server(args) => peer::exact::serve(&args),
        Verb::Client(args) => peer::exact::dial(&args),
        Verb::Sink(args) => peer::sink::run(&args),
        Verb::Connects(args) => peer::rate::run(&args),
        Verb::Dial(args) => peer::dial::run(&args),
        Verb::Door(args) => peer::door::run(&args),
        Verb::PassSend(args) => peer::pass::send(&args),
        Verb::PassDial(args) => peer::pass::dial(&args),
        Verb::Fetch(args) => peer::fetch::run(&args),
        Verb::HttpServer(args) => peer::http_server::run(&args),
        Verb::Http(args) => peer::http_client::run(&args),
        Verb::RpcServer(args) => peer::rpc::serve(&args),
        Verb::Rpc(args) => peer::rpc::dial(&args),
        Verb::Relay(args) => peer::relay::run(&args),
        Verb::Segment(args) => peer::segment::send(&args),
        Verb::UdpEcho(args) => peer::udp::echo(&args),
        Verb::Udp(args) => peer::udp::client(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("underpass-peer: {e}");
            ExitCode::FAILURE
        }
    }
}
