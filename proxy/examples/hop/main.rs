//! The spike that decided between hyper and our own codec: ways to forward, each a process of one thread,
//! between the same client and the same backend.
//!
//! ```text
//! hop copy|own|hyper|hyper-judged LISTEN BACKEND    one way, until it is killed
//! hop hyper-h2 LISTEN BACKEND                       likewise; `copy` and `own` take HTTP/2 too
//! hop measure [ROUNDS [SECONDS]]                    all of them in turn, under wrk, in front of nginx
//! hop measure-h2 [ROUNDS [SECONDS]]                 those of HTTP/2, under h2load
//! ```
//!
//! `measure` needs the programs that `cargo xtask setup` unpacks; [what it
//! showed](../../../docs/explanation/http1-codec.md).
#![forbid(unsafe_code)]

use std::{collections::HashMap, io, net::SocketAddr, rc::Rc};

use tokio::{
    net::{TcpListener, TcpStream},
    runtime::{Builder, LocalOptions},
};
use underpass_proxy::{
    forward,
    plan::{Backend, Plan},
    shard::{Settings, Shard},
};

mod measure;
mod through_hyper;
mod through_hyper2;

pub const WAYS: &[&str] = &["copy", "own", "hyper", "hyper-judged"];
pub const WAYS_H2: &[&str] = &["copy", "own", "hyper-h2"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .as_slice()
    {
        [how @ ("measure" | "measure-h2"), rest @ ..] => {
            let number = |at: usize, default| rest.get(at).map_or(Ok(default), |n| n.parse());
            let (rounds, seconds) = (number(0, 9)?, number(1, 2)?);
            measure::run(*how == "measure-h2", rounds as usize, seconds)
        }
        [way, listen, backend] => hop(way, listen.parse()?, backend.parse()?),
        _ => Err(format!(
            "usage: hop {} LISTEN BACKEND, or hop measure",
            WAYS.join("|")
        )
        .into()),
    }
}

fn hop(
    way: &str,
    listen: SocketAddr,
    backend: SocketAddr,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut builder = Builder::new_current_thread();
    let runtime = builder.enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(async {
        let listener = TcpListener::bind(listen).await?;
        let plan = plan(backend);
        match way {
            "own" => forward::listen(Shard::of_one(Settings::default(), plan), listener).await,
            "hyper" => through_hyper::listen(listener, backend, None).await?,
            "hyper-h2" => through_hyper2::listen(listener, backend).await?,
            "hyper-judged" => through_hyper::listen(listener, backend, Some(Rc::new(plan))).await?,
            _ => loop {
                let (client, _) = listener.accept().await?;
                tokio::task::spawn_local(copy(client, backend));
            },
        }
        Ok(())
    })
}

async fn copy(mut client: TcpStream, backend: SocketAddr) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut upstream = forward_dial(backend).await?;
    tokio::io::copy_bidirectional(&mut client, &mut upstream).await?;
    Ok(())
}

pub async fn forward_dial(backend: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(backend).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One endpoint for everything.
fn plan(backend: SocketAddr) -> Plan {
    let service = ("default/shop".into(), 80);
    Plan {
        authority: "shop".into(),
        default: service.clone(),
        backends: Rc::new(HashMap::from([(
            service,
            Rc::new(Backend::new(0, [(0, backend, 1)])),
        )])),
        ..Plan::default()
    }
}
