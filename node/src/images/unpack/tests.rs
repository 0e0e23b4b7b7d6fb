//! Layers as an adversary would write them. Needs root: owners, whiteout devices and trusted xattrs.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use proptest::prelude::*;
use tar::{Builder, Header};

use super::*;

/// One entry to be written, deliberately without the checks of `tar::Builder`.
#[derive(Debug)]
struct Raw {
    kind: EntryType,
    path: Vec<u8>,
    link: Vec<u8>,
    content: Vec<u8>,
    mode: u32,
}

fn raw(kind: EntryType, path: &str) -> Raw {
    Raw {
        kind,
        path: path.into(),
        link: Vec::new(),
        content: Vec::new(),
        mode: 0o644,
    }
}

fn file(path: &str, content: &str) -> Raw {
    Raw {
        content: content.into(),
        ..raw(EntryType::Regular, path)
    }
}

fn dir(path: &str) -> Raw {
    Raw {
        mode: 0o755,
        ..raw(EntryType::Directory, path)
    }
}

fn link(kind: EntryType, path: &str, target: &str) -> Raw {
    Raw {
        link: target.into(),
        ..raw(kind, path)
    }
}

fn header(entry: &Raw) -> Header {
    let mut header = Header::new_ustar();
    let old = header.as_old_mut();
    old.name[..entry.path.len()].copy_from_slice(&entry.path);
    old.linkname[..entry.link.len()].copy_from_slice(&entry.link);
    header.set_entry_type(entry.kind);
    header.set_mode(entry.mode);
    header.set_uid(7);
    header.set_gid(8);
    header.set_mtime(1_000_000);
    header.set_size(entry.content.len() as u64);
    header.set_cksum();
    header
}

fn archive(entries: &[Raw]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for entry in entries {
        builder.append(&header(entry), &entry.content[..]).unwrap();
    }
    builder.into_inner().unwrap()
}

fn root_or_skip() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: unpacking layers needs root");
    }
    root
}

fn unpack_bytes(bytes: &[u8], limits: &UnpackLimits) -> (tempfile::TempDir, Result<(), UnpackError>) {
    let dir = tempfile::tempdir().unwrap();
    let (blob, root) = (dir.path().join("blob"), dir.path().join("root"));
    fs::write(&blob, bytes).unwrap();
    fs::create_dir(&root).unwrap();
    fs::write(dir.path().join("outside"), "untouched").unwrap();
    let result = unpack(&blob, Compression::None, &Digest::of(bytes), &root, limits).map(drop);
    assert_eq!(
        fs::read_to_string(dir.path().join("outside")).unwrap(),
        "untouched"
    );
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        3,
        "something was written beside the root"
    );
    (dir, result)
}

fn fails(entries: &[Raw], matches: impl Fn(&UnpackError) -> bool) {
    let (_dir, result) = unpack_bytes(&archive(entries), &UnpackLimits::default());
    let error = result.unwrap_err();
    assert!(matches(&error), "{error}");
}

#[test]
fn a_plain_layer_keeps_its_attributes() {
    if !root_or_skip() {
        return;
    }
    let entries = [
        dir("./"),
        dir("etc/"),
        file("./etc/passwd", "root:x:0:0::/:\n"),
        Raw {
            mode: 0o4755,
            ..file("bin/su", "x")
        },
        link(EntryType::Symlink, "lib", "usr/lib"),
        dir("usr/lib"),
        file("lib/a.so", "through a symlink that stays inside"),
        link(EntryType::Link, "bin/su2", "bin/su"),
        link(EntryType::Link, "bin/su3", "/bin/su"),
        link(EntryType::Symlink, "abs", "/etc/passwd"),
        raw(EntryType::Fifo, "run/pipe"),
        raw(EntryType::Char, "dev/null"),
    ];
    let (tmp, result) = unpack_bytes(&archive(&entries), &UnpackLimits::default());
    result.unwrap();
    let root = tmp.path().join("root");
    let su = fs::metadata(root.join("bin/su")).unwrap();
    assert_eq!(
        (
            su.uid(),
            su.gid(),
            su.permissions().mode() & 0o7777,
            su.mtime(),
            su.nlink()
        ),
        (7, 8, 0o4755, 1_000_000, 3)
    );
    assert_eq!(fs::metadata(root.join("etc")).unwrap().mtime(), 1_000_000);
    assert_eq!(
        fs::read_to_string(root.join("usr/lib/a.so")).unwrap(),
        "through a symlink that stays inside"
    );
    assert_eq!(fs::read_link(root.join("abs")).unwrap(), Path::new("/etc/passwd"));
    assert!(fs::metadata(root.join("run/pipe")).unwrap().file_type().is_fifo());
    assert!(!root.join("dev/null").exists(), "devices are left out");
}

