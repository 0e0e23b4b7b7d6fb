//! The session keyring: a container's own, without the keys of whoever starts it (session-keyring(7)).

use std::io;

use super::error::{During, InitError};
use super::warn::Warnings;
use crate::sys::process::join_session_keyring;

/// Everything for those who have it, and for its user what a keyring made by name has (`KEY_POS_ALL`, `KEY_USR_VIEW`,
/// `KEY_USR_READ`, `KEY_USR_LINK`); that user may find it too (`KEY_USR_SEARCH`), as an exec has to.
const FOUND_BY_USER: u32 = 0x3f1b_0000;

/// The name other runtimes give it.
pub fn keyring_of(container: &str) -> String {
    format!("_ses.{container}")
}

/// Joins it; a host that has none, or no more of them for this user, is no reason not to run.
pub(super) fn join(name: &str, warnings: &mut Warnings) -> Result<(), InitError> {
    match join_session_keyring(name, FOUND_BY_USER) {
        Err(error) if is_denied(&error) => {
            warnings.add(format!(
                "the container has no session keyring of its own: {error}"
            ));
            Ok(())
        }
        done => done.during(|| format!("join the session keyring {name:?}")),
    }
}

fn is_denied(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOSYS | libc::EPERM | libc::EACCES | libc::EDQUOT)
    )
}
