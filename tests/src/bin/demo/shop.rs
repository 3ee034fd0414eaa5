//! The cast of the demo: the shop in pods, Redis and nginx as workloads of the node's own
//! namespace, a shopper, and an intruder whom a policy denies.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use underpass_tests::{
    Failure, Lab, Result,
    lab::{Agent, Place, Pod, Proc, Vend, net::NODE_V4, place},
    manifest::{self, Endpoint, Service},
    packages,
};

use super::{quotes::Quotes, saving::CALLERS};

pub const WEB: &str = "10.96.0.10:80";
pub const LEDGER: &str = "10.96.0.11:8080";
pub const RATES: &str = "10.96.0.12:8080";
pub const REDIS: &str = "10.96.0.20:6379";
pub const ASSETS: &str = "10.96.0.21:80";
pub const POLICY: &str = "shop/ledger-callers";
/// Weights of the two versions of rates.
pub const WEIGHTS: [u64; 2] = [90, 10];

pub struct Shop {
    // Programs before the lab: they end first.
    pub web: Proc,
    pub shopper: Proc,
    pub intruder: Proc,
    pub quotes: Quotes,
    pub agent: Agent,
    _vend: Vend,
    _servers: Vec<Proc>,
    pub lab: Lab,
}

struct Pods {
    web: Pod,
    ledger: Pod,
    rates: [Pod; 2],
    shopper: Pod,
    intruder: Pod,
}

impl Shop {
    pub fn start() -> Result<Self> {
        let lab = Lab::new("demo")?;
        println!(
            "lab {}: pods web, ledger, rates v1, rates v2, shopper, intruder, broker",
            lab.id
        );
        let pods = Pods {
            web: lab.pod("web")?,
            ledger: lab.pod("ledger")?,
            rates: [lab.pod("rates-v1")?, lab.pod("rates-v2")?],
            shopper: lab.pod("shopper")?,
            intruder: lab.pod("intruder")?,
        };
        let (redis_at, assets_at) = (lab.cgroup("store/redis")?, lab.cgroup("store/assets")?);
        lab.mesh_file("shop.yaml", &manifests(&pods))?;
        let quotes = Quotes::start(&lab, &pods.rates)?;
        println!("vendor and agent: starting on {}", lab.mesh_dir().display());
        let vend = Vend::meshed(&lab, &[])?;
        let agent = lab.agent(&["--shortcut", "auto"])?;
        let mut servers = vec![
            serve(&lab, &pods.ledger, "ledger", "v1")?,
            serve(&lab, &pods.rates[0], "rates", "v1")?,
            serve(&lab, &pods.rates[1], "rates", "v2")?,
        ];
        println!("servers: Redis and nginx from packages, on the node's own address");
        servers.push(start_redis(&lab, &redis_at)?);
        servers.push(start_nginx(&lab, &assets_at)?);
        let web = start_web(&lab, &pods.web)?;
        let load = |pod: &Pod, to: &str, rate: &str| {
            lab.run(
                &pod.place,
                &[
                    "underpass-shop",
                    "load",
                    &format!("http://{to}/"),
                    "--rate",
                    rate,
                ],
            )
        };
        let shopper = load(&pods.shopper, WEB, "60")?;
        let intruder = load(&pods.intruder, LEDGER, "2")?;
        Ok(Self {
            web,
            shopper,
            intruder,
            quotes,
            agent,
            _vend: vend,
            _servers: servers,
            lab,
        })
    }

    /// How a user of this build calls the command.
    pub fn underpass(&self) -> String {
        place::binary("underpass").map_or_else(|f| f.0, |p| p.display().to_string())
    }
}

fn serve(lab: &Lab, pod: &Pod, name: &str, version: &str) -> Result<Proc> {
    let at: SocketAddr = (pod.v4, 8080).into();
    let listen = at.to_string();
    let server = lab.run(
        &pod.place,
        &[
            "underpass-shop",
            "serve",
            "--name",
            name,
            "--version",
            version,
            "--listen",
            &listen,
        ],
    )?;
    server.wait_listening(at)?;
    Ok(server)
}

fn start_web(lab: &Lab, pod: &Pod) -> Result<Proc> {
    let at: SocketAddr = (pod.v4, 8080).into();
    let listen = at.to_string();
    let calls = [
        format!("http://{LEDGER}/"),
        format!("http://{RATES}/"),
        format!("redis://{REDIS}"),
        format!("http://{ASSETS}/"),
    ];
    let mut command = vec![
        "underpass-shop",
        "serve",
        "--name",
        "web",
        "--listen",
        &listen,
    ];
    for call in &calls {
        command.extend(["--call", call]);
    }
    let web = lab.run(&pod.place, &command)?;
    web.wait_listening(at)?;
    Ok(web)
}

