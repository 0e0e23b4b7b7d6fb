//! What an error of a request to the API server says to people: `kube`'s own text has a `Status` twice, as Rust writes it, and
//! of a connection that failed only the outermost cause. Refuses to know what is done about it.

use std::error::Error;

use kube::runtime::watcher;

/// The server's own words, or the causes of what kept the request from it.
pub fn words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => causes(other),
    }
}

/// The same of a watch, and whether the server refused it (403): asking again soon is of no use.
pub fn of_watch(error: &watcher::Error) -> (String, bool) {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => (words(error), is_forbidden(error)),
        watcher::Error::WatchError(status) => (status.message.clone(), status.code == 403),
        other => (causes(other), false),
    }
}

fn is_forbidden(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 403)
}

/// From the outermost to the innermost; what one says of the next is not said twice.
fn causes(error: &dyn Error) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !said.contains(&next) {
            said = format!("{said}: {next}");
        }
        cause = error.source();
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;

    #[test]
    fn words_are_said_once() {
        let refused = || {
            kube::Error::Api(Box::new(
                Status::failure("pods is forbidden", "Forbidden").with_code(403),
            ))
        };
        assert_eq!(words(&refused()), "pods is forbidden");
        let watch = watcher::Error::InitialListFailed(refused());
        assert_eq!(of_watch(&watch), ("pods is forbidden".to_owned(), true));
        let expired =
            watcher::Error::WatchError(Box::new(Status::failure("too old", "Expired").with_code(410)));
        assert_eq!(of_watch(&expired), ("too old".to_owned(), false));
        let inner = std::io::Error::other("no route");
        let outer = kube::Error::Service(Box::new(std::io::Error::other(inner)));
        assert_eq!(words(&outer), "ServiceError: no route");
    }
}
