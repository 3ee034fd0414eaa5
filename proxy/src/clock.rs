//! One timer for each connection, which is set anew only when it must ring earlier: a deadline moves with
//! each byte, and setting a timer costs more than to find once in a while that it rang too early.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use tokio::time::{Instant, Sleep};

/// Borrows the timer that the connection's task holds.
pub struct Clock<'a> {
    sleep: Pin<&'a mut Sleep>,
}

impl<'a> Clock<'a> {
    pub fn new(sleep: Pin<&'a mut Sleep>) -> Self {
        Self { sleep }
    }

    /// Whether the deadline is over; else the task is woken when it is, or earlier.
    pub fn is_over(&mut self, cx: &mut Context<'_>, deadline: Instant) -> bool {
        if self.sleep.deadline() > deadline {
            self.sleep.as_mut().reset(deadline);
        }
        while self.sleep.as_mut().poll(cx) == Poll::Ready(()) {
            if Instant::now() >= deadline {
                return true;
            }
            self.sleep.as_mut().reset(deadline);
        }
        false
    }
}
