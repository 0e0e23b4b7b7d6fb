//! Where the command line says what went wrong: standard error, and the log its caller reads (`--log`), one line or
//! one JSON object per message, as callers of runc expect.

use std::cell::RefCell;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

/// The log of one invocation.
#[derive(Debug, Default)]
pub struct Log {
    pub file: Option<PathBuf>,
    pub json: bool,
    /// Whether what is of use only for finding errors is said too.
    pub debug: bool,
    /// Whether warnings are put on standard error where there is no file for them.
    pub outspoken: bool,
    /// Warnings nobody was told of: with a container that is not there after all, standard error is only ours.
    pub held: RefCell<Vec<String>>,
}

impl Log {
    /// Something the caller may want to know, of which the command does not fail: that he does not get all he asks for.
    /// Standard error is the container's too: it is put there only where there is no file for it, as by runc.
    pub fn warn(&self, text: &str) {
        self.warn_if(self.outspoken, text);
    }

    /// The same of what the command's own words ask for, which nobody has said before.
    pub fn warn_of_words(&self, text: &str) {
        self.warn_if(true, text);
    }

    fn warn_if(&self, outspoken: bool, text: &str) {
        match self.file {
            Some(_) => self.write("warning", text),
            None if outspoken => say("warning", text),
            None => self.held.borrow_mut().push(text.into()),
        }
    }

    /// A detail, on standard error too, as callers of runc expect it with `--debug`.
    pub fn debug(&self, text: &str) {
        if self.debug {
            self.write("debug", text);
            say("debug", text);
        }
    }

    /// What the command failed of, after what it may have to do with.
    pub fn error(&self, text: &str) {
        self.held.take().iter().for_each(|text| say("warning", text));
        self.write("error", text);
        say("error", text);
    }

    fn write(&self, level: &str, text: &str) {
        let Some(path) = &self.file else { return };
        let at = jiff::Timestamp::now();
        let line = if self.json {
            serde_json::json!({"level": level, "msg": text, "time": at.to_string()}).to_string()
        } else {
            format!("time={:?} level={level} msg={text:?}", at.to_string())
        };
        let opened = OpenOptions::new().create(true).append(true).open(path);
        // A log that cannot be written must not keep a container from being ended.
        let _ = opened.and_then(|mut file| writeln!(file, "{line}"));
    }
}

/// Nobody is left to tell when standard error is closed.
fn say(level: &str, text: &str) {
    let _ = writeln!(std::io::stderr(), "{level}: {text}");
}
