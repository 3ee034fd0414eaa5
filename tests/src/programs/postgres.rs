//! PostgreSQL 15 with pgbench and psql. The server refuses to run as root, so it runs in a user
//! namespace where root has another name: files of the lab stay its own.

use std::{net::SocketAddr, time::Duration};

use underpass_bench::apps::postgres;

use super::{
    Scenario, scenario,
    stage::{Stage, after},
    tools,
};
use crate::{Failure, Result, lab::Proc};

pub const SCENARIOS: &[Scenario] = &[
    scenario("pgbench", pgbench),
    scenario("psql-copy", psql_copy),
    scenario("pgbouncer", pooled),
];

const PACKAGED: &[&str] = &["packaged"];

fn program(name: &str) -> Result<String> {
    let path = tools::find(name).ok_or_else(|| Failure(format!("{name} is not here")))?;
    Ok(path.to_string_lossy().into_owned())
}

fn server(stage: &Stage) -> Result<Proc> {
    let data = stage.path("data");
    let (initdb, server) = (program("initdb")?, program("postgres")?);
    stage.output(
        stage.server(),
        &[
            PACKAGED,
            &postgres::NOT_ROOT,
            &[&initdb],
            &postgres::initdb(&data),
        ]
        .concat(),
    )?;
    stage.write("data/pg_hba.conf", postgres::HBA)?;
    let pod = &stage.fixture.server;
    let (ip, port) = (pod.v4.to_string(), stage.port.to_string());
    let flags = postgres::serve(&data, &ip, &port, "");
    let server = stage.serve(
        pod,
        &[PACKAGED, &postgres::NOT_ROOT, &[&server], &flags].concat(),
    )?;
    // It listens before it answers.
    crate::lab::until("PostgreSQL answers", Duration::from_secs(20), || {
        sql(stage, "select 1").map_err(|f| f.0)
    })?;
    Ok(server)
}

/// From the server's own pod.
fn sql(stage: &Stage, query: &str) -> Result<String> {
    stage.script(
        stage.server(),
        &format!("{} -Atc \"$1\"", psql(stage.server_at())),
        &[query],
    )
}

fn psql(at: SocketAddr) -> String {
    format!(
        "psql -X -v ON_ERROR_STOP=1 -h {} -p {} -U postgres",
        at.ip(),
        at.port()
    )
}

fn pgbench(stage: &mut Stage) -> Result<()> {
    let _server = server(stage)?;
    transactions(stage, stage.server_at())
}

fn psql_copy(stage: &mut Stage) -> Result<()> {
    let _server = server(stage)?;
    copy(stage, stage.server_at())
}

/// libpq and PgBouncer do not block: where PostgreSQL's own listener keeps connections on TCP, the
/// client's to the pool take the shortcut.
fn pooled(stage: &mut Stage) -> Result<()> {
    let _server = server(stage)?;
    let (at, to) = (stage.proxy_at(), stage.server_at());
    let ini = format!(
        "[databases]\npostgres = host={} port={} user=postgres\n\
         [pgbouncer]\nlisten_addr = {}\nlisten_port = {}\nunix_socket_dir =\nauth_type = any\n\
         pool_mode = session\ndefault_pool_size = 20\n",
        to.ip(),
        to.port(),
        at.ip(),
        at.port()
    );
    let ini = stage.write("pgbouncer.ini", &ini)?;
    let pgbouncer = program("pgbouncer")?;
    let command = [PACKAGED, &postgres::NOT_ROOT, &[&pgbouncer, &ini]].concat();
    let _pool = stage.serve(&stage.fixture.proxy, &command)?;
    transactions(stage, at)?;
    copy(stage, at)
}

fn transactions(stage: &mut Stage, at: SocketAddr) -> Result<()> {
    let bench = format!("pgbench -h {} -p {} -U postgres", at.ip(), at.port());
    stage.script(stage.client(), &format!("{bench} -i -s 2 postgres"), &[])?;
    for mode in ["simple", "prepared"] {
        let flags = format!("-n -c 8 -j 2 -t 250 -M {mode} --random-seed=42 postgres");
        let text = stage.script(stage.client(), &format!("{bench} {flags}"), &[])?;
        let done = after(&text, "number of transactions actually processed")?;
        stage.check(done == "2000/2000", || text.clone())?;
        stage.fact(format!("{mode}: transactions"), done);
        stage.fact(
            format!("{mode}: failed"),
            after(&text, "number of failed transactions")?,
        );
    }
    // The sums of what all transactions did; each is the same only if none was lost or done twice.
    let sums = sql(
        stage,
        "select (select sum(abalance) from pgbench_accounts), (select sum(tbalance) from pgbench_tellers), \
         (select sum(bbalance) from pgbench_branches), (select count(*) from pgbench_history), \
         (select sum(delta) from pgbench_history)",
    )?;
    stage.fact("sums", sums);
    Ok(())
}

fn copy(stage: &mut Stage, at: SocketAddr) -> Result<()> {
    sql(stage, "create table t (id int, text text)")?;
    // 300,000 rows in (26 MB), out, and once more as a result of a query; 4 MB in one value.
    let script = format!(
        "psql=\"{}\"
         seq 300000 | sed 's/.*/&,row & of a table that is copied in and out and long enough to fill segments/' > \"$0/rows\"
         sha256sum < \"$0/rows\"
         $psql -c '\\copy t from '\"$0/rows\"' with (format csv)'
         $psql -c '\\copy t to stdout with (format csv)' | sha256sum
         $psql -Atc 'select * from t order by id' | sha256sum
         $psql -Atc \"select repeat(md5('x'), 125000)\" | sha256sum
         $psql -c 'select count(*), sum(id) from nowhere' 2>&1 || echo exit $?",
        psql(at)
    );
    let text = stage.script(stage.client(), &script, &[])?;
    let sums: Vec<&str> = text.lines().filter(|l| l.ends_with(" -")).collect();
    stage.check(sums.len() == 4 && sums[0] == sums[1], || text.clone())?;
    stage.check(text.contains("COPY 300000"), || text.clone())?;
    stage.fact("answers", &*text);
    let sums = sql(
        stage,
        "select count(*), sum(id), md5(string_agg(text, ',' order by id)) from t",
    )?;
    stage.fact("the table", sums);
    Ok(())
}
