//! OCI seccomp profiles compiled to BPF by seccompiler.
//!
//! A seccompiler filter has one action for what it matches, an OCI profile many: the profile becomes a stack of
//! filters, one per action, and the kernel takes the strictest answer of them (seccomp(2)). Pure.

mod default;
mod syscalls;

pub use default::filters as runtime_default;

use std::collections::{BTreeMap, HashSet};

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction as OciAction, LinuxSeccompArg, LinuxSeccompOperator as Operator,
    LinuxSyscall,
};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// A profile that cannot be enforced.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    #[error("seccomp: action {0} is not supported")]
    Action(OciAction),
    #[error("seccomp: flag {0} is not supported")]
    Flag(String),
    #[error("seccomp: {0}")]
    Compile(#[from] BackendError),
}

/// Rules by system call; an empty list matches every call of it.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Compiles a profile to filters in the order they are to be installed.
pub fn compile(profile: &LinuxSeccomp) -> Result<Vec<BpfProgram>, SeccompError> {
    refuse_notify(profile)?;
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let mut groups: Vec<(SeccompAction, Rules)> = Vec::new();
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
    stack(default, named, groups)
}

fn refuse_notify(profile: &LinuxSeccomp) -> Result<(), SeccompError> {
    if profile.listener_path().is_some() {
        return Err(SeccompError::Action(OciAction::ScmpActNotify));
    }
    // LOG only adds audit records; TSYNC and SPEC_ALLOW have nothing to act on in a process of one thread.
    let harmless = [
        "SECCOMP_FILTER_FLAG_LOG",
        "SECCOMP_FILTER_FLAG_TSYNC",
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    ];
    let flags = profile.flags().iter().flatten().map(ToString::to_string);
    match flags.into_iter().find(|f| !harmless.contains(&f.as_str())) {
        Some(flag) => Err(SeccompError::Flag(flag)),
        None => Ok(()),
    }
}

/// The filter with the default action lets every named call through; each group's filter then answers for its own.
/// A filter that stops `seccomp` itself must be the last installed.
fn stack(
    default: SeccompAction,
    named: Rules,
    groups: Vec<(SeccompAction, Rules)>,
) -> Result<Vec<BpfProgram>, SeccompError> {
    let mut filters = Vec::new();
    let mut last = Vec::new();
    if default != SeccompAction::Allow {
        let stops = !named.contains_key(&libc::SYS_seccomp);
        let filter = filter(named, default, SeccompAction::Allow)?;
        if stops { &mut last } else { &mut filters }.push(filter);
    }
    for (action, rules) in groups {
        let stops = rules.contains_key(&libc::SYS_seccomp);
        let filter = filter(rules, SeccompAction::Allow, action)?;
        if stops { &mut last } else { &mut filters }.push(filter);
    }
    filters.append(&mut last);
    Ok(filters)
}

fn filter(
    rules: Rules,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram, SeccompError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    Ok(SeccompFilter::new(rules, otherwise, matched, arch)?.try_into()?)
}

/// Adds rules; a call that matches always stays so.
fn extend(into: &mut Rules, rules: Rules) {
    for (call, mut conditions) in rules {
        match into.get_mut(&call) {
            Some(have) if have.is_empty() => {}
            Some(have) if conditions.is_empty() => have.clear(),
            Some(have) => have.append(&mut conditions),
            None => {
                into.insert(call, conditions);
            }
        }
    }
}

/// Calls this kernel's architecture does not have are left out, as the other runtimes do.
fn rules(syscall: &LinuxSyscall) -> Result<Rules, SeccompError> {
    let args = syscall.args().clone().unwrap_or_default();
    let conditions = conditions(&args)?;
    Ok(syscall
        .names()
        .iter()
        .filter_map(|n| syscalls::number(n))
        .map(|n| (n, conditions.clone()))
        .collect())
}

/// All conditions of a rule must hold, but two on one argument are alternatives (as libseccomp's users have it).
fn conditions(args: &[LinuxSeccompArg]) -> Result<Vec<SeccompRule>, SeccompError> {
    let mut seen = HashSet::new();
    let alternatives = args.iter().any(|a| !seen.insert(a.index()));
    let all = args.iter().map(condition).collect::<Result<Vec<_>, _>>()?;
    if all.is_empty() {
        return Ok(Vec::new());
    }
    if alternatives {
        return all.into_iter().map(|c| Ok(SeccompRule::new(vec![c])?)).collect();
    }
    Ok(vec![SeccompRule::new(all)?])
}

fn condition(arg: &LinuxSeccompArg) -> Result<SeccompCondition, SeccompError> {
    let (op, value) = match arg.op() {
        Operator::ScmpCmpNe => (SeccompCmpOp::Ne, arg.value()),
        Operator::ScmpCmpLt => (SeccompCmpOp::Lt, arg.value()),
        Operator::ScmpCmpLe => (SeccompCmpOp::Le, arg.value()),
        Operator::ScmpCmpEq => (SeccompCmpOp::Eq, arg.value()),
        Operator::ScmpCmpGe => (SeccompCmpOp::Ge, arg.value()),
        Operator::ScmpCmpGt => (SeccompCmpOp::Gt, arg.value()),
        Operator::ScmpCmpMaskedEq => (SeccompCmpOp::MaskedEq(arg.value()), arg.value_two().unwrap_or(0)),
    };
    let index = u8::try_from(arg.index()).map_err(|_| BackendError::InvalidArgumentNumber)?;
    Ok(SeccompCondition::new(index, SeccompCmpArgLen::Qword, op, value)?)
}

fn action(oci: OciAction, errno: Option<u32>) -> Result<SeccompAction, SeccompError> {
    let errno = errno.unwrap_or(libc::EPERM.cast_unsigned());
    Ok(match oci {
        OciAction::ScmpActAllow => SeccompAction::Allow,
        OciAction::ScmpActErrno => SeccompAction::Errno(errno),
        OciAction::ScmpActKill | OciAction::ScmpActKillThread => SeccompAction::KillThread,
        OciAction::ScmpActKillProcess => SeccompAction::KillProcess,
        OciAction::ScmpActLog => SeccompAction::Log,
        OciAction::ScmpActTrap => SeccompAction::Trap,
        OciAction::ScmpActTrace => SeccompAction::Trace(errno),
        OciAction::ScmpActNotify => return Err(SeccompError::Action(oci)),
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
        assert!(all[&libc::SYS_clone].is_empty());
    }

    #[test]
    fn two_conditions_on_one_argument_are_alternatives() {
        let args = |json| {
            conditions(&serde_json::from_str::<Vec<LinuxSeccompArg>>(json).unwrap())
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
    fn notify_is_refused() {
        let p = profile(
            r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read"],"action":"SCMP_ACT_NOTIFY"}]}"#,
        );
        assert!(compile(&p).is_err());
    }
}
