//! Tries to reach what it was not given, and says how each try ended. Exits with the number of tries that worked.
//!
//! Expects `/data` (writable, with the links `absolute`, `beside` and `up` that lead out of it) and `/ro` (read-only),
//! each with a `file`.

use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::{self, Read as _};
use std::time::SystemTime;

fn main() {
    let mut worked = 0;
    for (what, result) in files() {
        match result {
            Ok(()) => {
                worked += 1;
                println!("{what}: WORKED");
            }
            Err(error) => println!("{what}: refused: {error}"),
        }
    }
    std::process::exit(worked);
}

fn read(path: &str) -> io::Result<()> {
    File::open(path)?.read(&mut [0; 1]).map(drop)
}

fn files() -> Vec<(&'static str, io::Result<()>)> {
    let writing = |change: &dyn Fn(&mut OpenOptions)| {
        let mut options = OpenOptions::new();
        change(&mut options);
        options.open("/ro/file").map(drop)
    };
    vec![
        ("absolute link", read("/data/absolute")),
        ("link beside", read("/data/beside")),
        ("link up", read("/data/up/etc/passwd")),
        ("dots", read("/data/../../../../../../etc/passwd")),
        ("dots inside", read("/data/../canary")),
        ("not given", read("/etc/passwd")),
        ("proc", read("/proc/self/environ")),
        ("trailing slash", read("/data/file/")),
        ("write a link away", fs::write("/data/beside", "changed")),
        (
            "open to write",
            writing(&|o| {
                o.write(true);
            }),
        ),
        (
            "open to append",
            writing(&|o| {
                o.append(true);
            }),
        ),
        (
            "truncate",
            writing(&|o| {
                o.write(true).truncate(true);
            }),
        ),
        ("create", fs::write("/ro/new", "new")),
        ("make a directory", fs::create_dir("/ro/directory")),
        ("remove", fs::remove_file("/ro/file")),
        ("rename inside", fs::rename("/ro/file", "/ro/other")),
        ("rename out", fs::rename("/ro/file", "/data/taken")),
        ("rename in", fs::rename("/data/file", "/ro/brought")),
        ("hard link out", fs::hard_link("/ro/file", "/data/hard")),
        ("hard link in", fs::hard_link("/data/file", "/ro/hard")),
        (
            "set the length",
            File::open("/ro/file").and_then(|file| file.set_len(0)),
        ),
        (
            "set times",
            File::open("/ro/file")
                .and_then(|file| file.set_times(FileTimes::new().set_modified(SystemTime::UNIX_EPOCH))),
        ),
    ]
}
