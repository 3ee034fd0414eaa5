//! Which programs run, and what the mesh must say of their connections.
//! `docs/reference/shortcut-programs.md` is generated from this file, which therefore uses nothing but
//! the core library.

/// What becomes of a leg's connections with the shortcut on.
pub enum Way {
    /// Bytes take the shortcut.
    Takes,
    /// No byte does, for these reasons: each is seen, and no other.
    Stays(&'static [&'static str]),
}

/// From one pod to another: `client`, `proxy`, `server`.
pub struct Leg {
    pub from: &'static str,
    pub to: &'static str,
    pub way: Way,
}

pub struct Need {
    pub program: &'static str,
    /// Makes it print its version.
    pub flag: &'static str,
    /// The version that the page speaks of.
    pub version: &'static str,
}

pub struct Row {
    pub name: &'static str,
    pub what: &'static str,
    pub needs: &'static [Need],
    /// What is the same over TCP and with the shortcut on.
    pub equal: &'static str,
    /// What is not, and why; empty: nothing. A difference that is listed must be there.
    pub differs: &'static str,
    pub legs: &'static [Leg],
}

/// The scenario's row.
pub fn row(name: &str) -> Option<&'static Row> {
    ROWS.iter().find(|r| r.name == name)
}

const fn leg(from: &'static str, to: &'static str, way: Way) -> Leg {
    Leg { from, to, way }
}

const fn need(program: &'static str, flag: &'static str, version: &'static str) -> Need {
    Need {
        program,
        flag,
        version,
    }
}

const REDIS: Need = need("redis-server", "--version", "7.0");
const NGINX: Need = need("nginx", "-v", "1.22");
const CURL: Need = need("curl", "--version", "7.88");
const POSTGRES: Need = need("postgres", "--version", "15.");
const HAPROXY: Need = need("haproxy", "-v", "2.6");
const GO: Need = need("go", "version", "1.26");
const JAVA: Need = need("javac", "-version", "17.0");
const NODE: Need = need("node", "--version", "20.");
const PYTHON: Need = need("python3", "--version", "3.11");

const TO_SERVER: &[Leg] = &[leg("client", "server", Way::Takes)];
const BY_PROXY: &[Leg] = &[
    leg("client", "proxy", Way::Takes),
    leg("proxy", "server", Way::Takes),
];
const SPLICES: Way = Way::Stays(&["SHORTCUT_SPLICES"]);
const BY_SPLICER: &[Leg] = &[
    leg("client", "proxy", SPLICES),
    leg("proxy", "server", SPLICES),
];
const GO_HTTP: &[Leg] = &[
    leg("client", "server", Way::Takes),
    leg("client", "proxy", Way::Takes),
    leg("proxy", "server", Way::Takes),
];
const BLOCKING: &[Leg] = &[leg("client", "server", Way::Stays(&["SHORTCUT_BLOCKING"]))];

const LATE: &str = "a socket that is made blocking after its connect gets EAGAIN on a signal, and when its \
                    send buffer has room again ([difference](shortcut-differences.md))";

