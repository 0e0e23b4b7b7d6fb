//! Options of a command line, by the rules of POSIX and with GNU's long names and order.
//!
//! A command's options are written as words: `l` is a letter, `n:` one with a value, `a/all` one with a long name, `/all` one that
//! has no letter.
//! What is not among them is refused.

/// The options given, in their order; those without a value have an empty one.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options(Vec<(char, String)>);

impl Options {
    /// The value of an option, given last.
    pub fn value(&self, letter: char) -> Option<&str> {
        self.values(letter).last()
    }

    /// All values of an option.
    pub fn values(&self, letter: char) -> impl Iterator<Item = &str> {
        let given = self.0.iter().filter(move |(given, _)| *given == letter);
        given.map(|(_, value)| value.as_str())
    }

    /// Which of some options was given last.
    pub fn last_of(&self, letters: &str) -> Option<char> {
        let given = self.0.iter().rev().map(|(letter, _)| *letter);
        given.into_iter().find(|letter| letters.contains(*letter))
    }
}

/// In the place of a letter, which no command line has.
const NO_LETTER: char = '\0';

/// An option as a command's words have it.
struct Known<'a> {
    letter: char,
    takes_value: bool,
    long: &'a str,
}

fn known(words: &str) -> impl Iterator<Item = Known<'_>> {
    words.split_whitespace().map(|word| {
        let (short, long) = word.split_once('/').unwrap_or((word, ""));
        Known {
            letter: short.chars().next().unwrap_or(NO_LETTER),
            takes_value: short.ends_with(':'),
            long,
        }
    })
}

/// Splits a command line into options and operands. `--` ends the options.
///
/// # Errors
/// Says, as the C library's getopt does, which option is none of the `words`, or lacks its value.
pub fn read(words: &str, args: Vec<String>) -> Result<(Options, Vec<String>), String> {
    let mut options = Options::default();
    let mut operands = Vec::new();
    let mut args = args.into_iter();
    while let Some(word) = args.next() {
        if word == "--" {
            operands.extend(args.by_ref());
        } else if let Some(long) = word.strip_prefix("--") {
            options.0.push(read_long(words, long, &mut args)?);
        } else if let Some(letters) = word.strip_prefix('-').filter(|letters| !letters.is_empty()) {
            read_letters(words, letters, &mut args, &mut options)?;
        } else {
            operands.push(word);
        }
    }
    Ok((options, operands))
}

fn read_long(
    words: &str,
    given: &str,
    args: &mut impl Iterator<Item = String>,
) -> Result<(char, String), String> {
    let (name, value) = match given.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (given, None),
    };
    let found = known(words).find(|known| !name.is_empty() && known.long == name);
    let found = found.ok_or_else(|| format!("unrecognized option '--{name}'"))?;
    let value = match (found.takes_value, value) {
        (false, None) => String::new(),
        (false, Some(_)) => return Err(format!("option '--{name}' doesn't allow an argument")),
        (true, Some(value)) => value,
        (true, None) => args
            .next()
            .ok_or_else(|| format!("option '--{name}' requires an argument"))?,
    };
    Ok((found.letter, value))
}

fn read_letters(
    words: &str,
    letters: &str,
    args: &mut impl Iterator<Item = String>,
    options: &mut Options,
) -> Result<(), String> {
    for (place, letter) in letters.char_indices() {
        let found = known(words).find(|known| known.letter == letter);
        let found = found.ok_or_else(|| format!("invalid option -- '{letter}'"))?;
        if !found.takes_value {
            options.0.push((letter, String::new()));
            continue;
        }
        let attached = &letters[place + letter.len_utf8()..];
        let value = match attached {
            "" => args.next(),
            _ => Some(attached.to_owned()),
        };
        let value = value.ok_or_else(|| format!("option requires an argument -- '{letter}'"))?;
        options.0.push((letter, value));
        break;
    }
    Ok(())
}

/// What `--help` says.
pub fn usage(name: &str, words: &str) -> String {
    let options: Vec<String> = known(words)
        .map(|known| {
            let short = (known.letter != NO_LETTER).then(|| format!(" -{}", known.letter));
            let long = (!known.long.is_empty()).then(|| format!(" --{}", known.long));
            let value = if known.takes_value { " VALUE" } else { "" };
            format!(
                "\n {}{}{value}",
                short.unwrap_or_default(),
                long.unwrap_or_default()
            )
        })
        .collect();
    format!("usage: {name} [OPTION…] [OPERAND…]{}", options.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Given = Vec<(char, String)>;

    fn told(words: &str, line: &str) -> Result<(Given, Vec<String>), String> {
        let args = line.split(' ').map(str::to_owned).collect();
        read(words, args).map(|(options, operands)| (options.0, operands))
    }

    #[test]
    fn options_and_operands() {
        let words = "a/all n:/lines r";
        for (line, options, operands) in [
            ("-ar x -r", vec![('a', ""), ('r', ""), ('r', "")], vec!["x"]),
            ("-a -- -x", vec![('a', "")], vec!["-x"]),
            (
                "-n3 -rn 4 --lines=5 --lines 6 -",
                vec![('n', "3"), ('r', ""), ('n', "4"), ('n', "5"), ('n', "6")],
                vec!["-"],
            ),
        ] {
            let options = options.into_iter().map(|(l, v)| (l, v.to_owned())).collect();
            let operands = operands.into_iter().map(str::to_owned).collect();
            assert_eq!(told(words, line), Ok((options, operands)), "{line}");
        }
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let words = "a/all n:/lines";
        for (line, why) in [
            ("-aZ", "invalid option -- 'Z'"),
            ("--zed", "unrecognized option '--zed'"),
            ("-n", "option requires an argument -- 'n'"),
            ("--lines", "option '--lines' requires an argument"),
            ("--all=1", "option '--all' doesn't allow an argument"),
        ] {
            assert_eq!(told(words, line), Err(why.to_owned()), "{line}");
        }
    }
}