#[test]
fn paths_that_leave_the_root_fail() {
    if !root_or_skip() {
        return;
    }
    for path in ["../outside", "/outside", "a/../../outside", "..", "/"] {
        fails(&[file(path, "x")], |e| matches!(e, UnpackError::Path(_)));
    }
    let escape = |e: &UnpackError| matches!(e, UnpackError::Escape(_));
    fails(
        &[link(EntryType::Symlink, "up", ".."), file("up/outside", "x")],
        escape,
    );
    fails(
        &[link(EntryType::Symlink, "abs", "/tmp"), file("abs/x", "x")],
        escape,
    );
    fails(
        &[
            link(EntryType::Symlink, "up", "../outside"),
            link(EntryType::Link, "x", "up/x"),
        ],
        |e| matches!(e, UnpackError::Escape(_) | UnpackError::NotADirectory(_)),
    );
    fails(
        &[
            link(EntryType::Symlink, "up", ".."),
            link(EntryType::Link, "x", "up/outside"),
        ],
        escape,
    );
    fails(&[link(EntryType::Link, "x", "../outside")], |e| {
        matches!(e, UnpackError::Path(_))
    });
    fails(&[link(EntryType::Link, "x", "/etc/passwd")], |e| {
        matches!(e, UnpackError::LinkTarget(_) | UnpackError::Io(_))
    });
    fails(&[file("f", "x"), file("f/g", "x")], |e| {
        matches!(e, UnpackError::NotADirectory(_))
    });
}

#[test]
fn a_file_over_a_symlink_replaces_it() {
    if !root_or_skip() {
        return;
    }
    let entries = [
        link(EntryType::Symlink, "f", "../outside"),
        Raw {
            mode: 0o777,
            ..file("f", "new")
        },
        link(EntryType::Symlink, "d", ".."),
        dir("d"),
        file("d/x", "inside"),
        link(EntryType::Symlink, "s", "../outside"),
        link(EntryType::Link, "s2", "s"),
    ];
    let (tmp, result) = unpack_bytes(&archive(&entries), &UnpackLimits::default());
    result.unwrap();
    let root = tmp.path().join("root");
    assert!(fs::symlink_metadata(root.join("f")).unwrap().is_file());
    assert_eq!(fs::read_to_string(root.join("d/x")).unwrap(), "inside");
    assert!(fs::symlink_metadata(root.join("s2")).unwrap().is_symlink());
}

#[test]
fn whiteouts_become_overlay_marks() {
    if !root_or_skip() {
        return;
    }
    let entries = [
        file("gone/.wh.file", ""),
        dir("opaque"),
        file("opaque/.wh..wh..opq", ""),
        file(".wh..wh.plnk", ""),
        file("kept", "new"),
        file(".wh.kept", ""),
        file(".wh.again", ""),
        dir("again"),
    ];
    let (tmp, result) = unpack_bytes(&archive(&entries), &UnpackLimits::default());
    result.unwrap();
    let root = tmp.path().join("root");
    let gone = fs::symlink_metadata(root.join("gone/file")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    let opaque = |name: &str| {
        let mut value = [0_u8; 4];
        let size = rustix::fs::getxattr(root.join(name), "trusted.overlay.opaque", &mut value);
        size.is_ok_and(|n| value[..n] == *b"y")
    };
    assert!(opaque("opaque") && opaque("again") && !opaque("gone"));
    assert_eq!(fs::read_to_string(root.join("kept")).unwrap(), "new");
    assert!(!root.join(".wh..wh.plnk").exists());
    for bad in [".wh.", ".wh..", ".wh...", "a/.wh..", "a/.wh..."] {
        fails(&[dir("a"), file(bad, "")], |e| {
            matches!(e, UnpackError::Whiteout(_))
        });
    }
}

fn pax(records: &[(&str, &[u8])], entry: &Raw) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    builder.append_pax_extensions(records.iter().copied()).unwrap();
    builder.append(&header(entry), &entry.content[..]).unwrap();
    builder.into_inner().unwrap()
}

#[test]
fn pax_is_believed_only_where_it_makes_sense() {
    if !root_or_skip() {
        return;
    }
    let limits = UnpackLimits::default();
    let (_tmp, result) = unpack_bytes(&pax(&[("size", b"1")], &file("f", "hello")), &limits);
    assert!(matches!(
        result,
        Err(UnpackError::SizeDisagreement { header: 5, pax: 1 })
    ));
    let (_tmp, result) = unpack_bytes(&pax(&[("GNU.sparse.major", b"1")], &file("f", "hello")), &limits);
    assert!(matches!(result, Err(UnpackError::Sparse)));
    let (_tmp, result) = unpack_bytes(&archive(&[raw(EntryType::GNUSparse, "f")]), &limits);
    assert!(matches!(result, Err(UnpackError::Sparse)));
    let (_tmp, result) = unpack_bytes(&pax(&[("path", b"../outside")], &file("f", "hello")), &limits);
    assert!(matches!(result, Err(UnpackError::Path(_))));
    let (_tmp, result) = unpack_bytes(&pax(&[("path", b"a\0b")], &file("f", "hello")), &limits);
    assert!(matches!(result, Err(UnpackError::Path(_))));
}

