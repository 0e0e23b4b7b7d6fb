//! Device rules as a BPF program, for hosts whose cgroups have no `devices` controller (v2). Pure but for [`attach`].
//!
//! The context is `struct bpf_cgroup_dev_ctx` (linux/bpf.h): access and type in one word, major, minor. The last rule
//! that fits decides, as in the v1 controller's files.

use std::io;
use std::path::Path;

use amphipod_shim_api::cgroup::{Cgroup, CgroupError, Limits};

use crate::sys::bpf::{Instruction, attach_device_program};

// Instruction codes of linux/bpf.h and linux/bpf_common.h.
const LOAD_WORD: u8 = 0x61;
const MOVE_REGISTER: u8 = 0xbc;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const JUMP_IF_NOT: u8 = 0x56;
const JUMP_IF: u8 = 0x16;
const JUMP_IF_NOT_REGISTER: u8 = 0x5e;
const MOVE: u8 = 0xb4;
const EXIT: u8 = 0x95;

// Registers: what is asked for.
const SCRATCH: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// `BPF_DEVCG_ACC_*` of all accesses together.
const EVERY_ACCESS: i32 = 7;

/// A rule that cannot be made into a program.
#[derive(Debug, thiserror::Error)]
pub enum DeviceFilterError {
    #[error("device rule {0:?} is not of the form \"c 1:3 rwm\"")]
    Rule(String),
    #[error("cannot attach the device filter to {path:?}: {source}")]
    Attach {
        path: std::path::PathBuf,
        source: io::Error,
    },
}

/// Why a cgroup does not limit as it should.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    #[error("cgroup: {0}")]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Devices(#[from] DeviceFilterError),
}

/// Makes a cgroup and sets every limit, device rules too.
pub fn limit(cgroup: &Cgroup, limits: &Limits) -> Result<(), LimitError> {
    cgroup.create()?;
    cgroup.apply(limits)?;
    match cgroup.unified_dir() {
        Some(dir) if cgroup.is_v2() => Ok(attach(dir, &limits.devices)?),
        _ => Ok(()),
    }
}

/// Attaches a program for `rules` (allow, rule) to a v2 cgroup; no rules, no program.
fn attach(cgroup: &Path, rules: &[(bool, String)]) -> Result<(), DeviceFilterError> {
    if rules.is_empty() {
        return Ok(());
    }
    let program = program(rules)?;
    attach_device_program(cgroup, &program).map_err(|source| DeviceFilterError::Attach {
        path: cgroup.into(),
        source,
    })
}

fn op(code: u8, to: u8, from: u8, offset: i16, value: i32) -> Instruction {
    Instruction {
        code,
        registers: to | (from << 4),
        offset,
        value,
    }
}

fn program(rules: &[(bool, String)]) -> Result<Vec<Instruction>, DeviceFilterError> {
    let mut out = vec![
        op(LOAD_WORD, KIND, SCRATCH, 0, 0),
        op(LOAD_WORD, MAJOR, SCRATCH, 4, 0),
        op(LOAD_WORD, MINOR, SCRATCH, 8, 0),
        op(MOVE_REGISTER, ACCESS, KIND, 0, 0),
        op(AND, KIND, 0, 0, 0xffff),
        op(SHIFT_RIGHT, ACCESS, 0, 0, 16),
    ];
    for (allow, rule) in rules.iter().rev() {
        let parsed = parse(rule).ok_or_else(|| DeviceFilterError::Rule(rule.clone()))?;
        out.extend(block(*allow, parsed));
        if rule == "a" {
            // It fits whatever is asked; the kernel refuses a program with instructions never reached.
            return Ok(out);
        }
    }
    out.extend(answer(false));
    Ok(out)
}

/// Kind (`None` for all), major and minor (`None` for any), access.
type Parsed = (Option<i32>, Option<i32>, Option<i32>, i32);

fn parse(rule: &str) -> Option<Parsed> {
    if rule == "a" {
        return Some((None, None, None, EVERY_ACCESS));
    }
    let mut words = rule.split(' ');
    let kind = match words.next()? {
        "b" => 1,
        "c" => 2,
        _ => return None,
    };
    let (major, minor) = words.next()?.split_once(':')?;
    let number = |n: &str| {
        if n == "*" {
            Some(None)
        } else {
            n.parse().ok().map(Some)
        }
    };
    let bit = |c| match c {
        'm' => Some(1),
        'r' => Some(2),
        'w' => Some(4),
        _ => None,
    };
    let access = words.next()?.chars().map(bit).sum::<Option<i32>>()?;
    Some((Some(kind), number(major)?, number(minor)?, access))
}

