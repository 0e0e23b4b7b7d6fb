//! Whom a request wants to act as, by its `Impersonate-*` headers. Pure. Refuses to know whether it may.
use http::HeaderMap;
use std::collections::BTreeMap;

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

/// What the headers ask for.
#[derive(Default)]
pub struct Wanted {
    pub user: Option<String>,
    pub groups: Vec<String>,
    pub uid: Option<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Wanted {
    pub fn read(headers: &HeaderMap) -> Self {
        let mut wanted = Wanted::default();
        for (name, value) in headers {
            let Some(kind) = name.as_str().strip_prefix("impersonate-") else {
                continue;
            };
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            match (name.as_str(), kind) {
                (USER, _) if !value.is_empty() => wanted.user = wanted.user.or(Some(value)),
                (GROUP, _) => wanted.groups.push(value),
                (UID, _) if !value.is_empty() => wanted.uid = wanted.uid.or(Some(value)),
                (other, _) => {
                    if let Some(key) = other.strip_prefix(EXTRA) {
                        wanted.extra.entry(unescape(key)).or_default().push(value);
                    }
                }
            }
        }
        wanted
    }

    pub fn is_nothing(&self) -> bool {
        self.user.is_none() && self.is_name_only()
    }

    /// Nothing but the name of a user.
    pub fn is_name_only(&self) -> bool {
        self.groups.is_empty() && self.uid.is_none() && self.extra.is_empty()
    }
}

/// Percent-decodes; what cannot be decoded stays as it is.
fn unescape(key: &str) -> String {
    let mut out = Vec::with_capacity(key.len());
    let mut rest = key.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first != b'%' {
            out.push(*first);
            rest = tail;
            continue;
        }
        let Some((Ok(byte), behind)) = tail
            .split_at_checked(2)
            .map(|(two, rest)| (hex::decode(two), rest))
        else {
            return key.to_owned();
        };
        out.extend(byte);
        rest = behind;
    }
    String::from_utf8(out).unwrap_or_else(|_| key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_unescaped() {
        assert_eq!(unescape("acme.com%2fproject"), "acme.com/project");
        assert_eq!(unescape("100%"), "100%");
        assert_eq!(unescape("a%+f"), "a%+f");
    }
}
