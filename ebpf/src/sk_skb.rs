//! `sk_skb` verdict: what TCP brings to a socket in the map. It passes all of it, and by being there it
//! makes TCP's bytes enter the queue that redirected bytes enter: order and wake-ups are then right
//! by construction.

use aya_ebpf::{EbpfContext as _, macros::stream_verdict, programs::SkBuffContext};

use crate::shortcut::overlap;

const SK_DROP: u32 = 0;
const SK_PASS: u32 = 1;

#[stream_verdict]
pub fn up_sk_skb(ctx: SkBuffContext) -> u32 {
    if overlap::cut(ctx.as_ptr().cast()) {
        SK_PASS
    } else {
        SK_DROP
    }
}
