//! What a server says, on standard error, which is its log.
//!
//! What is said of course (INFO: what containers without root do not have) is counted, so that a log of nothing else need not
//! be kept when the server ends.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use amphipod_shim_api::Standing;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// How much has been said of course.
#[derive(Debug, Clone, Default)]
pub struct Expected(Arc<AtomicU64>);

impl Expected {
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Has what this program traces written.
pub fn begin(debug: bool, standing: Standing) -> Expected {
    let expected = Expected::default();
    let level = match (debug, standing.makes_do()) {
        (true, _) => Level::DEBUG,
        (false, true) => Level::INFO,
        (false, false) => Level::WARN,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(expected.clone())
        .with_ansi(false)
        .init();
    expected
}

impl<'a> MakeWriter<'a> for Expected {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { counted: None }
    }

    fn make_writer_for(&'a self, said: &Metadata<'_>) -> Line {
        Line {
            counted: (*said.level() == Level::INFO).then(|| self.clone()),
        }
    }
}

/// Where one thing is said.
#[derive(Debug)]
pub struct Line {
    counted: Option<Expected>,
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = io::stderr().write(bytes)?;
        if let Some(expected) = &self.counted {
            expected.0.fetch_add(written as u64, Ordering::Relaxed);
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
