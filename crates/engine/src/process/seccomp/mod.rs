//! The system calls that an instance may make: a list of what is allowed.
//!
//! Always holds: a call that nobody thought of does not reach the kernel. What exists and is not given answers EPERM, what is unknown
//! ENOSYS, a foreign socket family EAFNOSUPPORT: programs know these answers and fall back.

mod calls;

use calls::{ALLOWED, ALLOWED_HERE, DENIED, DENIED_HERE};
use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use std::collections::BTreeMap;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// `clone` may make threads and processes, not namespaces.
const NAMESPACE_FLAGS: [libc::c_int; 7] = [
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
];
/// Typing into somebody's terminal, and taking a line discipline for which the kernel would load a module.
const TERMINAL_TRICKS: [u64; 3] = [0x5412, 0x541c, 0x5423];
/// What `personality` may be asked for: to tell what it is, Linux, 32 bit, `uname -r` as of old, both. Nothing that weakens memory.
const PERSONALITIES: [u64; 5] = [0xffff_ffff, 0, 0x8, 0x2_0000, 0x2_0008];
const FAMILIES: [libc::c_int; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
/// Others load modules (SCTP, DCCP), open connections that no packet rule of ours knows (SMC), or are of no use without rights (raw).
const INET_PROTOCOLS: [libc::c_int; 3] = [0, libc::IPPROTO_TCP, libc::IPPROTO_UDP];

/// On x86-64 the same calls answer a second time with this bit set (the x32 ABI).
#[cfg(target_arch = "x86_64")]
const X32_BIT: Option<i64> = Some(0x4000_0000);
#[cfg(not(target_arch = "x86_64"))]
const X32_BIT: Option<i64> = None;

fn arch() -> Result<TargetArch, String> {
    TargetArch::try_from(std::env::consts::ARCH).map_err(|e| format!("seccomp: {e}"))
}

fn program(rules: Rules, matched: SeccompAction, else_: SeccompAction) -> Result<BpfProgram, String> {
    SeccompFilter::new(rules, else_, matched, arch()?)
        .and_then(BpfProgram::try_from)
        .map_err(|e| format!("seccomp: {e}"))
}

/// All of the conditions, each on the lower 32 bits of an argument: the kernel looks at no more of these.
fn all(conditions: impl IntoIterator<Item = (u8, SeccompCmpOp, u64)>) -> Result<SeccompRule, String> {
    conditions
        .into_iter()
        .map(|(argument, op, value)| SeccompCondition::new(argument, SeccompCmpArgLen::Dword, op, value))
        .collect::<Result<Vec<_>, _>>()
        .and_then(SeccompRule::new)
        .map_err(|e| format!("seccomp: {e}"))
}

fn wide(number: libc::c_int) -> u64 {
    u64::from(number.unsigned_abs())
}

fn with_twins(mut rules: Rules) -> Rules {
    if let Some(bit) = X32_BIT {
        let twins: Vec<_> = rules.iter().map(|(call, rules)| (call | bit, rules.clone())).collect();
        rules.extend(twins);
    }
    rules
}

fn allowed() -> Rules {
    ALLOWED.iter().chain(ALLOWED_HERE).map(|call| (*call, Vec::new())).collect()
}

fn denied() -> Result<Rules, String> {
    let mut rules: Rules = DENIED.iter().chain(DENIED_HERE).map(|call| (*call, Vec::new())).collect();
    let clones = NAMESPACE_FLAGS.map(wide).map(|flag| all([(0, SeccompCmpOp::MaskedEq(flag), flag)]));
    rules.insert(libc::SYS_clone, clones.into_iter().collect::<Result<_, _>>()?);
    let tricks = TERMINAL_TRICKS.map(|request| all([(1, SeccompCmpOp::Eq, request)]));
    rules.insert(libc::SYS_ioctl, tricks.into_iter().collect::<Result<_, _>>()?);
    rules.insert(libc::SYS_personality, vec![all(PERSONALITIES.map(|p| (0, SeccompCmpOp::Ne, p)))?]);
    Ok(with_twins(rules))
}

fn foreign_families() -> Result<Rules, String> {
    let family = all(FAMILIES.map(|f| (0, SeccompCmpOp::Ne, wide(f))))?;
    let pair = all([(0, SeccompCmpOp::Ne, wide(libc::AF_UNIX))])?;
    Ok(with_twins(BTreeMap::from([(libc::SYS_socket, vec![family]), (libc::SYS_socketpair, vec![pair])])))
}

fn foreign_protocols() -> Result<Rules, String> {
    let inet = |family| {
        let own = (0, SeccompCmpOp::Eq, wide(family));
        all(std::iter::once(own).chain(INET_PROTOCOLS.map(|p| (2, SeccompCmpOp::Ne, wide(p)))))
    };
    let netlink =
        all([(0, SeccompCmpOp::Eq, wide(libc::AF_NETLINK)), (2, SeccompCmpOp::Ne, wide(libc::NETLINK_ROUTE))])?;
    let rules = vec![inet(libc::AF_INET)?, inet(libc::AF_INET6)?, netlink];
    Ok(with_twins(BTreeMap::from([(libc::SYS_socket, rules)])))
}

/// In the order in which they are to be applied: of several that forbid, the kernel takes the answer of the last one.
fn programs() -> Result<Vec<BpfProgram>, String> {
    let forbid = |rules, errno: i32| program(rules, SeccompAction::Errno(errno.unsigned_abs()), SeccompAction::Allow);
    Ok(vec![
        program(allowed(), SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS.unsigned_abs()))?,
        forbid(denied()?, libc::EPERM)?,
        forbid(foreign_families()?, libc::EAFNOSUPPORT)?,
        forbid(foreign_protocols()?, libc::EPROTONOSUPPORT)?,
    ])
}

/// For this thread and whatever it executes. Sets no_new_privs as well.
pub(super) fn apply() -> Result<(), String> {
    for program in programs()? {
        seccompiler::apply_filter(&program).map_err(|e| format!("seccomp: {e}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_filters_compile() {
        let programs = programs().unwrap();
        assert!(programs.iter().all(|p| !p.is_empty() && p.len() < 4096));
    }

    #[test]
    fn no_call_is_in_both_lists_or_twice_in_one() {
        let allowed: Vec<_> = ALLOWED.iter().chain(ALLOWED_HERE).collect();
        let denied: Vec<_> = DENIED.iter().chain(DENIED_HERE).collect();
        let both: Vec<_> = allowed.iter().chain(&denied).collect();
        assert_eq!(both.iter().collect::<BTreeSet<_>>().len(), both.len());
    }
}