pub const ROWS: &[Row] = &[
    Row {
        name: "redis-benchmark",
        what: "redis-benchmark to redis-server: small and large values, pipelines, threads",
        needs: &[REDIS],
        equal: "calls, errors, size and digest of the data",
        differs: "",
        legs: TO_SERVER,
    },
    Row {
        name: "redis-replica",
        what: "redis-server as replica of another: 200,000 keys, then what is written",
        needs: &[REDIS],
        equal: "size and digest of both ends' data",
        differs: "",
        legs: TO_SERVER,
    },
    Row {
        name: "redis-cli-pipe",
        what: "redis-cli --pipe: 20,000 commands in one go",
        needs: &[REDIS],
        equal: "replies, digest of the data",
        differs: "",
        legs: BLOCKING,
    },
    Row {
        name: "redis-cli",
        what: "redis-cli: a value of 20 MB down, small ones up, a scan",
        needs: &[REDIS],
        equal: "answers, checksums, digest of the data",
        differs: "",
        legs: BLOCKING,
    },
    Row {
        name: "redis-cli-stopped",
        what: "redis-cli in BLPOP, stopped and continued, not for the first time",
        needs: &[REDIS],
        equal: "the answer",
        differs: "",
        legs: BLOCKING,
    },
    Row {
        name: "pgbench",
        what: "pgbench with 8 clients to PostgreSQL (whose listener blocks), simple and prepared",
        needs: &[POSTGRES],
        equal: "transactions, failures, sums of all tables",
        differs: "",
        legs: BLOCKING,
    },
    Row {
        name: "psql-copy",
        what: "psql: COPY of 300,000 rows in and out, large results, an error",
        needs: &[POSTGRES],
        equal: "checksums, counts, exit codes",
        differs: "",
        legs: BLOCKING,
    },
    Row {
        name: "pgbouncer",
        what: "pgbench and psql by PgBouncer to PostgreSQL",
        needs: &[POSTGRES, need("pgbouncer", "--version", "1.18")],
        equal: "as with PostgreSQL itself",
        differs: "",
        legs: &[
            leg("client", "proxy", Way::Takes),
            leg("proxy", "server", Way::Stays(&["SHORTCUT_BLOCKING"])),
        ],
    },
    Row {
        name: "nginx-server",
        what: "curl to nginx: 5 MB down and up, sendfile on and off, broken off",
        needs: &[NGINX, CURL],
        equal: "checksums of every file, exit codes",
        differs: "",
        legs: TO_SERVER,
    },
    Row {
        name: "nginx-proxy",
        what: "the same by nginx as reverse proxy, buffering and not",
        needs: &[NGINX, CURL],
        equal: "as above",
        differs: "",
        legs: BY_PROXY,
    },
    Row {
        name: "nginx-proxy-deferred",
        what: "the same with `listen … deferred` at both",
        needs: &[NGINX, CURL],
        equal: "as above",
        differs: "",
        legs: BY_PROXY,
    },
    Row {
        name: "curl-1gb",
        what: "curl to nginx: 1 GB down and up",
        needs: &[NGINX, CURL],
        equal: "every byte",
        differs: "",
        legs: TO_SERVER,
    },
    Row {
        name: "haproxy",
        what: "curl by HAProxy (`nosplice`) to nginx",
        needs: &[HAPROXY, NGINX, CURL],
        equal: "checksums of every file, exit codes",
        differs: "",
        legs: BY_PROXY,
    },
    Row {
        name: "haproxy-splice",
        what: "curl by HAProxy (`option splice-request`, `splice-response`) to nginx",
        needs: &[HAPROXY, NGINX, CURL],
        equal: "as above, once the mesh has learnt",
        differs: "",
        legs: BY_SPLICER,
    },
    Row {
        name: "h2load",
        what: "h2load to nginx: HTTP/2, 20,000 small and 60 of 5 MB",
        needs: &[need("h2load", "--version", "1.52"), NGINX],
        equal: "requests, status codes, bytes of bodies",
        differs: "",
        legs: TO_SERVER,
    },
    Row {
        name: "wrk",
        what: "wrk to nginx: 16 connections, 100 kB",
        needs: &[need("wrk", "-v", "4.1"), NGINX],
        equal: "every body, no error",
        differs: "",
        legs: TO_SERVER,
    },
    Row {
        name: "go-http",
        what: "Go net/http: client, httputil.ReverseProxy, server",
        needs: &[GO],
        equal: "every body down, up and back",
        differs: "",
        legs: GO_HTTP,
    },
    Row {
        name: "go-io-copy",
        what: "curl by a Go proxy that uses io.Copy to nginx",
        needs: &[GO, NGINX, CURL],
        equal: "as with HAProxy, once the mesh has learnt",
        differs: "",
        legs: BY_SPLICER,
    },
    Row {
        name: "java-nio",
        what: "Java: channels and a selector at both ends",
        needs: &[JAVA],
        equal: "every echo",
        differs: "",
        legs: TO_SERVER,
    },
    Row {
        name: "java-blocking",
        what: "Java: Socket and ServerSocket",
        needs: &[JAVA],
        equal: "every echo",
        differs: "",
        legs: BLOCKING,
    },
    Row {
        name: "java-connect-timeout",
        what: "Java: Socket that connects with a timeout, to channels",
        needs: &[JAVA],
        equal: "every echo",
        differs: "",
        legs: BLOCKING,
    },
    Row {
        name: "node",
        what: "Node: HTTP, and a connection that is piped back",
        needs: &[NODE],
        equal: "every body down, up and back",
        differs: "",
        legs: TO_SERVER,
    },
    Row {
        name: "python-asyncio",
        what: "Python: asyncio streams at both ends",
        needs: &[PYTHON],
        equal: "every echo",
        differs: "",
        legs: TO_SERVER,
    },
    Row {
        name: "python-blocking",
        what: "Python: blocking sockets, a signal every 2 ms",
        needs: &[PYTHON],
        equal: "every echo",
        differs: "",
        legs: BLOCKING,
    },
    Row {
        name: "python-timeout",
        what: "Python: sockets with a timeout to asyncio, a signal every 2 ms",
        needs: &[PYTHON],
        equal: "every echo",
        differs: "",
        legs: TO_SERVER,
    },
    Row {
        name: "python-connect-timeout",
        what: "Python: sockets that connect with a timeout and then block, a signal every 2 ms",
        needs: &[PYTHON],
        equal: "every echo",
        differs: LATE,
        legs: BLOCKING,
    },
    Row {
        name: "python-late-blocking",
        what: "the same without signals, not for the first time: a thread waits for the answer while another sends 20 MB",
        needs: &[PYTHON],
        equal: "every answer",
        differs: "",
        legs: BLOCKING,
    },
    Row {
        name: "tokio-1mb",
        what: "tokio: requests of 100 B, 1 MB and 10 MB",
        needs: &[],
        equal: "every byte of every answer",
        differs: "",
        legs: TO_SERVER,
    },
];
