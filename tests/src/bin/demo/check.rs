//! What the mesh says against what the programs counted.

use serde::Serialize;
use serde_json::Value;
use underpass_tests::{
    Failure, Result,
    lab::{
        cli::{number, text},
        until,
    },
    stats::{chi_squared, critical_value},
};

use super::{
    saving::Saving,
    shop::{ASSETS, LEDGER, LIMIT, POLICY, RATES, REDIS, Shop, WEB, WEIGHTS},
};

#[derive(Serialize)]
pub struct Summary {
    pub ok: bool,
    pub checks: Vec<Check>,
}

#[derive(Serialize)]
pub struct Check {
    pub name: String,
    pub ok: bool,
    pub expected: String,
    pub seen: String,
}

/// Sums over one caller's connections to one service.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sums {
    connections: u64,
    sent: u64,
    received: u64,
}

impl Summary {
    /// Pauses the load, so that every count is final, compares, and lets it go on.
    pub fn take(shop: &mut Shop, saving: &Saving) -> Result<Self> {
        shop.shopper.tell("pause")?;
        shop.intruder.tell("pause")?;
        let shopper = shop.shopper.ask("report")?;
        let intruder = shop.intruder.ask("report")?;
        let web = shop.web.ask("report")?;
        let mut checks = vec![weights(&web)?];
        checks.push(bytes(shop, "shop/shopper", "shop/web", WEB, &shopper)?);
        for (service, at) in [
            ("shop/ledger", LEDGER),
            ("shop/rates", RATES),
            ("store/redis", REDIS),
            ("store/assets", ASSETS),
        ] {
            checks.push(bytes(shop, "shop/web", service, at, &web)?);
        }
        checks.push(denials(shop, &intruder)?);
        checks.push(failures(&shopper, &web));
        checks.push(saving.check(shop)?);
        shop.shopper.tell("go")?;
        shop.intruder.tell("go")?;
        Ok(Self {
            ok: checks.iter().all(|c| c.ok),
            checks,
        })
    }

    pub fn add(&mut self, checks: Vec<Check>) {
        self.checks.extend(checks);
        self.ok = self.checks.iter().all(|c| c.ok);
    }

    pub fn ok(&self) -> bool {
        self.ok
    }

    pub fn print(&self) {
        println!("== what was checked");
        for Check {
            name,
            ok,
            expected,
            seen,
        } in &self.checks
        {
            println!(
                "{} {name}\n     expected {expected}\n     seen     {seen}",
                if *ok { "ok  " } else { "FAIL" }
            );
        }
    }
}

/// Calls of one URL in a program's report.
fn calls<'a>(report: &'a Value, at: &str) -> Result<&'a Value> {
    let calls = report["calls"].as_object();
    let found = calls.and_then(|c| c.iter().find(|(url, _)| url.contains(&format!("//{at}"))));
    found
        .map(|(_, tally)| tally)
        .ok_or_else(|| Failure(format!("no call of {at} in {report}")))
}

fn weights(web: &Value) -> Result<Check> {
    let answers = &calls(web, RATES)?["answers"];
    let seen = ["rates v1", "rates v2"].map(|version| answers[version].as_u64().unwrap_or(0));
    let statistic = chi_squared(&seen, &WEIGHTS).ok_or_else(|| Failure::new("no weights"))?;
    let limit = critical_value(1);
    Ok(Check {
        name: "rates: connections by version follow the weights".into(),
        ok: seen[1] > 0 && statistic < limit,
        expected: format!(
            "v1 : v2 = {} : {}, chi-squared below {limit:.1}",
            WEIGHTS[0], WEIGHTS[1]
        ),
        seen: format!(
            "v1 : v2 = {} : {}, chi-squared {statistic:.2}",
            seen[0], seen[1]
        ),
    })
}

/// The rows of `conns` against the caller's own counts.
fn bytes(shop: &Shop, from: &str, service: &str, at: &str, report: &Value) -> Result<Check> {
    let own = calls(report, at)?;
    let want = |name: &str| own[name].as_u64().unwrap_or(0);
    let expected = Sums {
        connections: want("opened"),
        sent: want("sent"),
        received: want("received"),
    };
    let mut seen = Sums::default();
    // The last rows arrive a moment after the last close.
    let settled = until("rows", LIMIT / 4, || {
        seen = rows(shop, from, service).map_err(|f| f.0)?;
        if seen == expected {
            Ok(())
        } else {
            Err(String::new())
        }
    });
    let line = |s: &Sums| {
        format!(
            "{} connections, {} B sent, {} B received",
            s.connections, s.sent, s.received
        )
    };
    Ok(Check {
        name: format!(
            "{from} → {service}: bytes in `conns -o json` against the program's own count"
        ),
        ok: settled.is_ok() && expected.connections > 0,
        expected: line(&expected),
        seen: line(&seen),
    })
}

fn rows(shop: &Shop, from: &str, service: &str) -> Result<Sums> {
    let rows = shop
        .agent
        .cli
        .conns(&["--from", from, "--service", service])?;
    let mut sums = Sums::default();
    for row in rows.iter().filter(|r| text(r, "/verdict") == "allowed") {
        sums.connections += 1;
        sums.sent += number(row, "/bytes_sent").unwrap_or(0);
        sums.received += number(row, "/bytes_received").unwrap_or(0);
    }
    Ok(sums)
}

fn denials(shop: &Shop, intruder: &Value) -> Result<Check> {
    const EPERM: &str = "1";
    let own = calls(intruder, LEDGER)?;
    let expected = own["refused"][EPERM].as_u64().unwrap_or(0);
    let other = own["opened"].as_u64().unwrap_or(0);
    let policy = format!("AuthorizationPolicy {POLICY}");
    let mut seen = 0;
    let settled = until("denied rows", LIMIT / 4, || {
        let rows = shop
            .agent
            .cli
            .conns(&["--from", "shop/intruder", "--verdict", "denied"])
            .map_err(|f| f.0)?;
        seen = rows.iter().filter(|r| text(r, "/policy") == policy).count() as u64;
        if seen == expected {
            Ok(())
        } else {
            Err(String::new())
        }
    });
    Ok(Check {
        name: "shop/intruder → shop/ledger: each connect is refused, by that policy".into(),
        ok: settled.is_ok() && expected > 0 && other == 0,
        expected: format!("{expected} × EPERM, {other} connected"),
        seen: format!("{seen} rows denied by {policy}"),
    })
}

fn failures(shopper: &Value, web: &Value) -> Check {
    let mut failed = 0;
    let mut calls = 0;
    for tally in [shopper, web]
        .iter()
        .flat_map(|r| r["calls"].as_object())
        .flat_map(|c| c.values())
    {
        failed += tally["broken"].as_u64().unwrap_or(0);
        failed += tally["refused"]
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(_, n)| n.as_u64())
            .sum::<u64>();
        calls += tally["opened"].as_u64().unwrap_or(0);
    }
    Check {
        name: "calls of the shop that failed".into(),
        ok: failed == 0 && calls > 0,
        expected: "0".into(),
        seen: format!("{failed} of {calls}"),
    }
}
