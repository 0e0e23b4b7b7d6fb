//! Semantic versions (<https://semver.org>), as Kubernetes' semver library for expressions has them.
use std::cmp::Ordering;

/// A version; what follows a `+` plays no part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Major, minor and patch.
    pub numbers: [u64; 3],
    /// What follows a `-`; nothing for a release.
    early: Vec<Part>,
}

/// Numbers come before words.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Number(u64),
    Word(String),
}

impl Version {
    pub fn parse(text: &str) -> Result<Version, String> {
        let (rest, build) = match text.split_once('+') {
            Some((rest, build)) => (rest, Some(build)),
            None => (text, None),
        };
        let (core, early) = match rest.split_once('-') {
            Some((core, early)) => (core, Some(early)),
            None => (rest, None),
        };
        let parts: Vec<&str> = core.split('.').collect();
        let [major, minor, patch] = parts[..] else {
            return Err("No Major.Minor.Patch elements found".to_owned());
        };
        if build.is_some_and(|build| build.split('.').any(|part| !is_word(part))) {
            return Err("Invalid character(s) found in build meta data".to_owned());
        }
        Ok(Version {
            numbers: [number(major)?, number(minor)?, number(patch)?],
            early: early
                .map(|text| text.split('.').map(Part::parse).collect())
                .transpose()?
                .unwrap_or_default(),
        })
    }

    /// Without a leading `v` and leading zeros, and with the numbers that are missing.
    pub fn parse_normalised(text: &str) -> Result<Version, String> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let mut parts: Vec<String> = text.splitn(3, '.').map(without_zeros).collect();
        // What has a suffix must be whole.
        if parts.len() < 3 && parts.last().is_some_and(|last| last.contains(['+', '-'])) {
            return Err("Short version cannot contain PreRelease/Build meta data".to_owned());
        }
        parts.resize(3, "0".to_owned());
        Version::parse(&parts.join("."))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        let released = self.early.is_empty().cmp(&other.early.is_empty());
        let numbers = self.numbers.cmp(&other.numbers);
        numbers.then(released).then_with(|| self.early.cmp(&other.early))
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Part {
    fn parse(text: &str) -> Result<Part, String> {
        match text {
            "" => Err("Prerelease is empty".to_owned()),
            text if text.bytes().all(|b| b.is_ascii_digit()) => number(text).map(Part::Number),
            text if is_word(text) => Ok(Part::Word(text.to_owned())),
            text => Err(format!("Invalid character(s) found in prerelease {text:?}")),
        }
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn number(text: &str) -> Result<u64, String> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("Invalid character(s) found in version number {text:?}"));
    }
    if text.len() > 1 && text.starts_with('0') {
        return Err(format!("Version number must not contain leading zeroes {text:?}"));
    }
    text.parse()
        .map_err(|_| format!("version number {text:?} is out of range"))
}

fn without_zeros(part: &str) -> String {
    if part.len() < 2 {
        return part.to_owned();
    }
    let rest = part.trim_start_matches('0');
    match rest.starts_with(|c: char| c.is_ascii_digit()) {
        true => rest.to_owned(),
        false => format!("0{rest}"),
    }
}
