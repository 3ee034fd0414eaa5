//! HTTP where it is asked for: a service with two versions whose connections the kernel spreads evenly,
//! an HTTPRoute that splits its requests 90 to 10, and the way back when the route is removed.

use std::{net::SocketAddr, thread, time::Duration};

use serde_json::Value;
use underpass_tests::{
    Failure, Lab, Result,
    http::stop,
    lab::{
        Pod, Proc,
        cli::{number, text},
        until,
    },
    manifest::{self, Endpoint, Service},
    stats::{chi_squared, critical_value},
};

use super::{check::Check, shop::Shop};

/// `shop/quotes`, and one service for each version.
const QUOTES: &str = "10.96.0.30";
const VERSIONS: [&str; 2] = ["10.96.0.31", "10.96.0.32"];
const PORT: u16 = 8081;
const WEIGHTS: [u64; 2] = [90, 10];
const NAME: &str = "shop/quotes:8081";
const ROUTE: &str = "quotes-split.yaml";
const WAIT: Duration = Duration::from_secs(20);
/// So long the route is in force under load: reports come once a second.
const SHOWN: Duration = Duration::from_secs(6);

/// Who asks for quotes, who gives them.
pub struct Quotes {
    broker: Pod,
    _servers: [Proc; 2],
}

/// What happened while the route was there, and around it.
pub struct Shown {
    kept: Value,
    fresh: Value,
    stat: Value,
    layers: [String; 3],
    reason: String,
}

impl Quotes {
    pub fn start(lab: &Lab, rates: &[Pod; 2]) -> Result<Self> {
        let broker = lab.pod("broker")?;
        lab.mesh_file("quotes.yaml", &objects(&broker, rates))?;
        let servers = [serve(lab, &rates[0], "v1")?, serve(lab, &rates[1], "v2")?];
        Ok(Self {
            broker,
            _servers: servers,
        })
    }

    pub fn show(&self, shop: &Shop) -> Result<Shown> {
        let (lab, cli) = (&shop.lab, &shop.agent.cli);
        let load = |flags: &[&str]| {
            let to = format!("{QUOTES}:{PORT}");
            lab.run(
                &self.broker.place,
                &[&["underpass-peer", "http", &to], flags].concat(),
            )
        };
        // All the time: what must not notice that connections change their layer.
        let mut fresh = load(&["--rate", "40", "--new"])?;
        let before = layer(shop)?;
        lab.mesh_file(ROUTE, &route())?;
        wait_layer(shop, "http")?;
        let during = layer(shop)?;
        let reason = text(&explained(shop)?, "/outbound/reason").to_owned();
        println!(
            "== the HTTPRoute shop/quotes is there: layer {} ({reason})",
            during
        );
        let mut kept = load(&["--connections", "3", "--rate", "150"])?;
        thread::sleep(SHOWN);
        let stat = cli.run(&["stat", "--service", "shop/quotes"])?;
        println!(
            "== per service and route, of the last minute (underpass stat --service shop/quotes)\n{}",
            stat.stdout
        );
        let conns = [
            "conns",
            "--from",
            "shop/broker",
            "--service",
            "shop/quotes",
            "--limit",
            "4",
        ];
        println!(
            "== through the worker (underpass conns)\n{}",
            cli.run(&conns)?.stdout
        );
        let stat = cli.stat(NAME)?;
        let kept = stop(&mut kept)?;
        lab.remove_mesh_file(ROUTE)?;
        wait_layer(shop, "kernel")?;
        let after = layer(shop)?;
        println!("== the HTTPRoute is removed: new connections are in layer {after}");
        thread::sleep(Duration::from_millis(500));
        println!("{}", cli.run(&conns)?.stdout);
        let fresh = stop(&mut fresh)?;
        Ok(Shown {
            kept,
            fresh,
            stat,
            layers: [before, during, after],
            reason,
        })
    }
}

impl Shown {
    pub fn checks(&self) -> Result<Vec<Check>> {
        Ok(vec![self.split()?, self.figures(), self.moves()])
    }

    fn split(&self) -> Result<Check> {
        let seen = ["v1", "v2"].map(|v| number(&self.kept, &format!("/by_pod/{v}")).unwrap_or(0));
        let statistic = chi_squared(&seen, &WEIGHTS).ok_or_else(|| Failure::new("no weights"))?;
        let (limit, connections) = (critical_value(1), &self.kept["connections"]);
        Ok(Check {
            name: "shop/quotes: requests by version follow the HTTPRoute, over few connections"
                .into(),
            ok: seen[1] > 0 && statistic < limit && *connections == 3,
            expected: format!(
                "v1 : v2 = {} : {}, chi-squared below {limit:.1}",
                WEIGHTS[0], WEIGHTS[1]
            ),
            seen: format!(
                "v1 : v2 = {} : {} over {connections} connections, chi-squared {statistic:.2}",
                seen[0], seen[1]
            ),
        })
    }

