//! JSON as people like to read it: a member a line, two spaces for each level, nothing behind the last brace.
//!
//! Works on the text as it goes out, piece by piece, so that an indented list is in memory no more often than another.
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::StreamExt;
use http::header;

/// The same answer with its document indented.
pub fn indented(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    let mut indenter = Indenter::default();
    let pieces = body.into_data_stream();
    let pieces = pieces.map(move |piece| piece.map(|piece| Bytes::from(indenter.indent(&piece))));
    Response::from_parts(parts, Body::from_stream(pieces))
}

/// Where in a document a piece of it ended.
#[derive(Default)]
struct Indenter {
    depth: usize,
    /// Nothing of the innermost object or list has been seen yet.
    opened: bool,
    text: bool,
    escaped: bool,
}

impl Indenter {
    fn indent(&mut self, json: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(json.len() * 2);
        for byte in json {
            match byte {
                _ if self.text => self.within_text(*byte),
                b' ' | b'\n' | b'\r' | b'\t' => continue,
                b'}' | b']' => self.close(&mut out),
                _ => self.begin(*byte, &mut out),
            }
            out.push(*byte);
            match byte {
                _ if self.text => {}
                b':' => out.push(b' '),
                b',' => self.line(&mut out),
                _ => {}
            }
        }
        out
    }

    fn within_text(&mut self, byte: u8) {
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' => self.escaped = true,
            b'"' => self.text = false,
            _ => {}
        }
    }

    fn begin(&mut self, byte: u8, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.opened) {
            self.line(out);
        }
        match byte {
            b'"' => self.text = true,
            b'{' | b'[' => {
                self.depth += 1;
                self.opened = true;
            }
            _ => {}
        }
    }

    /// What is empty stays on its line.
    fn close(&mut self, out: &mut Vec<u8>) {
        self.depth = self.depth.saturating_sub(1);
        if !std::mem::take(&mut self.opened) {
            self.line(out);
        }
    }

    fn line(&self, out: &mut Vec<u8>) {
        out.push(b'\n');
        out.extend(std::iter::repeat_n(b' ', 2 * self.depth));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn documents_are_indented_whatever_their_pieces() {
        let value = json!({
            "a": {"b": [1, {"c": null}, []], "d": "x, {\"y\": [\\\"]}"}, "e": {}, "f:g": [[true]], "h": "\\",
        });
        let text = format!("{value}\n");
        for size in 1..text.len() {
            let mut indenter = Indenter::default();
            let pieces = text.as_bytes().chunks(size).map(|piece| indenter.indent(piece));
            let indented = String::from_utf8(pieces.collect::<Vec<_>>().concat()).unwrap();
            assert_eq!(indented, serde_json::to_string_pretty(&value).unwrap());
        }
    }
}
