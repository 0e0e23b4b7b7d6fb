//! Where a container answers HTTP, which its shim alone knows: a file in the bundle, for the event of its start.
//!
//! The Task API has no field for it. The file is written before Start is answered, and goes with the bundle.

use std::path::{Path, PathBuf};
use std::{fs, io};

const FILE: &str = "serving";

fn path(bundle: &Path) -> PathBuf {
    bundle.join(FILE)
}

/// Tells the port that the container of this bundle listens on.
///
/// # Errors
/// When the file cannot be written.
pub fn tell(bundle: &Path, port: u16) -> io::Result<()> {
    fs::write(path(bundle), port.to_string())
}

/// The port the container of this bundle listens on, if it is a server and says so.
pub fn port(bundle: &Path) -> Option<u16> {
    fs::read_to_string(path(bundle)).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_port_is_read_as_it_was_told() {
        let bundle = tempfile::tempdir().unwrap();
        assert_eq!(super::port(bundle.path()), None);
        super::tell(bundle.path(), 7000).unwrap();
        assert_eq!(super::port(bundle.path()), Some(7000));
    }
}