    fn figures(&self) -> Check {
        let all = &self.stat["requests"];
        let routes = self.stat["by_route"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let named = |version: &str| {
            let backend = format!("shop/quotes-{version}:{PORT}");
            routes
                .iter()
                .any(|r| text(r, "/route") == "shop/quotes" && text(r, "/backend") == backend)
        };
        let success = all["success_percent"].as_f64().unwrap_or(0.0);
        let p99 = number(all, "/latency_p99_us").unwrap_or(0);
        Check {
            name: "shop/quotes: success and latency of the service and of each backend in `stat`"
                .into(),
            ok: success == 100.0 && p99 > 0 && named("v1") && named("v2"),
            expected: "100 % success, latencies, both backends of route shop/quotes".into(),
            seen: format!(
                "{success} % of {} responses, p50 {} us, p99 {p99} us, {} rows of routes",
                all["responses"],
                number(all, "/latency_p50_us").unwrap_or(0),
                routes.len()
            ),
        }
    }

    fn moves(&self) -> Check {
        let failed = |r: &Value| number(r, "/failed").unwrap_or(u64::MAX);
        let failures = failed(&self.kept).saturating_add(failed(&self.fresh));
        let ok = number(&self.fresh, "/ok").unwrap_or(0);
        Check {
            name: "shop/quotes: the layer moves with the route, and no request fails".into(),
            ok: self.layers == ["kernel", "http", "kernel"]
                && self.reason.contains("HTTPRoute shop/quotes")
                && failures == 0
                && ok > 0,
            expected: "kernel, http by HTTPRoute shop/quotes, kernel; 0 failed".into(),
            seen: format!(
                "{}; {}; {failures} failed of {}",
                self.layers.join(", "),
                self.reason,
                ok + number(&self.kept, "/ok").unwrap_or(0)
            ),
        }
    }
}

fn explained(shop: &Shop) -> Result<Value> {
    let to = format!("shop/quotes:{PORT}");
    let said = shop.agent.cli.json(&["explain", "shop/broker", &to])?;
    Ok(said["items"][0].clone())
}

fn layer(shop: &Shop) -> Result<String> {
    Ok(text(&explained(shop)?, "/outbound/layer").to_owned())
}

fn wait_layer(shop: &Shop, layer: &str) -> Result<()> {
    until(&format!("layer {layer}"), WAIT, || {
        let said = explained(shop).map_err(|f| f.0)?;
        match text(&said, "/outbound/layer") == layer {
            true => Ok(()),
            false => Err(format!("{said}; {}", shop.agent.log())),
        }
    })
}

fn serve(lab: &Lab, pod: &Pod, name: &str) -> Result<Proc> {
    let at = SocketAddr::from((pod.v4, PORT));
    let listen = at.to_string();
    let command = ["underpass-peer", "http-server", "--name", name, &listen];
    let server = lab.run(&pod.place, &command)?;
    server.wait_listening(at)?;
    Ok(server)
}

fn objects(broker: &Pod, rates: &[Pod; 2]) -> String {
    let mut objects = vec![manifest::pod_workload("shop", "broker", broker)];
    let end = |pod: &Pod| Endpoint::new(pod.v4.to_string());
    let ends = [end(&rates[0]), end(&rates[1])];
    let services: [(&str, &str, &[Endpoint]); 3] = [
        ("quotes", QUOTES, &ends),
        ("quotes-v1", VERSIONS[0], &ends[..1]),
        ("quotes-v2", VERSIONS[1], &ends[1..]),
    ];
    for (name, ip, endpoints) in services {
        let ports = [("http", PORT, "TCP")];
        let (namespace, affinity) = ("shop", None);
        let service = Service {
            namespace,
            name,
            cluster_ips: &[ip],
            ports: &ports,
            affinity,
        };
        objects.push(service.yaml());
        objects.push(manifest::slice(
            "shop",
            name,
            &format!("{name}-0"),
            &ports,
            endpoints,
        ));
    }
    manifest::file(&objects)
}

fn route() -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
         metadata: {{ name: quotes, namespace: shop }}\nspec:\n  \
         parentRefs: [{{ group: \"\", kind: Service, name: quotes }}]\n  rules:\n  - backendRefs:\n    \
         - {{ name: quotes-v1, port: {PORT}, weight: {} }}\n    \
         - {{ name: quotes-v2, port: {PORT}, weight: {} }}\n",
        WEIGHTS[0], WEIGHTS[1]
    )
}
