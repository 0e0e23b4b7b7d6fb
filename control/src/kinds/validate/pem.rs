//! PEM as Go's `encoding/pem` reads it: by lines, where what is not quite a block is text between blocks. Pure.
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// One block.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub label: String,
    /// Lines `KEY: VALUE` precede its content.
    pub has_headers: bool,
    pub contents: Vec<u8>,
}

/// The blocks of a text, in order.
pub(super) fn blocks(text: &[u8]) -> Vec<Block> {
    let text = String::from_utf8_lossy(text);
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    let (mut rest, mut found) = (lines.as_slice(), Vec::new());
    while let Some((first, behind)) = rest.split_first() {
        match block(first, behind) {
            Some((block, behind)) => {
                found.push(block);
                rest = behind;
            }
            None => rest = behind,
        }
    }
    found
}

/// The block that begins with a line, and what is behind it.
fn block<'l>(first: &str, lines: &'l [&'l str]) -> Option<(Block, &'l [&'l str])> {
    let label = first.strip_prefix("-----BEGIN ")?.strip_suffix("-----")?;
    let headers = lines.iter().take_while(|line| line.contains(':')).count();
    let lines = &lines[headers..];
    let end = lines.iter().position(|line| line.starts_with("-----END "))?;
    if lines[end] != format!("-----END {label}-----") {
        return None;
    }
    let text: String = lines[..end].concat().split([' ', '\t']).collect();
    let block = Block {
        label: label.to_owned(),
        has_headers: headers > 0,
        contents: STANDARD.decode(text).ok()?,
    };
    Some((block, &lines[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_what_go_takes_for_such() {
        let good = "-----BEGIN A-----\naGk=\n-----END A-----\n";
        let one = [("A", false, "hi")];
        let headed = good.replace("aGk=", "K: v\nL: w\n\naGk=");
        for (text, want) in [
            (String::new(), &[][..]),
            (good.to_owned(), &one),
            (good.replace('\n', "\r\n"), &one),
            (good.replace("aGk=", " aG\tk=\n\n"), &one),
            (format!("Subject: CN=x\n{good}said: by somebody"), &one),
            (format!("{good}{good}"), &[one[0], one[0]]),
            (headed, &[("A", true, "hi")]),
            (good.replace("aGk=", ""), &[("A", false, "")]),
            // Not quite.
            (good.replace("END A", "END B"), &[]),
            (good.replace("aGk=", "~~"), &[]),
            (good.replace("aGk=", "aGk=\nK: v"), &[]),
            (format!("x{good}"), &[]),
            (format!("-----BEGIN B-----\n{good}"), &one),
            (good.replace("-----END A-----", ""), &[]),
        ] {
            let found = blocks(text.as_bytes());
            let found: Vec<_> = found
                .iter()
                .map(|b| {
                    (
                        b.label.as_str(),
                        b.has_headers,
                        std::str::from_utf8(&b.contents).unwrap(),
                    )
                })
                .collect();
            assert_eq!(found, want, "{text}");
        }
    }
}
