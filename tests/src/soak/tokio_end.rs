//! One end that follows its plan on tokio, as real servers do.

use std::{cell::Cell, io};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Notify,
    time::{sleep, timeout},
};

use super::{
    end::{Finish, STUCK, broken, finish, stuck, wrong},
    plan::{Leaves, Plan},
};
use crate::equivalence::script::End;

/// How far an end has come; both halves run on one thread.
struct Progress {
    sent: Cell<u64>,
    got: Cell<u64>,
    message: Cell<usize>,
    ended: Cell<bool>,
    came: Notify,
    left: Notify,
}

pub fn run(mut end: End, plan: &Plan, may_break: bool) -> Finish {
    let progress = Progress {
        sent: Cell::new(0),
        got: Cell::new(0),
        message: Cell::new(0),
        ended: Cell::new(false),
        came: Notify::new(),
        left: Notify::new(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = runtime.and_then(|r| r.block_on(follow(&end, plan, &progress, may_break)));
    end.got = progress.got.get();
    match result {
        Ok(()) => finish(end, plan, may_break),
        Err(e) => broken(end.got, e, may_break),
    }
}

async fn follow(end: &End, plan: &Plan, progress: &Progress, may_break: bool) -> io::Result<()> {
    let stream = std::net::TcpStream::from(end.dup("tokio")?.into_fd());
    let mut stream = TcpStream::from_std(stream)?;
    let (mut reader, mut writer) = stream.split();
    let read = async {
        let mut buffer = vec![0; plan.read_size];
        let theirs = end.theirs();
        let mut stall = plan.stall;
        let mut reads = 0;
        loop {
            if let Some((at, pause)) = stall
                && progress.got.get() >= at
            {
                stall = None;
                sleep(pause).await;
            }
            let got = timeout(STUCK, reader.read(&mut buffer)).await;
            let got = got.map_err(|_| at(plan, progress))??;
            if got == 0 {
                progress.ended.set(true);
                if may_break {
                    progress.left.notify_one();
                }
                progress.came.notify_one();
                return Ok(());
            }
            if let Some(at) = theirs.wrong(progress.got.get(), &buffer[..got]) {
                return Err(wrong(theirs, progress.got.get(), &buffer[..got], at));
            }
            progress.got.set(progress.got.get() + got as u64);
            progress.came.notify_one();
            leave(plan, progress);
            reads += 1;
            if let Some((times, pause)) = plan.slow
                && reads <= times
            {
                sleep(pause).await;
            }
        }
    };
    let write = async {
        for message in &plan.messages {
            while progress.got.get() < message.after {
                if progress.ended.get() {
                    return Ok(());
                }
                let came = timeout(STUCK, progress.came.notified()).await;
                came.map_err(|_| at(plan, progress))?;
            }
            if let Some(pause) = message.pause {
                sleep(pause).await;
            }
            let bytes = end.mine().bytes(progress.sent.get(), message.len);
            let wrote = timeout(STUCK, writer.write_all(&bytes)).await;
            wrote.map_err(|_| at(plan, progress))??;
            progress.sent.set(progress.sent.get() + message.len as u64);
            progress.message.set(progress.message.get() + 1);
            leave(plan, progress);
        }
        writer.shutdown().await
    };
    let both = async { tokio::try_join!(read, write).map(|_| ()) };
    tokio::select! {
        biased;
        () = progress.left.notified() => Ok(()),
        result = both => result,
    }
}

/// Ends both halves where the plan leaves early.
fn leave(plan: &Plan, progress: &Progress) {
    let (how, at) = plan.leaves;
    if how != Leaves::No && progress.got.get().max(progress.sent.get()) >= at {
        progress.left.notify_one();
    }
}

fn at(plan: &Plan, progress: &Progress) -> io::Error {
    stuck(
        plan,
        progress.sent.get(),
        progress.got.get(),
        progress.message.get(),
    )
}
