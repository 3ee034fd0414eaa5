//! How other threads ask the control loop.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        mpsc::{self, Receiver, SyncSender, TryRecvError},
    },
};

use rustix::{
    event::{EventfdFlags, eventfd},
    io::{read, write},
};
use tokio::sync::oneshot;

use super::Control;

/// Questions that wait for the loop, at most.
pub const QUEUE: usize = 64;

type Job = Box<dyn FnOnce(&mut Control) + Send>;

/// The loop's end of the queue.
pub struct Jobs {
    queue: Receiver<Job>,
    wake: Arc<OwnedFd>,
}

/// The other end. The loop ends when the last handle is dropped.
#[derive(Clone)]
pub struct Handle {
    queue: SyncSender<Job>,
    wake: Arc<OwnedFd>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    #[error("too many questions wait already")]
    Busy,
    #[error("the control loop has ended")]
    Ended,
}

pub fn queue() -> std::io::Result<(Handle, Jobs)> {
    let (sender, receiver) = mpsc::sync_channel(QUEUE);
    let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    let jobs = Jobs {
        queue: receiver,
        wake: wake.clone(),
    };
    Ok((
        Handle {
            queue: sender,
            wake,
        },
        jobs,
    ))
}

impl Handle {
    /// Runs `f` in the loop and waits for its answer.
    pub async fn ask<T, F>(&self, f: F) -> Result<T, Unavailable>
    where
        T: Send + 'static,
        F: FnOnce(&mut Control) -> T + Send + 'static,
    {
        let (answer, waiting) = oneshot::channel();
        let job = Box::new(move |control: &mut Control| {
            // Whoever asked may be gone.
            let _ = answer.send(f(control));
        });
        self.queue.try_send(job).map_err(|e| match e {
            mpsc::TrySendError::Full(_) => Unavailable::Busy,
            mpsc::TrySendError::Disconnected(_) => Unavailable::Ended,
        })?;
        self.wake();
        waiting.await.map_err(|_| Unavailable::Ended)
    }

    fn wake(&self) {
        // Fails only if the counter is at its maximum, and then the loop is awake.
        let _ = write(&*self.wake, &1_u64.to_ne_bytes());
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.wake();
    }
}

impl Jobs {
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Runs what waits; false once nobody can ask any more.
    pub fn run(&self, control: &mut Control) -> bool {
        let mut counter = [0; 8];
        let _ = read(&*self.wake, &mut counter);
        for _ in 0..QUEUE {
            match self.queue.try_recv() {
                Ok(job) => job(control),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
        // There may be more: come back at once.
        let _ = write(&*self.wake, &1_u64.to_ne_bytes());
        true
    }
}
