//! Kubernetes' order of versions (upstream's `CompareKubeAwareVersionStrings`). Pure.
use std::cmp::Reverse;

/// A key that is the greater the sooner a version is to be preferred: general availability, beta, alpha, newest first; then
/// the rest by name.
pub fn precedence(version: &str) -> (u8, i64, i64, Reverse<String>) {
    match parsed(version) {
        Some((stage, major, minor)) => (stage, major, minor, Reverse(String::new())),
        None => (0, 0, 0, Reverse(version.to_owned())),
    }
}

/// Stage, major and minor number of `v1`, `v1beta2` and their like.
fn parsed(version: &str) -> Option<(u8, i64, i64)> {
    let rest = version.strip_prefix('v')?;
    let (major, tail) = rest.split_at(digits(rest));
    let stage = match tail {
        "" => return Some((3, number(major)?, 0)),
        tail => [("beta", 2), ("alpha", 1)]
            .into_iter()
            .find_map(|(word, stage)| Some((tail.strip_prefix(word)?, stage))),
    };
    let (minor, stage) = stage?;
    Some((stage, number(major)?, number(minor)?))
}

fn digits(text: &str) -> usize {
    text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len())
}

/// Digits only.
fn number(text: &str) -> Option<i64> {
    match digits(text) == text.len() {
        true => text.parse().ok(),
        false => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_in_kubernetes_order() {
        let want = [
            "v10",
            "v2",
            "v1",
            "v11beta2",
            "v10beta3",
            "v3beta1",
            "v12alpha1",
            "v11alpha2",
            "foo1",
            "foo10",
            "v+1",
            "v1beta",
        ];
        let mut versions = want;
        versions.sort_unstable();
        versions.sort_by_key(|version| Reverse(precedence(version)));
        assert_eq!(versions, want);
    }
}
