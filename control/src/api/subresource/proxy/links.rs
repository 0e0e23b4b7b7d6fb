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

/// The page with each link replaced that `lead` has another for; none when it becomes longer than `limit`. What is read is
/// read once: the page is a stranger's.
pub(super) fn rewritten(page: &str, limit: usize, lead: impl Fn(&str) -> Option<String>) -> Option<String> {
    let mut out = String::with_capacity(page.len());
    let mut rest = page;
    while let Some(at) = rest.find('<') {
        let (text, markup) = rest.split_at(at);
        out.push_str(text);
        let length = match markup.as_bytes().get(1) {
            Some(first) if first.is_ascii_alphabetic() => start_tag(markup, &lead, &mut out),
            _ => {
                let length = other_markup(markup);
                out.push_str(&markup[..length]);
                length
            }
        };
        if out.len() > limit {
            return None;
        }
        rest = &markup[length..];
    }
    out.push_str(rest);
    Some(out)
}

/// Writes a start tag, with its content where that is text, and says how long they are. One that does not end is all that
/// is left, as it is: nothing behind it is a tag.
fn start_tag(markup: &str, lead: &impl Fn(&str) -> Option<String>, out: &mut String) -> usize {
    let Some(tag) = Tag::read(markup) else {
        out.push_str(markup);
        return markup.len();
    };
    let (whole, after) = markup.split_at(tag.end);
    tag.write(whole, lead, out);
    let content = match RAW.iter().any(|raw| is_named(tag.name, raw)) {
        true => raw_content(after, tag.name),
        false => 0,
    };
    out.push_str(&after[..content]);
    tag.end + content
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

fn raw_content(text: &str, name: &[u8]) -> usize {
    let is_end = |at: usize| {
        let after = &text.as_bytes()[at + 2..];
        after.len() >= name.len() && after[..name.len()].eq_ignore_ascii_case(name)
    };
    let mut ends = text.match_indices("</").map(|(at, _)| at);
    ends.find(|at| is_end(*at)).unwrap_or(text.len())
}

fn is_named(found: &[u8], name: &str) -> bool {
    found.eq_ignore_ascii_case(name.as_bytes())
}

/// A start tag: where it ends, and where its links are.
struct Tag<'a> {
    name: &'a [u8],
    /// No more than such a tag may have: what is repeated does not count.
    links: Vec<Range<usize>>,
    end: usize,
}

impl<'a> Tag<'a> {
    /// None for one that does not end.
    fn read(markup: &'a str) -> Option<Tag<'a>> {
        let bytes = markup.as_bytes();
        let mut at = 1;
        let name = word(bytes, &mut at, b"/>");
        let known = LINKS.iter().find(|(tag, _)| is_named(name, tag));
        let known = known.map_or(&[][..], |(_, attributes)| attributes);
        let mut links = Vec::new();
        loop {
            skip(bytes, &mut at, b"/");
            if *bytes.get(at)? == b'>' {
                break;
            }
            let attribute = word(bytes, &mut at, b"=/>");
            skip(bytes, &mut at, b"");
            if bytes.get(at) == Some(&b'=') {
                at += 1;
                skip(bytes, &mut at, b"");
                let value = value(bytes, &mut at)?;
                if links.len() < known.len() && known.iter().any(|link| is_named(attribute, link)) {
                    links.push(value);
                }
            }
        }
        let end = at + 1;
        Some(Tag { name, links, end })
    }

    fn write(&self, whole: &str, lead: &impl Fn(&str) -> Option<String>, out: &mut String) {
        let mut written = 0;
        for range in &self.links {
            if let Some(other) = lead(&whole[range.clone()]) {
                out.push_str(&whole[written..range.start]);
                out.push_str(&other);
                written = range.end;
            }
        }
        out.push_str(&whole[written..]);
    }
}

/// A name, up to white space or one of `ends`; never empty, so that reading goes on.
fn word<'a>(bytes: &'a [u8], at: &mut usize, ends: &[u8]) -> &'a [u8] {
    let start = *at;
    *at += 1;
    while bytes
        .get(*at)
        .is_some_and(|b| !b.is_ascii_whitespace() && !ends.contains(b))
    {
        *at += 1;
    }
    &bytes[start..*at]
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

    const LONG: usize = 8 << 20;

    fn led(page: &str) -> String {
        let lead = |link: &str| link.strip_prefix('/').map(|rest| format!("/proxy/{rest}"));
        rewritten(page, usize::MAX, lead).expect("a page of any length")
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

    /// Were any of them read more than once, this would take minutes.
    #[test]
    fn pages_made_to_be_read_again_and_again_are_read_once() {
        for (begun, piece) in [
            ("", "<title></title>"),
            ("<title>", "<title></x"),
            ("", "<a "),
            ("", "<a b=\""),
            ("<a ", "a=b "),
            ("", "<"),
            ("", "</"),
            ("", "<!-"),
            ("<!--", "<!--"),
        ] {
            let page = format!("{begun}{}", piece.repeat(LONG / piece.len()));
            assert!(led(&page) == page, "{begun}{piece}…");
        }
    }

    #[test]
    fn behind_a_tag_that_does_not_end_nothing_is_a_tag() {
        for page in [
            "<a <a href=\"/x\"",
            "<a b=\"<a href=/x>",
            "<img alt='<a href=\"/x\">",
        ] {
            assert_eq!(led(page), page);
        }
        assert_eq!(led("<a <a href=/x>"), "<a <a href=/proxy/x>");
    }

    #[test]
    fn a_tag_has_no_more_links_than_such_a_tag_may_have() {
        assert_eq!(
            led("<a href=/a href=/b><Img Src=/a longdesc=/b USEMAP=/c alt=/d>"),
            "<a href=/proxy/a href=/b><Img Src=/proxy/a longdesc=/proxy/b USEMAP=/proxy/c alt=/d>"
        );
    }

    #[test]
    fn a_page_that_becomes_too_long_is_none() {
        let (page, lead) = ("<a href=/>".repeat(10), |_: &str| Some("x".repeat(90)));
        assert_eq!(rewritten(&page, 989, lead), None);
        assert!(rewritten(&page, 990, lead).is_some_and(|page| page.len() == 990));
    }
}
