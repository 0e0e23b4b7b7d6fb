//! Projected volumes: several sources in one directory, each file from one of them.
use std::fmt::Display;

use serde_json::Value;

use super::volume_sources::{key_path, mode, reserved_path};
use super::{Seen, env, present};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::view::View;

const CONFLICT: &str = "conflicting duplicate paths";
/// A token lives ten minutes at least, in seconds.
const SHORTEST_TOKEN: i64 = 600;
const LONGEST_TOKEN: i64 = 1 << 32;
const KINDS: [&str; 4] = ["secret", "configMap", "downwardAPI", "serviceAccountToken"];

pub(super) fn projected(volume: &Value, path: impl Display + Copy) -> FieldErrors {
    let mut errors: FieldErrors = mode(volume, "defaultMode", path).into_iter().collect();
    let mut files = Files {
        volume: path,
        taken: Seen::default(),
    };
    for (i, source) in volume.list("sources").iter().enumerate() {
        let at = format_args!("{path}.sources[{i}]");
        let set: Vec<&str> = KINDS.into_iter().filter(|kind| source.has(kind)).collect();
        for kind in &set {
            errors.extend(files.source(kind, source.at(kind), format_args!("{at}.{kind}")));
        }
        if set.len() > 1 {
            let detail = "may not specify more than 1 volume type per source";
            errors.push(FieldError::forbidden(at, detail));
        }
    }
    errors
}

/// The files of one volume.
struct Files<P> {
    volume: P,
    taken: Seen,
}

impl<P: Display + Copy> Files<P> {
    fn source(&mut self, kind: &str, source: &Value, path: impl Display + Copy) -> FieldErrors {
        match kind {
            "secret" | "configMap" => self.keys(source, path),
            "downwardAPI" => self.fields(source, path),
            _ => self.token(source, path),
        }
    }

    /// `shown` stands for the file in the error.
    fn take(&mut self, file: &str, shown: &str) -> Option<FieldError> {
        (!file.is_empty() && self.taken.again(file))
            .then(|| FieldError::invalid(self.volume, shown, CONFLICT))
    }

    fn keys(&mut self, source: &Value, path: impl Display + Copy) -> FieldErrors {
        let mut errors: FieldErrors = present(source, "name", path).into_iter().collect();
        for (i, item) in source.list("items").iter().enumerate() {
            errors.extend(key_path(item, format_args!("{path}.items[{i}]")));
            errors.extend(self.take(item.text("path"), source.text("name")));
        }
        errors
    }

    fn fields(&mut self, source: &Value, path: impl Display + Copy) -> FieldErrors {
        let mut errors = Vec::new();
        for item in source.list("items") {
            errors.extend(env::downward_item(item, path));
            errors.extend(self.take(item.text("path"), item.text("path")));
        }
        errors
    }

    fn token(&self, token: &Value, path: impl Display + Copy) -> FieldErrors {
        let seconds = token.int("expirationSeconds").unwrap_or(0);
        let at = format_args!("{path}.expirationSeconds");
        let mut errors = Vec::new();
        if seconds < SHORTEST_TOKEN {
            let detail = "may not specify a duration less than 10 minutes";
            errors.push(FieldError::invalid(at, seconds, detail));
        }
        if seconds > LONGEST_TOKEN {
            let detail = "may not specify a duration larger than 2^32 seconds";
            errors.push(FieldError::invalid(at, seconds, detail));
        }
        let file_at = format!("{}.path", self.volume);
        match token.text("path") {
            "" => errors.push(FieldError::required(file_at, "")),
            file => errors.extend(reserved_path(file, &file_at)),
        }
        errors
    }
}
