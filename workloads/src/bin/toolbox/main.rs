//! The commands `kubectl exec` finds in a Wasm container: small, in the container's own world, without a shell.
//!
//! `toolbox NAME ARGS…` runs the command NAME. Each takes what people use of POSIX's and busybox's command of that name,
//! and refuses any other option: a command that ignored one would lie. What cannot be done is said on stderr; a command
//! that is not there ends with 127, as in a shell.

mod archive;
mod date;
mod environment;
mod files;
mod find;
mod glob;
mod list;
#[cfg(all(target_os = "wasi", target_env = "p2"))]
mod network;
mod options;
mod pattern;
mod search;
mod sort;
mod tar;
mod test;
mod text;
mod tree;
mod world;

use options::{Options, usage};
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Exit status of a command that is not there (POSIX shell, 2.8.2).
const NOT_FOUND: u8 = 127;

/// Why a command does not go on.
enum Failure {
    /// It was asked for what it does not know.
    Misuse(String),
    Io(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn misuse<T>(why: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Misuse(why.into()))
}

/// What a command answers: its exit status.
type Outcome = Result<u8, Failure>;

/// One command: its name, its options (`options::read` has the notation; `None`: its words are its own), the exit status when it cannot
/// go on, and what it does.
struct Command {
    name: &'static str,
    options: Option<&'static str>,
    trouble: u8,
    run: fn(&mut Call<'_>) -> Outcome,
}

/// What a command is run with.
struct Call<'a> {
    name: &'static str,
    options: Options,
    operands: Vec<String>,
    out: &'a mut dyn Write,
}

impl Call<'_> {
    fn has(&self, letter: char) -> bool {
        self.options.value(letter).is_some()
    }

    /// Whether one of these is given, the last of them.
    fn last_of(&self, letters: &str) -> Option<char> {
        self.options.last_of(letters)
    }

    /// A number given to an option.
    fn number(&self, letter: char) -> Result<Option<usize>, Failure> {
        let Some(value) = self.options.value(letter) else {
            return Ok(None);
        };
        match value.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => misuse(format!("invalid number '{value}'")),
        }
    }

    fn needs_operands(&self, least: usize) -> Result<(), Failure> {
        match self.operands.last() {
            _ if self.operands.len() >= least => Ok(()),
            None => misuse("missing operand"),
            Some(last) => misuse(format!("missing operand after '{last}'")),
        }
    }

    fn takes_no_operands(&self) -> Result<(), Failure> {
        match self.operands.first() {
            None => Ok(()),
            Some(extra) => misuse(format!("extra operand '{extra}'")),
        }
    }

    /// Does one thing for each operand; complains of those that fail and goes on.
    fn each(&mut self, mut work: impl FnMut(&mut Self, &Path) -> io::Result<()>) -> Outcome {
        let mut status = 0;
        for operand in std::mem::take(&mut self.operands) {
            if let Err(error) = work(self, Path::new(&operand)) {
                complain(self.name, &format!("{operand}: {}", words(&error)));
                status = 1;
            }
        }
        Ok(status)
    }
}

const fn command(
    name: &'static str,
    options: &'static str,
    trouble: u8,
    run: fn(&mut Call<'_>) -> Outcome,
) -> Command {
    Command {
        name,
        options: Some(options),
        trouble,
        run,
    }
}

const fn free(name: &'static str, trouble: u8, run: fn(&mut Call<'_>) -> Outcome) -> Command {
    Command {
        name,
        options: None,
        trouble,
        run,
    }
}

