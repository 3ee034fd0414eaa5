//! Whether the splice guard does what it is for. That it attaches proves nothing: where the kernel's
//! list of security modules lacks `bpf`, such programs are never called.

use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};

use super::{
    Attach, Bench, Errno, KernelError, OwnedFd, Source, Tested, btf, code, hear, ioctl_fionread,
    loopback, say, text,
};
use crate::{
    kernel::{loader, program},
    sys::tracing,
};

const LEN: usize = 100;

/// Tries it on private sockets; another guard that is in place knows nothing of them.
pub fn run(source: &Source, kernel: &btf::Btf) -> Result<(), KernelError> {
    let mut bench = Bench::bare(source, kernel)?;
    bench.attach(program::SK_SKB, Attach::SK_SKB)?;
    let program = loader::load(&mut bench.ebpf, program::SPLICE_GUARD, kernel)?;
    let guard = attach(&program)?;
    let result = turns_splice_away(&bench).and_then(|()| leaves_others_alone(&bench));
    drop(guard);
    result.map_err(|why| KernelError::new(code::FEATURE_OFF, format!("splice guard: {why}")))
}

/// The link; the guard is in place as long as it is open or pinned.
pub fn attach(program: &OwnedFd) -> Result<OwnedFd, KernelError> {
    tracing::attach(program).map_err(KernelError::io(code::FEATURE_OFF, "splice guard: attach"))
}

/// From a socket in the map splice fails at once, and what has come can still be read.
fn turns_splice_away(bench: &Bench) -> Tested<()> {
    let (a, b) = bench.pair()?;
    bench.redirect(false)?;
    match spliced(bench, &a, &b)? {
        Err(Errno::INVAL) => {}
        other => return Err(format!("splice from a socket in the map gave {other:?}")),
    }
    match hear(&b, 0, LEN)? {
        Some(LEN) => Ok(()),
        other => Err(format!("then {other:?} of {LEN} bytes could be read")),
    }
}

fn leaves_others_alone(bench: &Bench) -> Tested<()> {
    let (a, b) = loopback().map_err(text)?;
    match spliced(bench, &a, &b)? {
        Ok(LEN) => Ok(()),
        other => Err(format!("splice from another socket gave {other:?}")),
    }
}

/// Sends bytes, waits for them, and splices them into a pipe.
fn spliced(bench: &Bench, from: &OwnedFd, to: &OwnedFd) -> Tested<Result<usize, Errno>> {
    let (_out, into) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(text)?;
    say(from, 0, LEN)?;
    while ioctl_fionread(to).map_err(text)? < LEN as u64 {
        if bench.timeout() == Default::default() {
            return Err("what was sent does not come".into());
        }
        std::thread::yield_now();
    }
    let flags = SpliceFlags::NONBLOCK;
    Ok(splice(to, None, &into, None, LEN, flags))
}
