//! What a server says, on standard error, which is its log.
//!
//! What is said of course (INFO: what containers without root do not have) is known by its level, so that a log of nothing
//! else need not be kept when the server ends. Servers of the same group before it have written to the same log.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use amphipod_shim_api::Standing;
use tracing::Level;

/// Has what this program traces written.
pub fn begin(debug: bool, standing: Standing) {
    let level = match (debug, standing.makes_do()) {
        (true, _) => Level::DEBUG,
        (false, true) => Level::INFO,
        (false, false) => Level::WARN,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
        .with_ansi(false)
        .init();
}

/// How many bytes a log begins with that were said of course; none of one that cannot be read.
pub fn of_course(log: &Path) -> u64 {
    File::open(log)
        .and_then(|log| leading(BufReader::new(log)))
        .unwrap_or(0)
}

fn leading(mut log: impl BufRead) -> io::Result<u64> {
    let (mut length, mut line) = (0, Vec::new());
    while log.read_until(b'\n', &mut line)? > 0 && is_of_course(&line) {
        length += line.len() as u64;
        line.clear();
    }
    Ok(length)
}

/// After the time there is the level.
fn is_of_course(line: &[u8]) -> bool {
    let mut words = line.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    words.nth(1) == Some(Level::INFO.as_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_of_several_servers_is_one_of_course() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let said = |text: &dyn Fn()| {
            let writer = File::options().append(true).open(log.path()).unwrap();
            let server = tracing_subscriber::fmt().with_writer(writer).with_ansi(false);
            tracing::subscriber::with_default(server.finish(), text);
            std::fs::metadata(log.path()).unwrap().len()
        };
        let first = said(&|| tracing::info!("without root"));
        assert_eq!(of_course(log.path()), first);
        let second = said(&|| tracing::info!(id = "c", "without root"));
        assert_eq!(of_course(log.path()), second);
        let third = said(&|| tracing::warn!("memory INFO"));
        assert!(third > second);
        said(&|| tracing::info!("without root"));
        assert_eq!(of_course(log.path()), second);
        assert_eq!(of_course(Path::new("/nonexistent")), 0);
    }
}