#[test]
fn xattrs_are_kept_but_not_overlays_own() {
    if !root_or_skip() {
        return;
    }
    let capability = [1, 0, 0, 2, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let records: [(&str, &[u8]); 3] = [
        ("SCHILY.xattr.security.capability", &capability),
        ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.user.overlay.opaque", b"y"),
    ];
    let (tmp, result) = unpack_bytes(&pax(&records, &file("f", "x")), &UnpackLimits::default());
    result.unwrap();
    let path = tmp.path().join("root/f");
    let mut value = [0_u8; 64];
    assert!(rustix::fs::getxattr(&path, "trusted.overlay.redirect", &mut value).is_err());
    assert!(rustix::fs::getxattr(&path, "user.overlay.opaque", &mut value).is_err());
    match rustix::fs::getxattr(&path, "security.capability", &mut value) {
        Ok(n) => assert_eq!(value[..n], capability),
        Err(errno) => eprintln!("not checked: no file capabilities on this file system ({errno})"),
    }
}

#[test]
fn limits_hold() {
    if !root_or_skip() {
        return;
    }
    let many: Vec<Raw> = (0..11).map(|n| dir(&format!("d{n}"))).collect();
    let few = UnpackLimits {
        entries: 10,
        ..UnpackLimits::default()
    };
    assert!(matches!(
        unpack_bytes(&archive(&many), &few).1,
        Err(UnpackError::TooMany(10))
    ));
    let big = archive(&[file("f", &"x".repeat(100_000))]);
    let small = UnpackLimits {
        bytes: 50_000,
        ..UnpackLimits::default()
    };
    assert!(matches!(
        unpack_bytes(&big, &small).1,
        Err(UnpackError::TooLarge(50_000))
    ));
    let mut cut = big.clone();
    cut.truncate(2048);
    assert!(matches!(
        unpack_bytes(&cut, &UnpackLimits::default()).1,
        Err(UnpackError::Truncated)
    ));
    let mut name = header(&raw(EntryType::GNULongName, "x"));
    name.set_size(1 << 30);
    name.set_cksum();
    let (_tmp, result) = unpack_bytes(name.as_bytes(), &UnpackLimits::default());
    assert!(matches!(result, Err(UnpackError::Header("extension size"))));
}

/// A gzip bomb ends at the limit, whatever follows the archive's end.
#[test]
fn compressed_layers_are_verified_to_their_end() {
    if !root_or_skip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let blob = dir.path().join("blob");
    let plain = [archive(&[file("f", "x")]), vec![0; 3 << 20]].concat();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&plain).unwrap();
    for (bytes, compression) in [
        (gzip.finish().unwrap(), Compression::Gzip),
        (zstd::encode_all(&plain[..], 1).unwrap(), Compression::Zstd),
    ] {
        fs::write(&blob, bytes).unwrap();
        let try_it = |diff_id: &Digest, bytes| {
            let root = tempfile::tempdir().unwrap();
            let limits = UnpackLimits {
                bytes,
                ..UnpackLimits::default()
            };
            unpack(&blob, compression, diff_id, root.path(), &limits)
        };
        try_it(&Digest::of(&plain), 1 << 30).unwrap();
        assert!(matches!(
            try_it(&Digest::of(b"other"), 1 << 30),
            Err(UnpackError::DiffId { .. })
        ));
        assert!(matches!(
            try_it(&Digest::of(&plain), 1 << 20),
            Err(UnpackError::TooLarge(_))
        ));
    }
}

fn any_entry() -> impl Strategy<Value = Raw> {
    let part = prop_oneof![
        Just("a"),
        Just("b"),
        Just(".."),
        Just("."),
        Just(".wh.a"),
        Just(".wh..wh..opq"),
        Just("")
    ];
    let path = proptest::collection::vec(part, 1..4).prop_map(|parts| parts.join("/"));
    let kind = prop_oneof![
        Just(EntryType::Regular),
        Just(EntryType::Directory),
        Just(EntryType::Symlink),
        Just(EntryType::Link),
        Just(EntryType::Fifo),
    ];
    (kind, path.clone(), path, ".{0,4}").prop_map(|(kind, path, target, content)| Raw {
        kind,
        path: path.into(),
        link: target.into(),
        content: if kind == EntryType::Regular {
            content.into()
        } else {
            Vec::new()
        },
        mode: 0o755,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the entries say, nothing appears outside the root (`unpack_bytes` looks).
    #[test]
    fn no_archive_writes_outside(entries in proptest::collection::vec(any_entry(), 1..12)) {
        if rustix::process::geteuid().is_root() {
            let _ = unpack_bytes(&archive(&entries), &UnpackLimits::default());
        }
    }
}