/// Answers if the rule fits; else falls through to what follows.
fn block(allow: bool, (kind, major, minor, access): Parsed) -> Vec<Instruction> {
    let mut tests = Vec::new();
    tests.extend(kind.map(|k| op(JUMP_IF_NOT, KIND, 0, 0, k)));
    if access != EVERY_ACCESS {
        tests.push(op(MOVE_REGISTER, SCRATCH, ACCESS, 0, 0));
        tests.push(op(AND, SCRATCH, 0, 0, access));
        // To be allowed, all that is asked for must be in the rule; to be denied, any of it.
        tests.push(if allow {
            op(JUMP_IF_NOT_REGISTER, SCRATCH, ACCESS, 0, 0)
        } else {
            op(JUMP_IF, SCRATCH, 0, 0, 0)
        });
    }
    tests.extend(major.map(|m| op(JUMP_IF_NOT, MAJOR, 0, 0, m)));
    tests.extend(minor.map(|m| op(JUMP_IF_NOT, MINOR, 0, 0, m)));
    tests.extend(answer(allow));
    let length = tests.len();
    for (at, instruction) in tests.iter_mut().enumerate() {
        if [JUMP_IF, JUMP_IF_NOT, JUMP_IF_NOT_REGISTER].contains(&instruction.code) {
            // Blocks have fewer than ten instructions.
            instruction.offset = i16::try_from(length - at - 1).unwrap_or(i16::MAX);
        }
    }
    tests
}

fn answer(allow: bool) -> [Instruction; 2] {
    [op(MOVE, 0, 0, 0, i32::from(allow)), op(EXIT, 0, 0, 0, 0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel would.
    fn decide(rules: &[(bool, &str)], kind: i32, major: i32, minor: i32, access: i32) -> bool {
        let rules: Vec<_> = rules.iter().map(|(a, r)| (*a, (*r).to_owned())).collect();
        let program = program(&rules).unwrap();
        let context = [kind | (access << 16), major, minor];
        let mut r = [0i32; 6];
        let mut at = 0usize;
        loop {
            let i = &program[at];
            let (to, from) = (usize::from(i.registers & 15), usize::from(i.registers >> 4));
            at += 1;
            let jump = match i.code {
                LOAD_WORD => {
                    r[to] = context[usize::try_from(i.offset).unwrap() / 4];
                    false
                }
                MOVE_REGISTER => {
                    r[to] = r[from];
                    false
                }
                MOVE => {
                    r[to] = i.value;
                    false
                }
                AND => {
                    r[to] &= i.value;
                    false
                }
                SHIFT_RIGHT => {
                    r[to] >>= i.value;
                    false
                }
                JUMP_IF => r[to] == i.value,
                JUMP_IF_NOT => r[to] != i.value,
                JUMP_IF_NOT_REGISTER => r[to] != r[from],
                EXIT => return r[0] == 1,
                other => panic!("{other:#x}"),
            };
            if jump {
                at += usize::try_from(i.offset).unwrap();
            }
        }
    }

    #[test]
    fn the_last_fitting_rule_decides() {
        let rules = [
            (false, "a"),
            (true, "c *:* m"),
            (true, "c 1:3 rwm"),
            (false, "c 1:5 w"),
            (true, "c 136:* rw"),
        ];
        for (kind, major, minor, access, expected) in [
            (2, 1, 3, 6, true),
            (2, 1, 3, 7, true),
            (2, 1, 8, 2, false),
            (2, 9, 9, 1, true),
            (1, 9, 9, 1, false),
            (2, 136, 44, 6, true),
            (2, 136, 44, 7, false),
            (2, 1, 5, 4, false),
        ] {
            assert_eq!(
                decide(&rules, kind, major, minor, access),
                expected,
                "{kind} {major}:{minor} {access}"
            );
        }
        assert!(decide(&[(true, "a")], 1, 8, 0, 7));
        let all_but_one = [(true, "a"), (false, "c 10:200 rwm"), (true, "c 1:3 rwm")];
        for (minor, access, expected) in [(200, 1, false), (200, 2, false), (201, 7, true)] {
            assert_eq!(
                decide(&all_but_one, 2, 10, minor, access),
                expected,
                "{minor} {access}"
            );
        }
    }

    #[test]
    fn bad_rules_are_refused() {
        for rule in ["", "c", "c 1 rwm", "x 1:3 r", "c 1:y r", "c 1:3 q"] {
            assert!(program(&[(true, rule.to_owned())]).is_err(), "{rule}");
        }
    }

    #[test]
    fn the_kernel_takes_and_enforces_it() {
        let Some(cgroup) = TestCgroup::new() else { return };
        let rules = [(false, "a".to_owned()), (true, "c 1:3 rw".to_owned())];
        attach(&cgroup.0, &rules).unwrap();
        let script = format!(
            "echo $$ > {}/cgroup.procs && true < /dev/null && ! head -c 1 /dev/zero",
            cgroup.0.display()
        );
        let status = std::process::Command::new("sh")
            .args(["-c", &script])
            .status()
            .unwrap();
        assert!(status.success());
    }

    struct TestCgroup(std::path::PathBuf);

    impl TestCgroup {
        fn new() -> Option<Self> {
            let host = amphipod_shim_api::cgroup::CgroupHost::discover().ok()?;
            let cgroup = host
                .cgroup(&format!("/amphipod-unit-devices-{}", std::process::id()))
                .ok()?;
            let dir = cgroup.unified_dir().map(Path::to_path_buf);
            match dir.filter(|d| std::fs::create_dir(d).is_ok()) {
                Some(dir) => Some(Self(dir)),
                None => {
                    eprintln!("skipped: needs root and a cgroup2 mount");
                    None
                }
            }
        }
    }

    impl Drop for TestCgroup {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir(&self.0);
        }
    }
}
