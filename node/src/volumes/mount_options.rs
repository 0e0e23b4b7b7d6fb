//! Options of mounts as people write them: those the kernel has flags for, those it takes as text, and those that are for mount(8)
//! alone.

use nix::mount::MsFlags;

/// Only for programs that mount what is in a table (fstab(5)).
const FOR_PROGRAMS: [&str; 6] = ["defaults", "auto", "noauto", "nofail", "_netdev", "nouser"];
const BEGINNINGS_FOR_PROGRAMS: [&str; 3] = ["x-", "X-", "comment="];

/// Flags, and the words that are left for the file system itself. Of two that contradict each other the last counts.
pub fn split(options: &[String]) -> (MsFlags, Vec<String>) {
    let mut flags = MsFlags::empty();
    let mut words = Vec::new();
    for option in options.iter().flat_map(|options| options.split(',')) {
        match flag(option) {
            Some((flag, on)) => flags.set(flag, on),
            None if is_for_programs(option) => {}
            None => words.push(option.to_owned()),
        }
    }
    (flags, words)
}

/// The flag that an option sets, or takes away.
fn flag(option: &str) -> Option<(MsFlags, bool)> {
    Some(match option {
        "ro" => (MsFlags::MS_RDONLY, true),
        "rw" => (MsFlags::MS_RDONLY, false),
        "noexec" => (MsFlags::MS_NOEXEC, true),
        "exec" => (MsFlags::MS_NOEXEC, false),
        "nosuid" => (MsFlags::MS_NOSUID, true),
        "suid" => (MsFlags::MS_NOSUID, false),
        "nodev" => (MsFlags::MS_NODEV, true),
        "dev" => (MsFlags::MS_NODEV, false),
        "noatime" => (MsFlags::MS_NOATIME, true),
        "atime" => (MsFlags::MS_NOATIME, false),
        "nodiratime" => (MsFlags::MS_NODIRATIME, true),
        "diratime" => (MsFlags::MS_NODIRATIME, false),
        "relatime" => (MsFlags::MS_RELATIME, true),
        "norelatime" => (MsFlags::MS_RELATIME, false),
        "strictatime" => (MsFlags::MS_STRICTATIME, true),
        "nostrictatime" => (MsFlags::MS_STRICTATIME, false),
        "sync" => (MsFlags::MS_SYNCHRONOUS, true),
        "async" => (MsFlags::MS_SYNCHRONOUS, false),
        "dirsync" => (MsFlags::MS_DIRSYNC, true),
        _ => return None,
    })
}

fn is_for_programs(option: &str) -> bool {
    let mut beginnings = BEGINNINGS_FOR_PROGRAMS.iter();
    option.is_empty()
        || FOR_PROGRAMS.contains(&option)
        || beginnings.any(|beginning| option.starts_with(beginning))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_words_and_what_is_for_programs() {
        let (ro, noexec) = (MsFlags::MS_RDONLY, MsFlags::MS_NOEXEC);
        for (given, flags, words) in [
            (&[][..], MsFlags::empty(), &[][..]),
            (
                &["defaults", "nofail", "x-systemd.requires=a"],
                MsFlags::empty(),
                &[],
            ),
            (&["ro", "noexec"], ro | noexec, &[]),
            (&["ro,noexec,", "rw"], noexec, &[]),
            (
                &["noatime", "data=journal,discard"],
                MsFlags::MS_NOATIME,
                &["data=journal", "discard"],
            ),
        ] {
            let options: Vec<String> = given.iter().map(ToString::to_string).collect();
            let expected = words.iter().map(ToString::to_string).collect();
            assert_eq!(split(&options), (flags, expected), "{given:?}");
        }
    }
}
