//! The page with both results side by side.

use std::fmt::Write as _;
use std::path::Path;

use super::Seen;

const PAGE: &str = "tests/conformance/SHARED.md";

const HEAD: &str = "\
# Shared workloads: the native and the Wasm build of the same source

Made by `tests/e2e/shared/` from `cases.yaml` there: every row is a Pod, run once with the static executable and once with the
Wasm build of `workloads/src/bin/witness.rs`, the demo server or `workloads/languages/c/hello.c`, on one node. The test fails when a row without a reason
differs, when one with a reason does not, and when this page is not what it sees
(`AMPHIPOD_WRITE_SHARED=1 cargo test --release -p amphipod --test e2e shared` writes it anew).
";

/// Writes the page, or says what is not on it.
pub fn check(seen: &[Seen]) -> Option<String> {
    let page = page(seen);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    if std::env::var_os("AMPHIPOD_WRITE_SHARED").is_some() {
        std::fs::write(path, page).unwrap();
        return None;
    }
    let there = std::fs::read_to_string(path).unwrap_or_default();
    let missing: Vec<&str> = page
        .lines()
        .filter(|line| !there.lines().any(|known| known == *line))
        .collect();
    (there != page).then(|| format!("{PAGE} is not what was seen; new are:\n{}", missing.join("\n")))
}

fn page(seen: &[Seen]) -> String {
    let differing = seen.iter().filter(|one| one.native != one.wasm).count();
    let mut page = format!(
        "{HEAD}\n{} cases; {} end alike, {differing} differ for the reason that is given.\n",
        seen.len(),
        seen.len() - differing
    );
    let mut area = "";
    for one in seen {
        if one.case.area != area {
            area = &one.case.area;
            let _ = write!(page, "\n## {area}\n\n| case | native | Wasm |\n|---|---|---|\n"); // a String takes everything
        }
        let wasm = match &one.case.differs {
            None => "the same".to_owned(),
            Some(why) => format!("{} **Why:** {why}", cell(&one.wasm)),
        };
        let _ = writeln!(page, "| {} | {} | {wasm} |", one.case.name, cell(&one.native)); // a String takes everything
    }
    page
}

/// A result as one cell of a table.
fn cell(text: &str) -> String {
    let text = text
        .replace('\r', "\\r")
        .replace('|', "\\|")
        .replace('`', "'")
        .replace('\n', " ⏎ ");
    if text.is_empty() {
        "nothing".to_owned()
    } else {
        format!("`{text}`")
    }
}
