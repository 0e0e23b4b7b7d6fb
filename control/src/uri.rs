//! What somebody chose, as a part of a path or a value of a query (RFC 3986, section 2). Pure.
use std::borrow::Cow;
use std::fmt::Write as _;

/// Percent-encodes what is neither unreserved nor a colon, which means nothing behind a slash and is in many names.
pub fn escape(text: &str) -> Cow<'_, str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte);
    if text.bytes().all(plain) {
        return text.into();
    }
    let escaped = text.bytes().fold(String::new(), |mut escaped, byte| {
        match plain(byte) {
            true => escaped.push(char::from(byte)),
            // Writing to a String cannot fail.
            false => write!(escaped, "%{byte:02X}").unwrap_or_default(),
        }
        escaped
    });
    escaped.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_mean_something_in_a_uri_is_encoded() {
        for (text, want) in [
            ("plain-name.v1_~", "plain-name.v1_~"),
            ("system:node", "system:node"),
            ("vic?x", "vic%3Fx"),
            ("vic#x", "vic%23x"),
            ("a/../b", "a%2F..%2Fb"),
            ("100%", "100%25"),
            ("tab\there", "tab%09here"),
            ("ä", "%C3%A4"),
        ] {
            assert_eq!(escape(text), want);
        }
    }
}
