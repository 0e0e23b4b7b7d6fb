//! On whose behalf a request is made ("Authenticating Proxy"): believed by who trusts the front proxy's authority.
use crate::auth::Identity;
use http::{HeaderMap, HeaderName, HeaderValue};

pub const USER: &str = "X-Remote-User";
pub const UID: &str = "X-Remote-Uid";
pub const GROUP: &str = "X-Remote-Group";
pub const EXTRA: &str = "X-Remote-Extra-";

/// Puts the user into the headers, in the place of whomever the client claimed to be.
pub fn introduce(headers: &mut HeaderMap, who: &Identity) {
    let claimed: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_claim(name.as_str()))
        .cloned()
        .collect();
    for name in claimed {
        headers.remove(name);
    }
    put(headers, USER, &who.user);
    if !who.uid.is_empty() {
        put(headers, UID, &who.uid);
    }
    for group in who.groups.iter() {
        put(headers, GROUP, group);
    }
    for (key, values) in who.extra.iter() {
        let name = format!("{EXTRA}{}", escape(key));
        values.iter().for_each(|value| put(headers, &name, value));
    }
}

fn is_claim(name: &str) -> bool {
    let plain = [USER, UID, GROUP]
        .iter()
        .any(|known| known.eq_ignore_ascii_case(name));
    plain || name.starts_with(&EXTRA.to_ascii_lowercase())
}

/// A value that no header can carry is left out: the other server then knows less, and allows less.
fn put(headers: &mut HeaderMap, name: &str, value: &str) {
    let header = HeaderName::from_bytes(name.as_bytes()).ok();
    if let (Some(header), Ok(value)) = (header, HeaderValue::from_str(value)) {
        headers.append(header, value);
    }
}

/// What a header's name may not have is percent-encoded.
fn escape(key: &str) -> String {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&b);
    key.bytes()
        .map(|b| match legal(b) {
            true => char::from(b).to_string(),
            false => format!("%{b:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    #[test]
    fn a_clients_claims_do_not_pass() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-remote-user", "root"),
            ("x-remote-group", "system:masters"),
            ("x-remote-extra-a", "b"),
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let mut who = Identity::new("jane", ["dev".to_owned()]);
        who.extra = Arc::new(BTreeMap::from([(
            "example.org/Team".to_owned(),
            vec!["x".to_owned()],
        )]));
        introduce(&mut headers, &who);
        assert_eq!(headers["x-remote-user"], "jane");
        let groups: Vec<&HeaderValue> = headers.get_all("x-remote-group").iter().collect();
        assert_eq!(groups, ["dev", "system:authenticated"]);
        assert!(!headers.contains_key("x-remote-extra-a"));
        assert_eq!(headers["x-remote-extra-example.org%2fteam"], "x");
    }
}
