//! `underpass bench`: what the mesh costs one service, measured with a client inside and one outside.

use std::{
    fs,
    io::{IsTerminal as _, Write as _},
    net::SocketAddr,
    path::Path,
};

use underpass_abi::reason::code;
use underpass_bench::{
    backstage,
    service::{self, Options},
    systems::{self, Refusal},
};
use underpass_mesh::{Facts, Plan};

use crate::{
    block_on,
    check::files,
    client::Client,
    error::CliError,
    options::{self, ServiceFilter, is_end},
    render,
};

/// A process that a benchmark starts of this program, if these words say so.
pub fn part(words: &[String]) -> Option<Result<bool, CliError>> {
    let done = backstage::called(words)?;
    Some(
        done.map(|()| true)
            .map_err(|e| CliError::failed(code::NOT_MEASURED, e.to_string())),
    )
}

/// False if it could not be measured.
pub fn run(args: &options::Bench) -> Result<bool, CliError> {
    let usage = |why: String| CliError::usage(code::BAD_ARGUMENT, why);
    if !args.quick
        && (!(0.05..=60.0).contains(&args.seconds) || !(3..=1_000).contains(&args.rounds))
    {
        return Err(usage(
            "--seconds from 0.05 to 60, --rounds from 3 to 1000".to_owned(),
        ));
    }
    if args.shared && args.rate.is_none() && args.protocol == underpass_bench::web::visit::Talk::Tcp
    {
        let why = "--shared --protocol tcp needs a --rate: else this machine runs out of ports";
        return Err(usage(why.to_owned()));
    }
    let named = Named::parse(&args.service)?;
    let status = block_on(async { Client::connect(&args.api.path).await?.status().await })?;
    let mesh = args
        .mesh
        .clone()
        .unwrap_or_else(|| status.mesh_dir.clone().into());
    if mesh.as_os_str().is_empty() {
        let why = "the agent does not say where its manifests are: --mesh DIR";
        return Err(usage(why.to_owned()));
    }
    let (service, target) = named.find(&mesh)?;
    let (namespace, account) = identity(args.identity.as_deref(), service.as_deref())?;
    let (rounds, seconds) = if args.quick {
        (1, 0.2)
    } else {
        (args.rounds, args.seconds)
    };
    let options = Options {
        service: args.service.clone(),
        target,
        authority: args
            .host
            .clone()
            .unwrap_or_else(|| authority(service.as_deref(), target)),
        path: args
            .asked
            .clone()
            .unwrap_or_else(|| args.protocol.path().to_owned()),
        talk: args.protocol,
        concurrency: args.concurrency,
        rate: args.rate.map(f64::from),
        seconds,
        rounds,
        namespace,
        account,
        mesh,
        cgroup_root: status.cgroup_root.into(),
        api: args.api.path.clone(),
        shared: args.shared,
        quick: args.quick,
    };
    if !options.path.starts_with('/') {
        return Err(usage(format!(
            "--path {} does not begin with /",
            options.path
        )));
    }
    let report = service::run(&options, &mut progress).map_err(refused)?;
    clear();
    render::emit(&systems::text(&report))?;
    if let Some(file) = &args.json {
        let json = report
            .json()
            .map_err(|e| CliError::failed(code::NOT_MEASURED, e.to_string()))?;
        write(file, &format!("{json:#}\n"))?;
    }
    if let Some(file) = &args.html {
        write(file, &systems::page(&report))?;
    }
    Ok(report.failed() == 0)
}

/// What is dialed, as the user says it.
#[derive(Debug, PartialEq, Eq)]
enum Named {
    Address(SocketAddr),
    Service(String, u16),
}

impl Named {
    fn parse(text: &str) -> Result<Self, CliError> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let why = format!(
            "`{text}` is no service and no address with a port (shop/ledger:80, 10.0.0.7:80)"
        );
        let bad = || CliError::usage(code::BAD_ARGUMENT, why.clone());
        let filter = ServiceFilter::parse(text).map_err(|_| bad())?;
        let port = filter
            .port
            .filter(|_| is_end(&filter.name))
            .ok_or_else(bad)?;
        Ok(Self::Service(filter.name, port))
    }

    /// `namespace/name` of the service, and its address, by the manifests.
    fn find(&self, mesh: &Path) -> Result<(Option<String>, SocketAddr), CliError> {
        let mut model = files::model(mesh)?;
        let plan = model.compile(&Facts::default());
        let missing = |what: String| CliError::failed(code::NOT_FOUND, what);
        let (name, port) = match self {
            Self::Address(address) => return Ok((service_at(&plan, *address), *address)),
            Self::Service(name, port) => (name, *port),
        };
        let fits = |full: &str| full == name || full.rsplit('/').next() == Some(name);
        let found: Vec<_> = plan.services().filter(|s| fits(&s.full_name)).collect();
        let service = match found[..] {
            [one] => one,
            [] => return Err(missing(format!("service {name} in {}", mesh.display()))),
            _ => {
                return Err(missing(format!(
                    "one service {name}: say its namespace too"
                )));
            }
        };
        let at = service
            .ports
            .iter()
            .find(|p| p.port == port && p.proto == TCP);
        let at = at.ok_or_else(|| {
            missing(format!(
                "TCP port {port} of {} at an address",
                service.full_name
            ))
        })?;
        Ok((
            Some(service.full_name.to_string()),
            SocketAddr::new(at.ip.into(), port),
        ))
    }
}

const TCP: u8 = 6;

fn service_at(plan: &Plan, address: SocketAddr) -> Option<String> {
    let (name, _) = plan.service_at(address.ip(), address.port(), TCP)?;
    // `namespace/name:port/tcp`
    name.split(':').next().map(str::to_owned)
}

/// Namespace and service account of the client inside.
fn identity(asked: Option<&str>, service: Option<&str>) -> Result<(String, String), CliError> {
    let given = asked.map(|text| {
        let parts = text.split_once('/').filter(|_| is_end(text));
        parts.ok_or_else(|| {
            CliError::usage(
                code::BAD_ARGUMENT,
                format!("--as {text}: NAMESPACE/ACCOUNT"),
            )
        })
    });
    let (namespace, account) = match (given.transpose()?, service.and_then(|s| s.split_once('/'))) {
        (Some(given), _) => given,
        (None, Some((namespace, _))) => (namespace, "default"),
        (None, None) => {
            let why = "an address of no service: --as NAMESPACE/ACCOUNT says who calls";
            return Err(CliError::usage(code::BAD_ARGUMENT, why));
        }
    };
    Ok((namespace.to_owned(), account.to_owned()))
}

/// As a caller would name it.
fn authority(service: Option<&str>, target: SocketAddr) -> String {
    match service.and_then(|s| s.split_once('/')) {
        Some((namespace, name)) => format!("{name}.{namespace}:{}", target.port()),
        None => target.to_string(),
    }
}

fn refused(refusal: Refusal) -> CliError {
    clear();
    CliError::failed(refusal.code, refusal.why)
}

/// One line that is written over at a terminal, a line each elsewhere.
fn progress(line: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K{line}");
        let _ = std::io::stderr().flush();
    } else {
        eprintln!("{line}");
    }
}

fn clear() {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
}

fn write(file: &Path, text: &str) -> Result<(), CliError> {
    fs::write(file, text)
        .map_err(|e| CliError::failed(code::UNREADABLE, format!("{}: {e}", file.display())))
}

#[cfg(test)]
mod tests;
