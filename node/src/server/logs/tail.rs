//! Where the last lines of a log file begin: read backwards, in blocks, never the whole file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::cri;

/// Read at once; also bounds what is held, since a longer line is no log line.
const BLOCK: usize = 64 * 1024;

/// The offset of the last `lines` lines of the first `length` bytes. Partial records belong to the line
/// they are continued by; ones at the very end that are not continued are a line of their own.
pub fn offset(file: &File, length: u64, lines: u64) -> io::Result<u64> {
    if lines == 0 {
        return Ok(length);
    }
    let mut search = Search {
        wanted: lines,
        found: 0,
        start: length,
        seen_any: false,
    };
    let mut end = length;
    // What was read of a line whose beginning lies in an earlier block.
    let mut rest: Vec<u8> = Vec::new();
    while end > 0 {
        let from = end.saturating_sub(BLOCK as u64);
        let mut block = vec![0; (end - from) as usize];
        file.read_exact_at(&mut block, from)?;
        block.append(&mut rest);
        let whole_from = if from == 0 {
            0
        } else {
            block
                .iter()
                .position(|b| *b == b'\n')
                .map_or(block.len(), |n| n + 1)
        };
        if search.block(&block[whole_from..], from + whole_from as u64) {
            return Ok(search.start);
        }
        block.truncate(whole_from);
        // A line longer than two blocks is skipped when shown: its end tells as much as the whole.
        let excess = block.len().saturating_sub(BLOCK);
        rest = block.split_off(excess);
        end = from;
    }
    Ok(search.start)
}

struct Search {
    wanted: u64,
    found: u64,
    /// Where the earliest line taken so far begins.
    start: u64,
    seen_any: bool,
}

impl Search {
    /// Takes whole lines that lie at an offset, the last first; true once there are enough.
    fn block(&mut self, bytes: &[u8], offset: u64) -> bool {
        let mut end = bytes.len();
        while end > 0 {
            let from = bytes[..end - 1]
                .iter()
                .rposition(|b| *b == b'\n')
                .map_or(0, |n| n + 1);
            let line = bytes[from..end].strip_suffix(b"\n").unwrap_or(&bytes[from..end]);
            if self.line(line, offset + from as u64) {
                return true;
            }
            end = from;
        }
        false
    }

    fn line(&mut self, line: &[u8], offset: u64) -> bool {
        let Some(record) = cri::parse(line) else {
            return false;
        };
        if !record.partial || !self.seen_any {
            if self.found == self.wanted {
                return true;
            }
            self.found += 1;
        }
        self.seen_any = true;
        self.start = offset;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn tail(log: &str, lines: u64) -> String {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(log.as_bytes()).unwrap();
        let offset = offset(&file, log.len() as u64, lines).unwrap();
        log[offset as usize..].to_owned()
    }

    fn record(tag: char, text: &str) -> String {
        format!("2026-01-01T00:00:00Z stdout {tag} {text}\n")
    }

    #[test]
    fn the_last_lines_begin_where_their_first_part_does() {
        let (a, b) = (record('F', "a"), record('P', "b") + &record('F', "b"));
        let log = format!("{a}{b}");
        for (lines, expected) in [(0, ""), (1, b.as_str()), (2, log.as_str()), (9, log.as_str())] {
            assert_eq!(tail(&log, lines), expected);
        }
        let unfinished = format!("{log}{}", record('P', "c"));
        assert_eq!(tail(&unfinished, 1), record('P', "c"));
        assert_eq!(tail(&unfinished, 2), b + &record('P', "c"));
        assert_eq!(tail("", 3), "");
    }

    #[test]
    fn blocks_are_crossed() {
        let lines: Vec<String> = (0..40)
            .map(|n| record('F', &format!("{n}").repeat(7_000)))
            .collect();
        let log = lines.concat();
        for n in [1, 5, 17, 39, 40] {
            assert_eq!(tail(&log, n as u64), lines[lines.len() - n..].concat(), "{n}");
        }
    }

    proptest! {
        #[test]
        fn any_content_is_searched_without_panic(log in "[a-zF P\n]{0,300}", lines in 0u64..9) {
            tail(&log, lines);
        }
    }
}
