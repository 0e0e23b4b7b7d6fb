//! The command line of a shim v2 binary: Go-style flags, then one action. Parsing only.

use std::ffi::OsString;
use std::path::PathBuf;

/// What the shim is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Find or start the process that serves the bundle's group, print its address.
    Start,
    /// Clean up after a shim that died, print a `DeleteResponse`.
    Delete,
    /// Be that process (ours, not containerd's: the listening socket is standard input).
    Serve,
}

/// One invocation of a shim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    pub action: Action,
    pub namespace: String,
    pub id: String,
    /// containerd's own socket; empty from the node agent.
    pub address: String,
    pub publish_binary: PathBuf,
    /// Given with `delete`; with `start` the bundle is the working directory.
    pub bundle: PathBuf,
    pub debug: bool,
}

/// A command line no shim understands.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArgsError {
    #[error(
        "unknown flag {0:?}; a shim takes -namespace, -id, -address, -publish-binary, -bundle, -debug and an action"
    )]
    UnknownFlag(String),
    #[error("flag {0:?} needs a value")]
    MissingValue(String),
    #[error("expected one action: start, delete or serve")]
    NoAction,
    #[error("unknown action {0:?}; expected start, delete or serve")]
    UnknownAction(String),
    #[error("argument {0:?} is not UTF-8")]
    NotUtf8(OsString),
    #[error("{0} must be letters, digits, '.', '_' or '-', and neither empty nor dots alone: got {1:?}")]
    BadName(&'static str, String),
}

impl Invocation {
    /// Parses the words after the program's name (and after `linux-shim` or `wasm-shim`).
    pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Self, ArgsError> {
        let mut words = args.into_iter();
        let mut this = Self::empty();
        while let Some(word) = words.next() {
            let word = word.into_string().map_err(ArgsError::NotUtf8)?;
            let Some(flag) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
                this.action = action(&word)?;
                return this.checked();
            };
            let (name, inline) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            if name == "debug" {
                this.debug = inline.is_none_or(|v| v == "true" || v == "1");
                continue;
            }
            let slot = this
                .slot(name)
                .ok_or_else(|| ArgsError::UnknownFlag(word.clone()))?;
            let value = match inline {
                Some(value) => value,
                None => words
                    .next()
                    .ok_or_else(|| ArgsError::MissingValue(word.clone()))?
                    .into_string()
                    .map_err(ArgsError::NotUtf8)?,
            };
            slot.set(value);
        }
        Err(ArgsError::NoAction)
    }

    fn empty() -> Self {
        Self {
            action: Action::Start,
            namespace: String::new(),
            id: String::new(),
            address: String::new(),
            publish_binary: PathBuf::new(),
            bundle: PathBuf::new(),
            debug: false,
        }
    }

    fn slot(&mut self, name: &str) -> Option<Slot<'_>> {
        match name {
            "namespace" => Some(Slot::Text(&mut self.namespace)),
            "id" => Some(Slot::Text(&mut self.id)),
            "address" | "socket" => Some(Slot::Text(&mut self.address)),
            "publish-binary" => Some(Slot::Path(&mut self.publish_binary)),
            "bundle" => Some(Slot::Path(&mut self.bundle)),
            _ => None,
        }
    }

    /// Namespace and id become parts of paths, so they are checked here once.
    fn checked(self) -> Result<Self, ArgsError> {
        for (what, value) in [("namespace", &self.namespace), ("id", &self.id)] {
            let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            if value.chars().all(|c| c == '.') || !value.chars().all(legal) {
                return Err(ArgsError::BadName(what, value.clone()));
            }
        }
        Ok(self)
    }
}

enum Slot<'a> {
    Text(&'a mut String),
    Path(&'a mut PathBuf),
}

impl Slot<'_> {
    fn set(self, value: String) {
        match self {
            Slot::Text(slot) => *slot = value,
            Slot::Path(slot) => *slot = value.into(),
        }
    }
}

fn action(word: &str) -> Result<Action, ArgsError> {
    match word {
        "start" => Ok(Action::Start),
        "delete" => Ok(Action::Delete),
        "serve" => Ok(Action::Serve),
        other => Err(ArgsError::UnknownAction(other.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Invocation, ArgsError> {
        Invocation::parse(line.split(' ').map(|w| OsString::from(w.trim_matches('\''))))
    }

    #[test]
    fn containerd_and_the_agent_are_understood() {
        let got =
            parse("-namespace k8s.io -address '' -publish-binary /usr/bin/containerd -id c1 -debug start")
                .unwrap();
        assert_eq!(
            (got.action, got.namespace.as_str(), got.id.as_str()),
            (Action::Start, "k8s.io", "c1")
        );
        assert!(got.debug && got.address.is_empty());
        let got = parse("--namespace=n --id=c2 -bundle /b delete").unwrap();
        assert_eq!((got.action, got.bundle), (Action::Delete, PathBuf::from("/b")));
    }

    #[test]
    fn bad_lines_are_named() {
        assert_eq!(parse("-namespace n -id c"), Err(ArgsError::NoAction));
        assert_eq!(
            parse("-nope x start"),
            Err(ArgsError::UnknownFlag("-nope".into()))
        );
        assert_eq!(parse("-id"), Err(ArgsError::MissingValue("-id".into())));
        assert_eq!(
            parse("-namespace n -id c dance"),
            Err(ArgsError::UnknownAction("dance".into()))
        );
        for id in ["..", "../x", "a/b"] {
            assert!(matches!(
                parse(&format!("-namespace n -id {id} start")),
                Err(ArgsError::BadName("id", _))
            ));
        }
    }
}
