//! OCI seccomp profiles compiled to BPF by seccompiler.
//!
//! A seccompiler filter has one action for what it matches, an OCI profile many: the profile becomes a stack of
//! filters, one per action, and the kernel takes the strictest answer of them (seccomp(2)). What seccompiler has no
//! word for, asking a listener, is compiled as a trace with a mark and put in its place. A program of 32 bits may run
//! where the profile lists its architecture (x86 and x32 on x86-64, arm on aarch64) and is killed elsewhere. Pure.

mod arch;
mod default;
mod foreign;
mod program;
mod syscalls;

pub use default::filters as runtime_default;

use std::collections::{BTreeMap, HashSet};

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction as OciAction, LinuxSeccompArg, LinuxSeccompOperator as Operator,
    LinuxSyscall,
};
use seccompiler::{BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp};

use arch::Arch;
use program::{Answers, RETURN};

/// A profile that cannot be enforced.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    #[error("seccomp: flag {0} is not supported")]
    Flag(String),
    #[error("seccomp: SCMP_ACT_NOTIFY needs a listenerPath")]
    NoListener,
    #[error(
        "seccomp: SCMP_ACT_NOTIFY cannot be the default, nor be for sendmsg or recvfrom: they hand the listener on"
    )]
    Deadlock,
    #[error("seccomp: errnoRet {0} cannot be used with SCMP_ACT_TRACE")]
    Mark(u32),
    #[error("seccomp: the rules make a program of {0} instructions; the kernel takes 4096")]
    Long(usize),
    #[error("seccomp: {0}")]
    Compile(#[from] BackendError),
}

/// A compiled filter and the flags it is to be installed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    pub program: BpfProgram,
    pub flags: libc::c_ulong,
}

impl Filter {
    /// Whether a listener answers for it.
    pub fn notifies(&self) -> bool {
        self.flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER != 0
    }
}

/// Stands for `SECCOMP_RET_USER_NOTIF` until the filter is compiled; a profile's own trace with this number is refused.
const NOTIFY_MARK: u32 = 0xa3f1;
/// Calls that hand the listener its descriptor: with them waiting for the listener, nobody would ever answer.
const HANDING_ON: [&str; 2] = ["sendmsg", "recvfrom"];

/// A comparison of one argument.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Test {
    index: u8,
    len: SeccompCmpArgLen,
    op: SeccompCmpOp,
    value: u64,
}

impl Test {
    fn new(index: u8, len: SeccompCmpArgLen, op: SeccompCmpOp, value: u64) -> Self {
        Self {
            index,
            len,
            op,
            value,
        }
    }
}

/// Matches when all of its tests do.
type Rule = Vec<Test>;
/// Rules by the name of a system call; an empty list matches every call of it.
type Rules<'a> = BTreeMap<&'a str, Vec<Rule>>;

