//! `/logs/`: the host's own logs below one directory, listed and read as upstream's kubelet has Go's file server do it. Nothing that
//! leads out of the directory is followed: who may write there, by a hostPath of a Pod say, could have every file of the host
//! read by it. What is no plain file is not opened.

use std::ffi::OsString;
use std::fmt::Write;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;

/// Where it is on every host; upstream's.
pub const DIRECTORY: &str = "/var/log";
/// So much of a file tells whether it is text.
const BEGINNING: usize = 512;

/// Serves what is below `directory`.
pub fn router(directory: PathBuf) -> Router {
    Router::new()
        .route("/logs", get(serve))
        .route("/logs/", get(serve))
        .route("/logs/{*path}", get(serve))
        .with_state(Arc::new(directory))
}

/// What a path leads to.
enum Found {
    Listing(String),
    File {
        file: File,
        length: u64,
        is_text: bool,
    },
    /// It is told apart by the end of its path.
    Elsewhere(String),
}

async fn serve(State(directory): State<Arc<PathBuf>>, uri: Uri) -> Response {
    let path = uri.path().to_owned();
    let found = tokio::task::spawn_blocking(move || find(&directory, &path)).await;
    match found.map_err(io::Error::other).and_then(|found| found) {
        Ok(Found::Listing(text)) => ([(CONTENT_TYPE, "text/html; charset=utf-8")], text).into_response(),
        Ok(Found::Elsewhere(to)) => (StatusCode::MOVED_PERMANENTLY, [(LOCATION, to)]).into_response(),
        Ok(Found::File {
            file,
            length,
            is_text,
        }) => {
            let kind = match is_text {
                true => "text/plain; charset=utf-8",
                false => "application/octet-stream",
            };
            // What is written meanwhile was not promised.
            let stream = ReaderStream::new(tokio::fs::File::from_std(file).take(length));
            let head = [
                (CONTENT_TYPE, kind.to_owned()),
                (CONTENT_LENGTH, length.to_string()),
            ];
            (head, Body::from_stream(stream)).into_response()
        }
        Err(error) => refused(&error),
    }
}

/// In Go's words, which tell nothing of the host.
fn refused(error: &io::Error) -> Response {
    let leads_out = error.raw_os_error() == Some(Errno::XDEV.raw_os_error());
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            (StatusCode::NOT_FOUND, "404 page not found\n").into_response()
        }
        io::ErrorKind::PermissionDenied => (StatusCode::FORBIDDEN, "403 Forbidden\n").into_response(),
        _ if leads_out => (StatusCode::FORBIDDEN, "403 Forbidden\n").into_response(),
        _ => {
            tracing::warn!(%error, "a log of the host cannot be read");
            (StatusCode::INTERNAL_SERVER_ERROR, "500 Internal Server Error\n").into_response()
        }
    }
}

/// `path` as in the request: encoded, with the slash at the end that says that a directory is meant.
fn find(directory: &Path, path: &str) -> io::Result<Found> {
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let wants_directory = path.ends_with('/');
    let below = path.strip_prefix("/logs").unwrap_or(path).trim_matches('/');
    let below = decoded(below).ok_or(io::ErrorKind::NotFound)?;
    let below = if below.is_empty() { "." } else { &below };
    let root = File::open(directory)?;
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let look = |path: &Path| openat2(&root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), inside);
    // Opened only when it is known to be plain: a device may act on being opened.
    let seen = match look(Path::new(below)) {
        Err(Errno::XDEV) => look(&inner_target(&root, directory, Path::new(below))?)?,
        seen => seen?,
    };
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&seen)?.st_mode);
    match (kind, wants_directory) {
        (FileType::Directory, false) => Ok(Found::Elsewhere(format!("{name}/"))),
        (FileType::RegularFile, true) => Ok(Found::Elsewhere(format!("../{name}"))),
        (FileType::Directory, true) => listing(reopened(&seen)?),
        (FileType::RegularFile, false) => plain(reopened(&seen)?.into()),
        _ => Err(io::ErrorKind::PermissionDenied.into()),
    }
}

/// What was seen, for reading: whatever has its name by now (proc_pid_fd(5)).
fn reopened(seen: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let path = format!("/proc/self/fd/{}", seen.as_raw_fd());
    rustix::fs::open(path, flags, Mode::empty())
}

/// What an absolute link leads to, if that is below the directory again: those of /var/log/containers do.
fn inner_target(root: &File, directory: &Path, link: &Path) -> io::Result<PathBuf> {
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let link = openat2(root, link, flags, Mode::empty(), inside)?;
    // Of what is no link nothing is read: the way to it leads out.
    let target = rustix::fs::readlinkat(&link, "", Vec::new()).map_err(|_| Errno::XDEV)?;
    let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
    let below = target.strip_prefix(directory).map_err(|_| Errno::XDEV)?;
    Ok(below.to_owned())
}

fn plain(file: File) -> io::Result<Found> {
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let mut beginning = [0; BEGINNING];
    let read = file.read_at(&mut beginning, 0)?;
    let is_odd = |byte: &u8| byte.is_ascii_control() && !byte.is_ascii_whitespace() && *byte != 0x1b;
    Ok(Found::File {
        length: meta.len(),
        is_text: !beginning[..read].iter().any(is_odd),
        file,
    })
}