fn start_redis(lab: &Lab, place: &Place) -> Result<Proc> {
    let bind = NODE_V4.to_string();
    let dir = lab.dir.to_string_lossy().into_owned();
    let args = [
        "--bind",
        &bind,
        "--port",
        "6379",
        "--save",
        "",
        "--dir",
        &dir,
        "--protected-mode",
        "no",
    ];
    let redis = packages::run(lab, place, Path::new("usr/bin/redis-server"), &args)?;
    redis.wait_listening((NODE_V4, 6379).into())?;
    Ok(redis)
}

fn start_nginx(lab: &Lab, place: &Place) -> Result<Proc> {
    let dir = lab.dir.join("nginx");
    fs::create_dir_all(dir.join("html")).map_err(Failure::at(dir.display()))?;
    fs::write(dir.join("html/index.html"), "<h1>Shop</h1>\n".repeat(500))?;
    let d = dir.display();
    // One process in the foreground, so that the listener is provably its own.
    let conf = format!(
        "daemon off; master_process off; pid {d}/pid; error_log {d}/error.log;\n\
         events {{}}\n\
         http {{ access_log off; root {d}/html;\n\
           client_body_temp_path {d}/t1; proxy_temp_path {d}/t2; fastcgi_temp_path {d}/t3;\n\
           uwsgi_temp_path {d}/t4; scgi_temp_path {d}/t5;\n\
           server {{ listen {NODE_V4}:8081; }} }}\n"
    );
    let file = dir.join("nginx.conf").to_string_lossy().into_owned();
    fs::write(&file, conf)?;
    let early = dir.join("error.log").to_string_lossy().into_owned();
    let nginx = packages::run(
        lab,
        place,
        Path::new("usr/sbin/nginx"),
        &["-c", &file, "-e", &early],
    )?;
    nginx.wait_listening((NODE_V4, 8081).into())?;
    Ok(nginx)
}

fn manifests(pods: &Pods) -> String {
    let mut objects = vec![manifest::namespace("shop"), manifest::namespace("store")];
    let named = [
        ("web", &pods.web),
        ("ledger", &pods.ledger),
        ("rates-v1", &pods.rates[0]),
        ("rates-v2", &pods.rates[1]),
        ("shopper", &pods.shopper),
        ("intruder", &pods.intruder),
    ];
    for (name, pod) in named {
        objects.push(manifest::pod_workload("shop", name, pod));
    }
    for name in ["redis", "assets"] {
        let found_by = format!("cgroup: store/{name}");
        objects.push(manifest::workload(
            "store",
            name,
            &found_by,
            &[NODE_V4.to_string()],
        ));
    }
    for (name, mode) in CALLERS.into_iter().zip(["auto", "off"]) {
        let workload = manifest::workload("store", name, &format!("cgroup: store/{name}"), &[]);
        objects.push(manifest::annotated(
            &workload,
            "underpass.dev/shortcut",
            mode,
        ));
    }
    let mut service = |namespace, name, at: &str, port: u16, endpoints: &[Endpoint]| {
        let (ip, dialed) = at.rsplit_once(':').expect("a constant above");
        let ports = [("main", dialed.parse().expect("a constant above"), "TCP")];
        objects.push(
            Service {
                namespace,
                name,
                cluster_ips: &[ip],
                ports: &ports,
                affinity: None,
            }
            .yaml(),
        );
        for (i, endpoint) in endpoints.iter().enumerate() {
            let slice = format!("{name}-{i}");
            let ports = [("main", port, "TCP")];
            objects.push(manifest::slice(
                namespace,
                name,
                &slice,
                &ports,
                std::slice::from_ref(endpoint),
            ));
        }
    };
    let end = |pod: &Pod| Endpoint::new(pod.v4.to_string());
    service("shop", "web", WEB, 8080, &[end(&pods.web)]);
    service("shop", "ledger", LEDGER, 8080, &[end(&pods.ledger)]);
    let rates = [0, 1].map(|i| end(&pods.rates[i]).weight(WEIGHTS[i] as u32));
    service("shop", "rates", RATES, 8080, &rates);
    service(
        "store",
        "redis",
        REDIS,
        6379,
        &[Endpoint::new(NODE_V4.to_string())],
    );
    service(
        "store",
        "assets",
        ASSETS,
        8081,
        &[Endpoint::new(NODE_V4.to_string())],
    );
    let target = manifest::Target::Workload("ledger");
    objects.push(manifest::allow(
        "shop",
        "ledger-callers",
        target,
        &[manifest::Source::Account("shop", "web")],
    ));
    manifest::file(&objects)
}

/// How long a command may take.
pub const LIMIT: Duration = Duration::from_secs(20);