const COMMANDS: &[Command] = &[
    command("cat", "b/number-nonblank n/number u", 1, text::cat),
    command("cp", "a/archive f/force p r/recursive R v/verbose", 1, tree::copy),
    command("date", "I R/rfc-email u/utc", 1, date::date),
    command(
        "du",
        "a/all c/total h/human-readable k s/summarize",
        1,
        tree::usage,
    ),
    free("echo", 1, environment::echo),
    command("env", "i/ignore-environment u:/unset", 125, environment::env),
    free("false", 1, |_| Ok(1)),
    free("find", 1, find::find),
    command(
        "grep",
        "A:/after-context B:/before-context C:/context c/count E/extended-regexp e:/regexp F/fixed-strings G/basic-regexp \
         H/with-filename h/no-filename i/ignore-case L/files-without-match l/files-with-matches m:/max-count \
         n/line-number o/only-matching q/quiet R/dereference-recursive r/recursive s/no-messages v/invert-match \
         w/word-regexp x/line-regexp y",
        2,
        search::grep,
    ),
    command("head", "c:/bytes n:/lines q/quiet v/verbose", 1, text::head),
    command(
        "ls",
        "1 A/almost-all a/all d/directory F/classify h/human-readable l n/numeric-uid-gid p R/recursive r/reverse S t U",
        2,
        list::ls,
    ),
    command("mkdir", "p/parents v/verbose", 1, files::mkdir),
    command("mv", "f/force n/no-clobber v/verbose", 1, tree::rename),
    #[cfg(all(target_os = "wasi", target_env = "p2"))]
    command("nslookup", "", 1, network::nslookup),
    command("printenv", "0/null", 2, environment::printenv),
    command("ps", "A e f w", 1, environment::ps),
    command("pwd", "L/logical P/physical", 1, environment::pwd),
    command("readlink", "n/no-newline", 1, files::readlink),
    command("rm", "d/dir f/force R r/recursive v/verbose", 1, tree::remove),
    command("rmdir", "p/parents", 1, files::rmdir),
    command("sleep", "", 1, environment::sleep),
    command(
        "sort",
        "b/ignore-leading-blanks f/ignore-case k:/key n/numeric-sort r/reverse t:/field-separator u/unique",
        2,
        sort::sort,
    ),
    command("stat", "c:/format L/dereference", 1, files::stat),
    command(
        "tail",
        "c:/bytes f/follow n:/lines q/quiet v/verbose",
        1,
        text::tail,
    ),
    command(
        "tar",
        "C:/directory c/create f:/file m/touch o/no-same-owner t/list v/verbose x/extract /no-same-permissions",
        tar::TROUBLE,
        tar::tar,
    ),
    command("tee", "a/append i/ignore-interrupts", 1, text::tee),
    free("test", 2, test::test),
    command("touch", "a c/no-create m", 1, files::touch),
    free("true", 1, |_| Ok(0)),
    command("tty", "s/silent", 2, environment::tty),
    command("wc", "c/bytes l/lines m/chars w/words", 1, text::wc),
    #[cfg(all(target_os = "wasi", target_env = "p2"))]
    command(
        "wget",
        "O:/output-document P:/post-data S/server-response T:/timeout U:/user-agent h:/header q/quiet s/spider",
        1,
        network::wget,
    ),
    free("[", 2, test::bracket),
];

fn main() {
    world::begin();
    let mut words = std::env::args().skip(1);
    let name = words.next().unwrap_or_default();
    let status = run(&name, words.collect());
    world::end(status);
}

fn run(name: &str, args: Vec<String>) -> u8 {
    let Some(command) = COMMANDS.iter().find(|known| known.name == name) else {
        let known: Vec<&str> = COMMANDS.iter().map(|known| known.name).collect();
        complain(name, &format!("not found; there are: {}", known.join(" ")));
        return NOT_FOUND;
    };
    let mut out = BufWriter::new(io::stdout());
    let done = command.run(args, &mut out);
    let done = done.and_then(|status| Ok(out.flush().map(|()| status)?));
    done.unwrap_or_else(|failure| {
        match failure {
            Failure::Misuse(why) => complain(command.name, &why),
            Failure::Io(error) => complain(command.name, &self::words(&error)),
        }
        command.trouble
    })
}

impl Command {
    fn run(&self, args: Vec<String>, out: &mut dyn Write) -> Outcome {
        let (options, operands) = match self.options {
            None => (Options::default(), args),
            Some(known) if args == ["--help"] => {
                writeln!(out, "{}", usage(self.name, known))?;
                return Ok(0);
            }
            Some(known) if ["head", "tail"].contains(&self.name) => {
                options::read(known, text::written_out(args)).map_err(Failure::Misuse)?
            }
            Some(known) if self.name == "tar" => {
                options::read(known, tar::written_out(args)).map_err(Failure::Misuse)?
            }
            Some(known) => options::read(known, args).map_err(Failure::Misuse)?,
        };
        (self.run)(&mut Call {
            name: self.name,
            options,
            operands,
            out,
        })
    }
}

fn complain(name: &str, why: &str) {
    eprintln!("{name}: {why}");
}

/// What the C library says of an error, without its number.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}
