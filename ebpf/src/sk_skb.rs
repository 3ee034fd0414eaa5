//! `sk_skb` verdict: what TCP brings to a socket in the map. It only passes, but by being there it
//! makes TCP's bytes enter the queue that redirected bytes enter: order and wake-ups are then right
//! by construction.

use aya_ebpf::{macros::stream_verdict, programs::SkBuffContext};

const SK_PASS: u32 = 1;

#[stream_verdict]
pub fn up_sk_skb(_: SkBuffContext) -> u32 {
    SK_PASS
}
