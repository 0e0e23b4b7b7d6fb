//! Links in an HTML page that lead to the backend, led through `proxy` (upstream's `Transport.rewriteResponse`). Pure: all
//! but the links stays as it is, and what is no HTML passes.
use std::ops::Range;

/// Attributes that hold a URL, by tag (HTML 4, index of attributes).
const LINKS: [(&str, &[&str]); 25] = [
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];
/// Elements whose content is text, whatever it looks like.
const RAW: [&str; 4] = ["script", "style", "textarea", "title"];

/// The page with each link replaced that `lead` has another for.
pub(super) fn rewritten(page: &str, lead: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(page.len());
    let mut rest = page;
    while let Some(at) = rest.find('<') {
        let (text, markup) = rest.split_at(at);
        out.push_str(text);
        let Some(tag) = Tag::read(markup) else {
            let (other, after) = markup.split_at(other_markup(markup));
            out.push_str(other);
            rest = after;
            continue;
        };
        let (whole, after) = markup.split_at(tag.end);
        tag.write(whole, &lead, &mut out);
        let content = if RAW.contains(&tag.name.as_str()) {
            raw_content(after, &tag.name)
        } else {
            0
        };
        let (content, after) = after.split_at(content);
        out.push_str(content);
        rest = after;
    }
    out.push_str(rest);
    out
}

/// The length of a comment, an end tag, a declaration, or of a `<` that is only that.
fn other_markup(markup: &str) -> usize {
    let until = |end: &str| markup.find(end).map_or(markup.len(), |at| at + end.len());
    match markup.as_bytes().get(1) {
        Some(b'!') if markup.starts_with("<!--") => until("-->"),
        Some(b'!' | b'/' | b'?') => until(">"),
        _ => 1,
    }
}

fn raw_content(text: &str, name: &str) -> usize {
    let end = format!("</{name}");
    // Lower case in ASCII alone keeps every position.
    text.to_ascii_lowercase().find(&end).unwrap_or(text.len())
}

/// A start tag: where it ends, and where the values of its attributes are.
struct Tag {
    name: String,
    values: Vec<(String, Range<usize>)>,
    end: usize,
}

impl Tag {
    fn read(markup: &str) -> Option<Tag> {
        let bytes = markup.as_bytes();
        bytes.get(1).filter(|b| b.is_ascii_alphabetic())?;
        let mut at = 1;
        let name = word(bytes, &mut at, b"/>");
        let mut values = Vec::new();
        loop {
            skip(bytes, &mut at, b"/");
            match bytes.get(at)? {
                b'>' => break,
                _ => {
                    let name = word(bytes, &mut at, b"=/>");
                    skip(bytes, &mut at, b"");
                    if bytes.get(at) == Some(&b'=') {
                        at += 1;
                        skip(bytes, &mut at, b"");
                        values.push((name, value(bytes, &mut at)?));
                    }
                }
            }
        }
        let end = at + 1;
        Some(Tag { name, values, end })
    }

    fn write(&self, whole: &str, lead: &impl Fn(&str) -> Option<String>, out: &mut String) {
        let links = LINKS
            .iter()
            .find(|(tag, _)| *tag == self.name)
            .map_or(&[][..], |(_, links)| links);
        let mut written = 0;
        let values = self
            .values
            .iter()
            .filter(|(name, _)| links.contains(&name.as_str()));
        for (_, range) in values {
            if let Some(other) = lead(&whole[range.clone()]) {
                out.push_str(&whole[written..range.start]);
                out.push_str(&other);
                written = range.end;
            }
        }
        out.push_str(&whole[written..]);
    }
}

/// A name in lower case, up to white space or one of `ends`; never empty, so that reading goes on.
fn word(bytes: &[u8], at: &mut usize, ends: &[u8]) -> String {
    let start = *at;
    *at += 1;
    while bytes
        .get(*at)
        .is_some_and(|b| !b.is_ascii_whitespace() && !ends.contains(b))
    {
        *at += 1;
    }
    let end = (*at).min(bytes.len());
    String::from_utf8_lossy(&bytes[start..end]).to_ascii_lowercase()
}

fn skip(bytes: &[u8], at: &mut usize, also: &[u8]) {
    while bytes
        .get(*at)
        .is_some_and(|b| b.is_ascii_whitespace() || also.contains(b))
    {
        *at += 1;
    }
}

/// Where an attribute's value is, without its quotes.
fn value(bytes: &[u8], at: &mut usize) -> Option<Range<usize>> {
    let quote = *bytes.get(*at)?;
    if matches!(quote, b'"' | b'\'') {
        let start = *at + 1;
        let length = bytes[start..].iter().position(|b| *b == quote)?;
        *at = start + length + 1;
        return Some(start..start + length);
    }
    let start = *at;
    while bytes
        .get(*at)
        .is_some_and(|b| !b.is_ascii_whitespace() && *b != b'>')
    {
        *at += 1;
    }
    Some(start..*at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn led(page: &str) -> String {
        rewritten(page, |link| {
            link.strip_prefix('/').map(|rest| format!("/proxy/{rest}"))
        })
    }

    #[test]
    fn links_are_led_and_all_else_stays() {
        for (page, want) in [
            (r#"<a href="/x">test</a>"#, r#"<a href="/proxy/x">test</a>"#),
            ("<IMG alt=/a SRC=/b>", "<IMG alt=/a SRC=/proxy/b>"),
            (
                r#"<a class='1>0' href = '/x'/>"#,
                r#"<a class='1>0' href = '/proxy/x'/>"#,
            ),
            (r#"<a href="next">"#, r#"<a href="next">"#),
            (
                "<!-- <a href=\"/x\"> --><a href=\"/y\">",
                "<!-- <a href=\"/x\"> --><a href=\"/proxy/y\">",
            ),
            (
                "<script src=\"/s\">if (a</b && '<a href=\"/x\">') {}</script>",
                "<script src=\"/proxy/s\">if (a</b && '<a href=\"/x\">') {}</script>",
            ),
            (
                "1 < 2 <a href=\"/é\">ü</a> <b",
                "1 < 2 <a href=\"/proxy/é\">ü</a> <b",
            ),
            ("<a href=\"/open", "<a href=\"/open"),
            ("<a hidden =>", "<a hidden =>"),
            ("<", "<"),
        ] {
            assert_eq!(led(page), want, "{page}");
        }
    }
}
