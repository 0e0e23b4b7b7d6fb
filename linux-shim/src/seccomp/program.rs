//! A filter as a program: calls that match always are compared by ranges of their numbers, which keeps it short; those
//! with conditions are compiled by seccompiler. Each architecture has its part; any other's programs are killed. Pure.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};

use super::arch::{Arch, X32_BIT};
use super::{Rule, Rules, SeccompError, Test};

/// What matches gets one action, what does not the other.
#[derive(Debug, Clone)]
pub struct Answers {
    pub matched: SeccompAction,
    pub otherwise: SeccompAction,
}

/// Rules of one architecture, by number.
type Numbered = BTreeMap<i64, Vec<Rule>>;

/// linux/bpf_common.h and linux/seccomp.h.
const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_EQUAL: u16 = 0x35;
pub const RETURN: u16 = 0x06;
const NUMBER_OFFSET: u32 = 0;
const ARCH_OFFSET: u32 = 4;
/// The longest program that the kernel takes (BPF_MAXINSNS).
const LONGEST: usize = 4096;
/// What seccompiler begins with: looking at the architecture, and loading the number.
const PREAMBLE: usize = 4;

/// Compiles rules for programs of these architectures.
pub fn compile(rules: &Rules<'_>, answers: &Answers, archs: &[Arch]) -> Result<BpfProgram, SeccompError> {
    let mut program = vec![load(ARCH_OFFSET)];
    for arch in archs.iter().filter(|arch| **arch != Arch::X32) {
        let mut part = vec![load(NUMBER_OFFSET)];
        let own = body(&numbered(rules, *arch), answers)?;
        if *arch == Arch::Native && cfg!(target_arch = "x86_64") {
            // A number of -1 is a tracer's way to skip a call, and not x32's.
            part.push(jump(JUMP_GREATER_EQUAL, X32_BIT, 0, 2));
            part.push(jump(JUMP_EQUAL, u32::MAX, 1, 0));
            part.push(skip(&own));
            part.extend(own);
            part.extend(match archs.contains(&Arch::X32) {
                true => body(&numbered(rules, Arch::X32), answers)?,
                false => vec![answer(&SeccompAction::KillProcess)],
            });
        } else {
            part.extend(own);
        }
        program.push(jump(JUMP_EQUAL, arch.word(), 1, 0));
        program.push(skip(&part));
        program.extend(part);
    }
    program.push(answer(&SeccompAction::KillProcess));
    match program.len() {
        len if len > LONGEST => Err(SeccompError::Long(len)),
        _ => Ok(program),
    }
}

/// Calls that the architecture does not have are left out, as the other runtimes do.
fn numbered(rules: &Rules<'_>, arch: Arch) -> Numbered {
    let mut numbered = Numbered::new();
    for (name, alternatives) in rules {
        if let Some(number) = arch.number(name) {
            super::add(&mut numbered, number, alternatives.clone());
        }
        // The arguments proper are behind a pointer: a rule about them is taken to match.
        if let Some((call, which)) = arch.multiplexed(name)
            && let Some(number) = arch.number(call)
        {
            let first = Test::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, which);
            super::add(&mut numbered, number, vec![vec![first]]);
        }
    }
    if arch.is_narrow() {
        let tests = numbered.values_mut().flatten().flatten();
        tests.for_each(Test::narrow);
    }
    numbered
}

/// Looks at a number that is loaded already, and answers.
fn body(rules: &Numbered, answers: &Answers) -> Result<BpfProgram, SeccompError> {
    let (always, conditional): (Vec<_>, Vec<_>) = rules.iter().partition(|(_, rules)| rules.is_empty());
    let mut body = conditions(conditional, answers)?;
    for (first, last) in ranges(always.into_iter().map(|(number, _)| *number)) {
        body.push(jump(JUMP_GREATER, last, 3, 0));
        body.push(jump(JUMP_GREATER_EQUAL, first, 0, 1));
        body.push(answer(&answers.matched));
        body.push(answer(&answers.otherwise));
    }
    body.push(answer(&answers.otherwise));
    Ok(body)
}

fn conditions(rules: Vec<(&i64, &Vec<Rule>)>, answers: &Answers) -> Result<BpfProgram, SeccompError> {
    if rules.is_empty() {
        return Ok(Vec::new());
    }
    let rules = rules
        .into_iter()
        .map(|(number, rules)| Ok((*number, rules.iter().map(compiled).collect::<Result<_, _>>()?)))
        .collect::<Result<_, SeccompError>>()?;
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let (matched, otherwise) = (answers.matched.clone(), answers.otherwise.clone());
    let mut program: BpfProgram = SeccompFilter::new(rules, otherwise, matched, arch)?.try_into()?;
    // The last answers for numbers that none of these is.
    program.pop();
    Ok(program.split_off(PREAMBLE))
}