fn listing(directory: OwnedFd) -> io::Result<Found> {
    let mut names = Vec::new();
    for entry in Dir::new(directory)? {
        let entry = entry?;
        let mut name = entry.file_name().to_bytes().to_vec();
        if name == b"." || name == b".." {
            continue;
        }
        if entry.file_type() == FileType::Directory {
            name.push(b'/');
        }
        names.push(name);
    }
    names.sort();
    let mut text =
        String::from("<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n");
    for name in names {
        let shown = escaped(&String::from_utf8_lossy(&name));
        text.push_str(&format!("<a href=\"{}\">{shown}</a>\n", encoded(&name)));
    }
    text.push_str("</pre>\n");
    Ok(Found::Listing(text))
}

fn escaped(text: &str) -> String {
    let parts = text.chars().map(|c| match c {
        '&' => "&amp;".to_owned(),
        '<' => "&lt;".to_owned(),
        '>' => "&gt;".to_owned(),
        '"' => "&#34;".to_owned(),
        '\'' => "&#39;".to_owned(),
        c => c.to_string(),
    });
    parts.collect()
}

fn encoded(name: &[u8]) -> String {
    let mut text = String::new();
    for byte in name {
        match byte.is_ascii_alphanumeric() || b"-_.~/".contains(byte) {
            true => text.push(char::from(*byte)),
            // Writing to a String does not fail.
            false => _ = write!(text, "%{byte:02X}"),
        }
    }
    text
}

/// `None` where a number is none, or what it comes to is no text, or one that no file has for its name.
fn decoded(path: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = std::str::from_utf8(after.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).ok().filter(|path| !path.contains('\0'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{OpenOptionsExt, symlink};

    /// What a path is answered with: the kind of answer and its text.
    fn told(directory: &Path, path: &str) -> String {
        match find(directory, path) {
            Ok(Found::Listing(text)) => text.lines().filter(|l| l.starts_with("<a")).collect(),
            Ok(Found::Elsewhere(to)) => format!("to {to}"),
            Ok(Found::File { length, is_text, .. }) => format!("{length} {is_text}"),
            Err(error) => refused(&error).status().as_str().to_owned(),
        }
    }

    #[test]
    fn what_is_below_is_shown_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let (log, outside) = (place.path().join("log"), place.path().join("shadow"));
        fs::create_dir_all(log.join("pods/a b")).unwrap();
        fs::write(&outside, "secret").unwrap();
        fs::write(log.join("syslog"), "text\n").unwrap();
        fs::write(log.join("wtmp"), [7, 0, 0]).unwrap();
        symlink(&outside, log.join("absolute")).unwrap();
        symlink("../shadow", log.join("relative")).unwrap();
        symlink("/proc/self/root", log.join("magic")).unwrap();
        symlink("syslog", log.join("inside")).unwrap();
        symlink(log.join("syslog"), log.join("pods/whole")).unwrap();
        symlink(log.join("pods/../../shadow"), log.join("devious")).unwrap();
        nix::unistd::mkfifo(&log.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        for (path, expected) in [
            ("/logs/syslog", "5 true"),
            ("/logs/inside", "5 true"),
            ("/logs/pods/whole", "5 true"),
            ("/logs/devious", "403"),
            ("/logs/wtmp", "3 false"),
            ("/logs/syslog/", "to ../syslog"),
            ("/logs/pods", "to pods/"),
            ("/logs", "to logs/"),
            (
                "/logs/pods/",
                "<a href=\"a%20b/\">a b/</a><a href=\"whole\">whole</a>",
            ),
            ("/logs/pods/a%20b/", ""),
            ("/logs/pods/../syslog", "5 true"),
            ("/logs/none", "404"),
            ("/logs/syslog/below", "404"),
            ("/logs/%zz", "404"),
            ("/logs/syslog%00", "404"),
            ("/logs/../shadow", "403"),
            ("/logs/%2e%2e/shadow", "403"),
            ("/logs/..%2fshadow", "403"),
            ("/logs/absolute", "403"),
            ("/logs/relative", "403"),
            ("/logs/magic/etc/passwd", "403"),
            ("/logs/fifo", "403"),
            ("/logs//etc/passwd", "404"),
        ] {
            assert_eq!(told(&log, path), expected, "{path}");
        }
        let all = told(&log, "/logs/");
        assert!(
            all.contains("<a href=\"pods/\">pods/</a><a href=\"relative\">"),
            "{all}"
        );
    }

    #[test]
    fn what_is_read_is_what_was_seen() {
        let place = tempfile::tempdir().unwrap();
        let (path, aside) = (place.path().join("log"), place.path().join("aside"));
        fs::write(&path, "seen").unwrap();
        let seen = File::options()
            .read(true)
            .custom_flags(OFlags::PATH.bits().cast_signed())
            .open(&path)
            .unwrap();
        fs::rename(&path, &aside).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let file = File::from(reopened(&seen.into()).unwrap());
        assert_eq!(io::read_to_string(file).unwrap(), "seen");
    }

    #[test]
    fn names_cannot_say_more_than_names() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("<b>\"&'"), "").unwrap();
        let all = told(place.path(), "/logs/");
        assert_eq!(all, "<a href=\"%3Cb%3E%22%26%27\">&lt;b&gt;&#34;&amp;&#39;</a>");
    }
}
