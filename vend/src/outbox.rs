//! Messages that wait until a peer reads, bounded.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use underpass_api::vend::{Frame, channel::Channel};

/// Messages that wait for one peer. A thousand workloads with a few listeners each fit; a peer that is
/// further behind is given up.
pub const QUEUE: usize = 16_384;

#[derive(Debug, Default)]
pub struct Outbox(VecDeque<(Frame, Vec<OwnedFd>)>);

impl Outbox {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// False if the peer is [`QUEUE`] messages behind.
    #[must_use]
    pub fn push(&mut self, frame: Frame, fds: Vec<OwnedFd>) -> bool {
        if self.0.len() == QUEUE {
            return false;
        }
        self.0.push_back((frame, fds));
        true
    }

    /// Removes messages that are of no use any more, with their descriptors.
    pub fn forget(&mut self, stale: impl Fn(&Frame) -> bool) {
        self.0.retain(|(frame, _)| !stale(frame));
    }

    /// Sends until the peer is behind.
    ///
    /// # Errors
    /// If the peer is gone.
    pub fn flush(&mut self, to: &Channel) -> io::Result<()> {
        while let Some((frame, fds)) = self.0.front() {
            let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
            match to.send(frame, &fds) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                sent => sent?,
            }
            self.0.pop_front();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use underpass_api::vend::channel::Received;

    use super::*;

    #[test]
    fn all_arrive_in_order_however_slow_the_reader_is() {
        let (a, b) = Channel::pair().unwrap();
        let mut out = Outbox::default();
        for id in 0..2000 {
            assert!(out.push(Frame { id, ..Frame::of(1) }, vec![]));
        }
        for id in 0..2000 {
            out.flush(&a).unwrap();
            let Ok(Received::Frame(frame, _)) = b.recv() else {
                panic!("{id} did not come")
            };
            assert_eq!(frame.id, id);
        }
        assert!(out.is_empty());
    }

    #[test]
    fn the_queue_is_bounded() {
        let mut out = Outbox::default();
        assert!((0..QUEUE).all(|_| out.push(Frame::of(1), vec![])));
        assert!(!out.push(Frame::of(1), vec![]));
        out.forget(|f| f.kind == 1);
        assert!(out.is_empty());
    }
}