fn compiled(rule: &Rule) -> Result<SeccompRule, SeccompError> {
    let tests = rule.iter().cloned();
    let conditions = tests.map(|t| SeccompCondition::new(t.index, t.len, t.op, t.value));
    Ok(SeccompRule::new(conditions.collect::<Result<_, _>>()?)?)
}

/// Numbers in order as ranges, first and last.
fn ranges(numbers: impl Iterator<Item = i64>) -> Vec<(u32, u32)> {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for number in numbers.filter_map(|number| u32::try_from(number).ok()) {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    ranges
}

fn load(offset: u32) -> sock_filter {
    jump(LOAD, offset, 0, 0)
}

fn answer(action: &SeccompAction) -> sock_filter {
    jump(RETURN, u32::from(action.clone()), 0, 0)
}

fn skip(over: &BpfProgram) -> sock_filter {
    // A longer one is refused before anybody runs it.
    jump(JUMP, u32::try_from(over.len()).unwrap_or(u32::MAX), 0, 0)
}

fn jump(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

impl Test {
    /// For arguments of 32 bits: that much of a value counts, as for libseccomp.
    fn narrow(&mut self) {
        let low = u64::from(u32::MAX);
        self.len = SeccompCmpArgLen::Dword;
        self.value &= low;
        if let SeccompCmpOp::MaskedEq(mask) = &mut self.op {
            *mask &= low;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel runs it, for a call with one argument.
    fn run(program: &BpfProgram, arch: u32, number: u32, argument: u64) -> u32 {
        let (mut at, mut a) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at].clone();
            let branch = |yes: bool| usize::from(if yes { jt } else { jf });
            at += 1;
            match code {
                LOAD if k == NUMBER_OFFSET => a = number,
                LOAD if k == ARCH_OFFSET => a = arch,
                LOAD if k == 16 => a = u32::try_from(argument & 0xffff_ffff).unwrap(),
                LOAD if k == 20 => a = u32::try_from(argument >> 32).unwrap(),
                LOAD => a = 0,
                JUMP => at += usize::try_from(k).unwrap(),
                JUMP_EQUAL => at += branch(a == k),
                JUMP_GREATER => at += branch(a > k),
                JUMP_GREATER_EQUAL => at += branch(a >= k),
                RETURN => return k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    const KILLED: u32 = 0x8000_0000;
    const ALLOWED: u32 = 0x7fff_0000;
    const REFUSED: u32 = 0x5_0001;

    fn answers() -> Answers {
        Answers {
            matched: SeccompAction::Allow,
            otherwise: SeccompAction::Errno(1),
        }
    }

    fn rules() -> Rules<'static> {
        let seven = Test::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0xf_0000_0007);
        Rules::from([
            ("read", vec![]),
            ("write", vec![]),
            ("socket", vec![vec![seven.clone()]]),
            ("personality", vec![vec![seven]]),
        ])
    }

    #[test]
    fn every_architecture_has_its_numbers() {
        let archs = [Arch::Native, Arch::I386, Arch::Arm];
        let program = compile(&rules(), &answers(), &archs).unwrap();
        for arch in archs {
            let call = |name, argument| {
                let number = u32::try_from(arch.number(name).unwrap()).unwrap();
                run(&program, arch.word(), number, argument)
            };
            assert_eq!(call("read", 0), ALLOWED, "{arch:?}");
            assert_eq!(call("write", 0), ALLOWED, "{arch:?}");
            assert_eq!(call("close", 0), REFUSED, "{arch:?}");
            let seven = if arch.is_narrow() { 7 } else { 0xf_0000_0007 };
            assert_eq!(call("personality", seven), ALLOWED, "{arch:?}");
            assert_eq!(call("personality", 8), REFUSED, "{arch:?}");
        }
        let socketcall = |which| run(&program, Arch::I386.word(), 102, which);
        assert_eq!((socketcall(1), socketcall(2)), (ALLOWED, REFUSED));
    }

    #[test]
    fn other_architectures_are_killed() {
        if !cfg!(target_arch = "x86_64") {
            return eprintln!("skipped: needs x86-64");
        }
        let native = compile(&rules(), &answers(), &[Arch::Native]).unwrap();
        let both = compile(&rules(), &answers(), &[Arch::Native, Arch::X32]).unwrap();
        let word = Arch::Native.word();
        assert_eq!(run(&native, Arch::I386.word(), 3, 0), KILLED);
        for (program, x32) in [(&native, KILLED), (&both, ALLOWED)] {
            assert_eq!(run(program, word, 0, 0), ALLOWED);
            assert_eq!(run(program, word, u32::MAX, 0), REFUSED);
            assert_eq!(run(program, word, X32_BIT, 0), x32);
        }
    }
}
