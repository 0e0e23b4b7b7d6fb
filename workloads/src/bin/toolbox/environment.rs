//! What is around a command: `echo`, `env`, `printenv`, `ps`, `pwd`, `sleep`, `tty`.

use crate::text::rest;
use crate::{Call, Outcome, misuse};
use std::io::IsTerminal;
use std::time::Duration;

/// The shim's words for who runs in the container: one line each, a tab between what it is and its words.
const PROCESSES: &str = "AMPHIPOD_PROCESSES";

/// Options are words of nothing but `n`, `e` and `E`; all else is to be said.
pub fn echo(call: &mut Call<'_>) -> Outcome {
    let is_option = |word: &&String| {
        word.strip_prefix('-').is_some_and(|letters| {
            !letters.is_empty() && letters.chars().all(|letter| "neE".contains(letter))
        })
    };
    let options: Vec<&String> = call.operands.iter().take_while(is_option).collect();
    let letters: String = options.iter().flat_map(|word| word.chars()).collect();
    let newline = !letters.contains('n');
    let escapes = letters.rfind('e') > letters.rfind('E');
    let text = call.operands[options.len()..].join(" ");
    let (text, goes_on) = if escapes {
        unescaped(&text)
    } else {
        (text.into_bytes(), true)
    };
    call.out.write_all(&text)?;
    if newline && goes_on {
        writeln!(call.out)?;
    }
    Ok(0)
}

/// Reads the escapes of `echo -e`; `\c` ends what is said.
fn unescaped(text: &str) -> (Vec<u8>, bool) {
    let mut out = Vec::new();
    let mut rest = text.chars();
    while let Some(letter) = rest.next() {
        if letter != '\\' {
            out.extend(letter.to_string().bytes());
            continue;
        }
        let (radix, most) = match rest.next() {
            Some('c') => return (out, false),
            Some('0') => (8, 3),
            Some('x') => (16, 2),
            Some(named) => {
                match "\\abefnrtv".find(named) {
                    Some(place) => out.push(b"\\\x07\x08\x1b\x0c\n\r\t\x0b"[place]),
                    None => out.extend(format!("\\{named}").bytes()),
                }
                continue;
            }
            None => {
                out.push(b'\\');
                continue;
            }
        };
        let digits: String = rest
            .clone()
            .take(most)
            .take_while(|digit| digit.is_digit(radix))
            .collect();
        rest.by_ref().take(digits.len()).for_each(drop);
        out.extend(u32::from_str_radix(&digits, radix).map(|value| value.to_le_bytes()[0]));
    }
    (out, true)
}

pub fn env(call: &mut Call<'_>) -> Outcome {
    let mut variables: Vec<(String, String)> = match call.has('i') {
        true => Vec::new(),
        false => std::env::vars().collect(),
    };
    variables.retain(|(name, _)| !call.options.values('u').any(|unset| unset == name));
    for operand in &call.operands {
        let Some((name, value)) = operand.split_once('=') else {
            return misuse(format!(
                "'{operand}': an exec runs one command, and env cannot begin another"
            ));
        };
        variables.retain(|(known, _)| known != name);
        variables.push((name.to_owned(), value.to_owned()));
    }
    for (name, value) in variables {
        writeln!(call.out, "{name}={value}")?;
    }
    Ok(0)
}

pub fn printenv(call: &mut Call<'_>) -> Outcome {
    let end = if call.has('0') { '\0' } else { '\n' };
    if call.operands.is_empty() {
        for (name, value) in std::env::vars() {
            write!(call.out, "{name}={value}{end}")?;
        }
    }
    let mut status = 0;
    for name in &call.operands {
        match std::env::var(name) {
            Ok(value) => write!(call.out, "{value}{end}")?,
            Err(_) => status = 1,
        }
    }
    Ok(status)
}

/// Guests have no processes: what there is, is told by the shim. All of it is shown, as most who ask want it.
pub fn ps(call: &mut Call<'_>) -> Outcome {
    if let Some(unknown) = call
        .operands
        .iter()
        .find(|word| !["aux", "ax"].contains(&word.as_str()))
    {
        return misuse(format!("unknown option '{unknown}'"));
    }
    let Ok(told) = std::env::var(PROCESSES) else {
        return misuse("only an exec is told who runs in its container");
    };
    writeln!(call.out, "{:<6} COMMAND", "GUEST")?;
    for line in told.lines() {
        let (kind, command) = line.split_once('\t').unwrap_or((line, ""));
        writeln!(call.out, "{kind:<6} {command}")?;
    }
    Ok(0)
}

pub fn pwd(call: &mut Call<'_>) -> Outcome {
    call.takes_no_operands()?;
    writeln!(call.out, "{}", std::env::current_dir()?.display())?;
    Ok(0)
}

/// Seconds, or with one of `smhd` behind it; several are added.
pub fn sleep(call: &mut Call<'_>) -> Outcome {
    call.needs_operands(1)?;
    let mut time = Duration::ZERO;
    for operand in &call.operands {
        let Some(more) = duration(operand) else {
            return misuse(format!("invalid time interval '{operand}'"));
        };
        time = time.saturating_add(more);
    }
    rest(time);
    Ok(0)
}

fn duration(text: &str) -> Option<Duration> {
    if ["inf", "infinity"].contains(&text) {
        return Some(Duration::MAX);
    }
    let (number, unit) = match text.char_indices().last()? {
        (place, 's') => (&text[..place], 1.0),
        (place, 'm') => (&text[..place], 60.0),
        (place, 'h') => (&text[..place], 3_600.0),
        (place, 'd') => (&text[..place], 86_400.0),
        _ => (text, 1.0),
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * unit).ok()
}

/// WASI's terminals have no name.
pub fn tty(call: &mut Call<'_>) -> Outcome {
    call.takes_no_operands()?;
    let is_terminal = std::io::stdin().is_terminal();
    if !call.has('s') {
        writeln!(call.out, "{}", if is_terminal { "/dev/tty" } else { "not a tty" })?;
    }
    Ok(u8::from(!is_terminal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes() {
        for (text, expected, goes_on) in [
            (r"a\tb\\", &b"a\tb\\"[..], true),
            (r"\x41\0101\q", b"AA\\q", true),
            (r"a\cb", b"a", false),
            (r"a\", b"a\\", true),
        ] {
            assert_eq!(unescaped(text), (expected.to_vec(), goes_on), "{text}");
        }
    }

    #[test]
    fn durations() {
        for (text, expected) in [
            ("1", Some(Duration::from_secs(1))),
            ("0.5m", Some(Duration::from_secs(30))),
            ("2h", Some(Duration::from_secs(7_200))),
            ("x", None),
            ("-1", None),
        ] {
            assert_eq!(duration(text), expected, "{text}");
        }
    }
}