/// Compiles a profile to filters in the order they are to be installed.
pub fn compile(profile: &LinuxSeccomp) -> Result<Vec<Filter>, SeccompError> {
    let flags = flags(profile)?;
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let mut groups: Vec<(SeccompAction, Rules<'_>)> = Vec::new();
    let mut named = Rules::new();
    for syscall in profile.syscalls().iter().flatten() {
        let action = action(syscall.action(), syscall.errno_ret())?;
        if action == default {
            continue;
        }
        let rules = rules(syscall)?;
        extend(&mut named, rules.clone());
        match groups.iter_mut().find(|(a, _)| *a == action) {
            Some((_, group)) => extend(group, rules),
            None => groups.push((action, rules)),
        }
    }
    groups.retain(|(action, _)| *action != SeccompAction::Allow);
    check_notify(profile, &default, &groups)?;
    let mut filters = stack(default, &named, &groups, &Arch::of(profile))?;
    filters.iter_mut().for_each(|f| set_flags(f, flags));
    Ok(filters)
}

/// A profile without a listener can have no notifications, and one call must stay free of them.
fn check_notify(
    profile: &LinuxSeccomp,
    default: &SeccompAction,
    groups: &[(SeccompAction, Rules<'_>)],
) -> Result<(), SeccompError> {
    let notify = SeccompAction::Trace(NOTIFY_MARK);
    let group = groups.iter().find(|(action, _)| *action == notify);
    if *default == notify || group.is_some_and(|(_, rules)| HANDING_ON.iter().any(|n| rules.contains_key(n)))
    {
        return Err(SeccompError::Deadlock);
    }
    match group {
        Some(_) if profile.listener_path().is_none() => Err(SeccompError::NoListener),
        _ => Ok(()),
    }
}

/// TSYNC has nothing to act on in a process of one thread.
fn flags(profile: &LinuxSeccomp) -> Result<libc::c_ulong, SeccompError> {
    let mut flags = 0;
    for flag in profile.flags().iter().flatten() {
        flags |= match flag.to_string().as_str() {
            "SECCOMP_FILTER_FLAG_LOG" => libc::SECCOMP_FILTER_FLAG_LOG,
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            "SECCOMP_FILTER_FLAG_TSYNC" => 0,
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => WAIT_KILLABLE,
            other => return Err(SeccompError::Flag(other.to_owned())),
        };
    }
    Ok(flags)
}

/// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV` (Linux 5.19): means something with a listener only.
const WAIT_KILLABLE: libc::c_ulong = libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;

fn set_flags(filter: &mut Filter, asked: libc::c_ulong) {
    filter.flags |= if filter.notifies() {
        asked
    } else {
        asked & !WAIT_KILLABLE
    };
}

/// The filter with the default action lets every named call through; each group's filter then answers for its own.
/// A filter that stops `seccomp` itself must be the last installed.
fn stack(
    default: SeccompAction,
    named: &Rules<'_>,
    groups: &[(SeccompAction, Rules<'_>)],
    archs: &[Arch],
) -> Result<Vec<Filter>, SeccompError> {
    let mut filters = Vec::new();
    let mut last = Vec::new();
    if default != SeccompAction::Allow {
        let stops = !named.contains_key("seccomp");
        let filter = filter(named, default, SeccompAction::Allow, archs)?;
        if stops { &mut last } else { &mut filters }.push(filter);
    }
    for (action, rules) in groups {
        let stops = rules.contains_key("seccomp");
        let filter = filter(rules, SeccompAction::Allow, action.clone(), archs)?;
        if stops { &mut last } else { &mut filters }.push(filter);
    }
    filters.append(&mut last);
    Ok(filters)
}

fn filter(
    rules: &Rules<'_>,
    otherwise: SeccompAction,
    matched: SeccompAction,
    archs: &[Arch],
) -> Result<Filter, SeccompError> {
    let notify = matched == SeccompAction::Trace(NOTIFY_MARK);
    let mut program = program::compile(rules, &Answers { matched, otherwise }, archs)?;
    if notify {
        ask_listener(&mut program);
    }
    let flags = if notify {
        libc::SECCOMP_FILTER_FLAG_NEW_LISTENER
    } else {
        0
    };
    Ok(Filter { program, flags })
}

fn ask_listener(program: &mut BpfProgram) {
    let marked = u32::from(SeccompAction::Trace(NOTIFY_MARK));
    for instruction in program.iter_mut() {
        if instruction.code == RETURN && instruction.k == marked {
            instruction.k = libc::SECCOMP_RET_USER_NOTIF;
        }
    }
}

fn extend<'a>(into: &mut Rules<'a>, rules: Rules<'a>) {
    for (call, alternatives) in rules {
        add(into, call, alternatives);
    }
}

/// Adds rules; a call that matches always stays so.
fn add<K: Ord>(into: &mut BTreeMap<K, Vec<Rule>>, call: K, mut alternatives: Vec<Rule>) {
    match into.get_mut(&call) {
        Some(have) if have.is_empty() => {}
        Some(have) if alternatives.is_empty() => have.clear(),
        Some(have) => have.append(&mut alternatives),
        None => {
            into.insert(call, alternatives);
        }
    }
}

fn rules(syscall: &LinuxSyscall) -> Result<Rules<'_>, SeccompError> {
    let alternatives = alternatives(syscall.args().as_deref().unwrap_or_default())?;
    let names = syscall.names().iter();
    Ok(names.map(|name| (name.as_str(), alternatives.clone())).collect())
}

/// All conditions of a rule must hold, but two on one argument are alternatives (as libseccomp's users have it).
fn alternatives(args: &[LinuxSeccompArg]) -> Result<Vec<Rule>, SeccompError> {
    let mut seen = HashSet::new();
    let alternatives = args.iter().any(|a| !seen.insert(a.index()));
    let all = args.iter().map(test).collect::<Result<Rule, _>>()?;
    if alternatives {
        return Ok(all.into_iter().map(|test| vec![test]).collect());
    }
    Ok(if all.is_empty() { Vec::new() } else { vec![all] })
}

fn test(arg: &LinuxSeccompArg) -> Result<Test, SeccompError> {
    let (op, value) = match arg.op() {
        Operator::ScmpCmpNe => (SeccompCmpOp::Ne, arg.value()),
        Operator::ScmpCmpLt => (SeccompCmpOp::Lt, arg.value()),
        Operator::ScmpCmpLe => (SeccompCmpOp::Le, arg.value()),
        Operator::ScmpCmpEq => (SeccompCmpOp::Eq, arg.value()),
        Operator::ScmpCmpGe => (SeccompCmpOp::Ge, arg.value()),
        Operator::ScmpCmpGt => (SeccompCmpOp::Gt, arg.value()),
        Operator::ScmpCmpMaskedEq => (SeccompCmpOp::MaskedEq(arg.value()), arg.value_two().unwrap_or(0)),
    };
    let index = u8::try_from(arg.index()).ok().filter(|index| *index < ARGUMENTS);
    let index = index.ok_or(BackendError::InvalidArgumentNumber)?;
    Ok(Test::new(index, SeccompCmpArgLen::Qword, op, value))
}

/// What a system call has at most.
const ARGUMENTS: u8 = 6;

fn action(oci: OciAction, errno: Option<u32>) -> Result<SeccompAction, SeccompError> {
    let errno = errno.unwrap_or(libc::EPERM.cast_unsigned());
    Ok(match oci {
        OciAction::ScmpActAllow => SeccompAction::Allow,
        OciAction::ScmpActErrno => SeccompAction::Errno(errno),
        OciAction::ScmpActKill | OciAction::ScmpActKillThread => SeccompAction::KillThread,
        OciAction::ScmpActKillProcess => SeccompAction::KillProcess,
        OciAction::ScmpActLog => SeccompAction::Log,
        OciAction::ScmpActTrap => SeccompAction::Trap,
        OciAction::ScmpActTrace if errno == NOTIFY_MARK => return Err(SeccompError::Mark(errno)),
        OciAction::ScmpActTrace => SeccompAction::Trace(errno),
        OciAction::ScmpActNotify => SeccompAction::Trace(NOTIFY_MARK),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(json: &str) -> LinuxSeccomp {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn one_filter_per_action() {
        let p = profile(
            r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
            {"names":["read","seccomp","not_a_call"],"action":"SCMP_ACT_ALLOW"},
            {"names":["clone3"],"action":"SCMP_ACT_ERRNO","errnoRet":38}]}"#,
        );
        assert_eq!(compile(&p).unwrap().len(), 2);
        let p = profile(r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#);
        assert!(compile(&p).unwrap().is_empty());
        let p = profile(r#"{"defaultAction":"SCMP_ACT_ERRNO"}"#);
        assert_eq!(compile(&p).unwrap().len(), 1);
    }

    #[test]
    fn rules_without_conditions_win() {
        let p = profile(
            r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
            {"names":["clone"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]},
            {"names":["clone"],"action":"SCMP_ACT_ALLOW"}]}"#,
        );
        let mut all = Rules::new();
        for s in p.syscalls().iter().flatten() {
            extend(&mut all, rules(s).unwrap());
        }
        assert!(all["clone"].is_empty());
    }

    #[test]
    fn two_conditions_on_one_argument_are_alternatives() {
        let args = |json| {
            alternatives(&serde_json::from_str::<Vec<LinuxSeccompArg>>(json).unwrap())
                .unwrap()
                .len()
        };
        assert_eq!(
            args(r#"[{"index":0,"value":1,"op":"SCMP_CMP_EQ"},{"index":0,"value":2,"op":"SCMP_CMP_EQ"}]"#),
            2
        );
        assert_eq!(
            args(r#"[{"index":0,"value":1,"op":"SCMP_CMP_EQ"},{"index":1,"value":2,"op":"SCMP_CMP_EQ"}]"#),
            1
        );
    }

    #[test]
    fn an_unknown_architecture_is_refused() {
        let json = r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_PDP11"]}"#;
        assert!(serde_json::from_str::<LinuxSeccomp>(json).is_err());
    }

    #[test]
    fn a_listener_is_asked_by_a_filter_of_its_own() {
        let json = r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/l","flags":["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_NOTIFY"}]}"#;
        let filters = compile(&profile(json)).unwrap();
        assert!(filters.len() == 1 && filters[0].notifies());
        let asks = |i: &seccompiler::sock_filter| i.code == RETURN && i.k == libc::SECCOMP_RET_USER_NOTIF;
        assert_eq!(filters[0].program.iter().filter(|i| asks(i)).count(), 1);
        for bad in [
            json.replace(r#""listenerPath":"/l","#, ""),
            json.replace("mkdir", "sendmsg"),
            json.replace("ACT_ALLOW", "ACT_NOTIFY"),
        ] {
            assert!(compile(&profile(&bad)).is_err(), "{bad}");
        }
    }
}
