//! What a worker takes from itself before it reads the first byte: files (landlock) and every system
//! call that it does not need (seccomp). The vendor has done the rest before the worker's program
//! began: uid, capabilities, namespace, cgroup, descriptors, environment (docs/explanation/vendor.md).

use std::collections::BTreeMap;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _,
    RulesetStatus, Scope,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Width, SeccompCmpOp as Op,
    SeccompCondition as Condition, SeccompFilter, SeccompRule,
};

/// The kernel has no landlock, or it is off (`lsm=`).
pub const NO_LANDLOCK: u32 = 1;
/// The kernel has no seccomp filters.
pub const NO_SECCOMP: u32 = 2;

/// Names of the bits, as `--allow-missing` takes them.
pub const MISSING: [(u32, &str); 2] = [(NO_LANDLOCK, "landlock"), (NO_SECCOMP, "seccomp")];

/// Restricts the calling thread and all that it starts later: call it first, before there are others.
/// Read files and start the allocator's threads before. Gives what could not be restricted, for
/// [`super::worker::Vendor::hello`]; the vendor decides whether that will do.
pub fn restrict() -> u32 {
    let mut missing = landlock();
    if seccomp().is_err() {
        missing |= NO_SECCOMP;
    }
    missing
}

/// The first half of [`restrict`].
pub fn landlock() -> u32 {
    if no_files() { 0 } else { NO_LANDLOCK }
}

/// No file may be opened, made, run or removed, no TCP port bound, no abstract socket outside reached, no
/// process outside signaled. Older kernels know a part of it; the first version has the files.
fn no_files() -> bool {
    let restricted = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V5))
        .and_then(|r| r.handle_access(AccessNet::BindTcp))
        .and_then(|r| r.scope(Scope::from_all(ABI::V6)))
        .and_then(Ruleset::create)
        .and_then(landlock::RulesetCreated::restrict_self);
    restricted.is_ok_and(|status| status.ruleset != RulesetStatus::NotEnforced)
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn seccomp() -> Result<(), Box<dyn std::error::Error>> {
    // The C library falls back to `clone` if `clone3`, whose flags a filter cannot see, does not exist.
    let no_clone3 = Rules::from([(libc::SYS_clone3, vec![])]);
    let not_there = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    apply(no_clone3, SeccompAction::Allow, not_there)?;
    let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    apply(allowed()?, refuse, SeccompAction::Allow)
}

fn apply(
    rules: Rules,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<(), Box<dyn std::error::Error>> {
    let filter = SeccompFilter::new(
        rules,
        otherwise,
        matched,
        std::env::consts::ARCH.try_into()?,
    )?;
    let program: BpfProgram = filter.try_into()?;
    Ok(seccompiler::apply_filter(&program)?)
}

/// Calls that are allowed whatever their arguments are: sockets that the process was given, waiting,
/// memory, time. Nothing that makes a socket, opens a file, or starts or touches a process.
const FREE: &[i64] = &[
    libc::SYS_accept4,
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_clone3,
    libc::SYS_close,
    libc::SYS_connect,
    libc::SYS_dup,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_futex,
    libc::SYS_getpeername,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_set_robust_list,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_sigaltstack,
    libc::SYS_splice,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_write,
    libc::SYS_writev,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_time,
];

fn allowed() -> Result<Rules, seccompiler::BackendError> {
    let when = |argument, width, op, value: u64| -> Result<_, seccompiler::BackendError> {
        let condition = Condition::new(argument, width, op, value)?;
        Ok(vec![SeccompRule::new(vec![condition])?])
    };
    let exec = u64::from(libc::PROT_EXEC.unsigned_abs());
    let thread = u64::from(libc::CLONE_THREAD.unsigned_abs());
    let me = u64::from(std::process::id());
    let mut rules: Rules = FREE.iter().map(|call| (*call, vec![])).collect();
    // Threads, no processes.
    rules.insert(
        libc::SYS_clone,
        when(0, Width::Qword, Op::MaskedEq(thread), thread)?,
    );
    // No memory that can be run.
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, when(2, Width::Qword, Op::MaskedEq(exec), 0)?);
    }
    // `abort` signals its own thread group only.
    rules.insert(libc::SYS_tgkill, when(0, Width::Dword, Op::Eq, me)?);
    // Limits may be read.
    rules.insert(libc::SYS_prlimit64, when(2, Width::Qword, Op::Eq, 0)?);
    let name = u64::from(libc::PR_SET_NAME.unsigned_abs());
    rules.insert(libc::SYS_prctl, when(0, Width::Dword, Op::Eq, name)?);
    rules.insert(
        libc::SYS_ioctl,
        when(1, Width::Dword, Op::Eq, libc::FIONBIO)?,
    );
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_compile() {
        let filter = SeccompFilter::new(
            allowed().unwrap(),
            SeccompAction::Errno(1),
            SeccompAction::Allow,
            std::env::consts::ARCH.try_into().unwrap(),
        );
        let program: BpfProgram = filter.unwrap().try_into().unwrap();
        assert!(program.len() > FREE.len());
    }

    // That they hold is shown from inside a worker (tests/tests/vend_sandbox.rs).
    #[test]
    fn no_dangerous_call_is_free() {
        for call in [
            libc::SYS_socket,
            libc::SYS_openat,
            libc::SYS_execve,
            libc::SYS_ptrace,
            libc::SYS_kill,
            libc::SYS_clone,
            libc::SYS_setuid,
            libc::SYS_bpf,
            libc::SYS_io_uring_setup,
            libc::SYS_bind,
        ] {
            assert!(!FREE.contains(&call), "{call}");
        }
    }
}
