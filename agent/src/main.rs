//! `underpass-agent`: one thread for the control loop, one for everybody who asks it.
#![forbid(unsafe_code)]

use std::{process::ExitCode, sync::Arc, time::Duration};

use clap::Parser;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{Mutex, watch},
};
use underpass_abi::reason::code;
use underpass_agent::{
    api_server, check,
    control::{self, Control, Handle},
    kernel, last_good, log,
    metrics::{Exporter, http},
    options::Options,
    problem::Problem,
    sys,
};

fn main() -> ExitCode {
    let options = Options::parse();
    if options.check {
        return check::run(&options);
    }
    let result = if options.uninstall {
        uninstall(&options)
    } else {
        run(&options)
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("underpass-agent: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn uninstall(options: &Options) -> Result<(), Problem> {
    let kernel::Uninstalled {
        mut removed,
        mapped,
    } = kernel::uninstall(&options.kernel(), Duration::from_secs(options.drain))
        .map_err(|e| control::of_kernel(&e))?;
    let kept = options.state_dir.join("last-good");
    if last_good::remove(&options.state_dir)
        .map_err(|e| Problem::error(code::STATE_DIR, format!("{}: {e}", kept.display()), ""))?
    {
        removed.push(kept.display().to_string());
    }
    for line in &removed {
        println!("removed {line}");
    }
    if mapped > 0 {
        println!(
            "left {mapped} sockets that took the shortcut: they go on by TCP until they close"
        );
    }
    if removed.is_empty() {
        println!("nothing to remove below {}", options.pin_dir.display());
    }
    Ok(())
}

fn run(options: &Options) -> Result<(), Problem> {
    sys::memory::keep_little();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Problem::error(code::FEATURE_OFF, format!("runtime: {e}"), ""))?;
    runtime.block_on(serve(options))
}

/// Until a signal or the end of a part.
async fn serve(options: &Options) -> Result<(), Problem> {
    let metrics = TcpListener::bind(options.metrics).await.map_err(|e| {
        Problem::error(
            code::METRICS_ADDRESS,
            format!("{}: {e}", options.metrics),
            "",
        )
    })?;
    let control = Control::open(options).map_err(|e| e.0)?;
    let listener = api_server::bind(&options.api).map_err(|e| {
        let text = format!("{}: {e}", options.api.display());
        Problem::error(code::STATE_DIR, text, "")
    })?;
    // Capabilities belong to threads: before the first one starts.
    kernel::caps::drop_others().map_err(|e| {
        Problem::error(
            code::NO_BPF_CAPABILITY,
            format!("dropping capabilities: {e}"),
            "",
        )
    })?;
    let _log = log::start(options.log)
        .map_err(|e| Problem::error(code::FEATURE_OFF, format!("log thread: {e}"), ""))?;
    let (handle, jobs) = control::queue()
        .map_err(|e| Problem::error(code::FEATURE_OFF, format!("eventfd: {e}"), ""))?;
    let control_thread = std::thread::Builder::new()
        .name("control".into())
        .spawn(move || control.run(jobs))
        .map_err(|e| Problem::error(code::FEATURE_OFF, format!("control thread: {e}"), ""))?;
    tracing::info!(
        api = %options.api.display(),
        metrics = %options.metrics,
        version = env!("CARGO_PKG_VERSION"),
        "underpass-agent runs"
    );
    let scraped = tokio::spawn(serve_metrics(metrics, handle.clone()));
    let (stop, stopped) = watch::channel(false);
    let served = api_server::serve(listener, handle.clone(), async move {
        let mut stopped = stopped;
        let _ = stopped.wait_for(|s| *s).await;
    });
    tokio::pin!(served);
    let result = tokio::select! {
        served = &mut served => served.map_err(|e| {
            Problem::error(code::API_UNREACHABLE, format!("node API: {e}"), "")
        }),
        () = signals() => Ok(()),
        () = ended(&handle) => {
            Err(Problem::error(code::FEATURE_OFF, "the control loop ended", ""))
        }
    };
    let _ = stop.send(true);
    // Streams that somebody still reads end with the process.
    let _ = tokio::time::timeout(Duration::from_millis(200), &mut served).await;
    scraped.abort();
    drop(handle);
    let _ = std::fs::remove_file(&options.api);
    tracing::info!("stopped; rules stay in force");
    drop(control_thread);
    result
}

/// SIGTERM or SIGINT.
async fn signals() {
    let (Ok(mut term), Ok(mut int)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

/// Resolves when the control loop has ended, which it does only by a panic.
async fn ended(handle: &Handle) {
    while handle.ask(|_| ()).await != Err(control::Unavailable::Ended) {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn serve_metrics(listener: TcpListener, handle: Handle) {
    let exporter = Arc::new(Mutex::new(Exporter::default()));
    http::serve(listener, move |path| {
        answer(path, handle.clone(), exporter.clone())
    })
    .await;
}

async fn answer(path: String, handle: Handle, exporter: Arc<Mutex<Exporter>>) -> http::Answer {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let failed = |text: String| http::Answer::text(http::Status::Unavailable, format!("{text}\n"));
    let ok = |body: &str| http::Answer::text(http::Status::Ok, body);
    match path.as_str() {
        "/metrics" => match handle.ask(Control::scrape).await {
            Ok(Ok(scrape)) => match exporter.lock().await.render(scrape) {
                Ok(body) => http::Answer {
                    status: http::Status::Ok,
                    content_type: OPEN_METRICS,
                    body,
                },
                Err(error) => failed(error.to_string()),
            },
            Ok(Err(problem)) => failed(problem.to_string()),
            Err(error) => failed(error.to_string()),
        },
        "/healthz" => match handle.ask(|_| ()).await {
            Ok(()) => ok("ok\n"),
            Err(error) => failed(error.to_string()),
        },
        "/readyz" => match handle.ask(|c| c.ready()).await {
            Ok(Ok(())) => ok("ready\n"),
            Ok(Err(reason)) => failed(reason),
            Err(error) => failed(error.to_string()),
        },
        _ => http::Answer::text(http::Status::NotFound, "/metrics, /healthz or /readyz\n"),
    }
}
