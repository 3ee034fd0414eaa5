//! What the shortcut's programs ask for.

use underpass_abi::shortcut::{Notice, NoticeKind};

use super::Control;

impl Control {
    pub(super) fn take_notices(&mut self, notices: &[Notice]) {
        let candidate = NoticeKind::Candidate as u32;
        if notices.iter().any(|n| n.kind == candidate) {
            self.kernel.watch_splice();
        }
    }
}
