//! PostgreSQL 15 with pgbench and psql. The server refuses to run as root, so it runs in a user
//! namespace where root has another name: files of the lab stay its own.

use std::time::Duration;

use super::{
    Scenario, scenario,
    stage::{Stage, after},
};
use crate::{Result, lab::Proc};

pub const SCENARIOS: &[Scenario] = &[scenario("pgbench", pgbench), scenario("psql-copy", copy)];

const ANOTHER: [&str; 4] = ["packaged", "unshare", "--user", "--map-user=1000"];

fn server(stage: &Stage) -> Result<Proc> {
    let data = stage.path("data");
    let program = |name| -> Result<String> {
        let path = super::tools::find(name);
        let path = path.ok_or_else(|| crate::Failure(format!("{name} is not here")))?;
        Ok(path.to_string_lossy().into_owned())
    };
    let (initdb, postgres) = (program("initdb")?, program("postgres")?);
    let make = [
        &initdb,
        "-D",
        &data,
        "-U",
        "postgres",
        "-A",
        "trust",
        "-N",
        "--no-locale",
        "-E",
        "UTF8",
    ];
    stage.output(stage.server(), &[&ANOTHER[..], &make[..]].concat())?;
    let any = "host all all all trust\n";
    stage.write("data/pg_hba.conf", any)?;
    let pod = &stage.fixture.server;
    let (ip, port) = (pod.v4.to_string(), stage.port.to_string());
    let run = [
        &postgres,
        "-D",
        &data,
        "-h",
        &ip,
        "-p",
        &port,
        "-k",
        "",
        "-F",
        "-c",
        "shared_buffers=64MB",
    ];
    let server = stage.serve(pod, &[&ANOTHER[..], &run[..]].concat())?;
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
        &format!("{} -Atc \"$1\"", psql(stage)),
        &[query],
    )
}

fn psql(stage: &Stage) -> String {
    let at = stage.server_at();
    format!(
        "psql -X -v ON_ERROR_STOP=1 -h {} -p {} -U postgres",
        at.ip(),
        at.port()
    )
}

fn pgbench(stage: &mut Stage) -> Result<()> {
    let _server = server(stage)?;
    let at = stage.server_at();
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

fn copy(stage: &mut Stage) -> Result<()> {
    let _server = server(stage)?;
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
        psql(stage)
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
