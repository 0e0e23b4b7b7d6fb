//! The toolbox's command lines and what comes of them. What only a guest sees is tested with the shim.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A directory of its own for one test, with a few files.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("toolbox-{name}-{}", std::process::id()));
        fs::create_dir_all(path.join("d/e")).unwrap();
        std::os::unix::fs::symlink("e", path.join("d/link")).unwrap();
        let place = Self(path);
        for (file, text) in [
            ("abc", "a\nb\nc\n"),
            ("numbers", "10\n9\n9\n1\n"),
            ("log", "one\ntwo error\nthree\nfour Error\nfive\n"),
            ("d/x.log", "error in x\n"),
            ("d/e/y.txt", "y\n"),
            ("d/.hidden", ""),
            ("fields", "b:2\na:10\nc:1\n"),
        ] {
            fs::write(place.0.join(file), text).unwrap();
        }
        place
    }

    /// Runs one command line: status, stdout, stderr.
    fn run(&self, words: &[&str], input: &str) -> (i32, String, String) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_toolbox"))
            .args(words)
            .current_dir(&self.0)
            .env_clear()
            .env("A", "1")
            .env("B", "2")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).ok();
        let done = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (done.status.code().unwrap(), text(done.stdout), text(done.stderr))
    }

    #[track_caller]
    fn check(&self, line: &str, status: i32, stdout: &str, stderr: &str) {
        let words: Vec<&str> = line
            .split(' ')
            .map(|word| if word == "''" { "" } else { word })
            .collect();
        let got = self.run(&words, "from\nstdin\n");
        assert_eq!(got, (status, stdout.to_owned(), stderr.to_owned()), "{line}");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

#[test]
fn text() {
    let place = Place::new("text");
    for (line, status, stdout, stderr) in [
        ("cat abc -", 0, "a\nb\nc\nfrom\nstdin\n", ""),
        ("cat -n abc", 0, "     1\ta\n     2\tb\n     3\tc\n", ""),
        (
            "cat none abc",
            1,
            "a\nb\nc\n",
            "cat: none: No such file or directory\n",
        ),
        ("head -n 2 abc", 0, "a\nb\n", ""),
        ("head -1 abc", 0, "a\n", ""),
        ("head -c3 abc", 0, "a\nb", ""),
        ("head -n x abc", 1, "", "head: invalid number of lines: 'x'\n"),
        (
            "head -n 1 abc numbers",
            0,
            "==> abc <==\na\n\n==> numbers <==\n10\n",
            "",
        ),
        ("tail -n 1 abc", 0, "c\n", ""),
        ("tail -n +2 abc", 0, "b\nc\n", ""),
        ("tail -c 3 abc", 0, "\nc\n", ""),
        ("tail -2", 0, "from\nstdin\n", ""),
        ("tail -q -n 1 abc numbers", 0, "c\n1\n", ""),
        ("wc -l abc", 0, "3 abc\n", ""),
        ("wc abc", 0, "      3       3       6 abc\n", ""),
        ("wc -c", 0, "11\n", ""),
        (
            "wc -lw abc numbers",
            0,
            "      3       3 abc\n      4       4 numbers\n      7       7 total\n",
            "",
        ),
        ("sort numbers", 0, "1\n10\n9\n9\n", ""),
        ("sort -rn -u numbers", 0, "10\n9\n1\n", ""),
        ("sort -t : -k 2 -n fields", 0, "c:1\nb:2\na:10\n", ""),
        (
            "sort -k 2,x fields",
            2,
            "",
            "sort: invalid field specification '2,x'\n",
        ),
        ("sort none", 2, "", "sort: none: No such file or directory\n"),
    ] {
        place.check(line, status, stdout, stderr);
    }
}

#[test]
fn tee_appends_when_asked_to() {
    let place = Place::new("tee");
    place.check("tee -a abc", 0, "from\nstdin\n", "");
    place.check("cat abc", 0, "a\nb\nc\nfrom\nstdin\n", "");
    place.check("tee abc", 0, "from\nstdin\n", "");
    place.check("cat abc", 0, "from\nstdin\n", "");
}

#[test]
fn search() {
    let place = Place::new("search");
    for (line, status, stdout, stderr) in [
        ("grep error log", 0, "two error\n", ""),
        ("grep -i -n ERROR log", 0, "2:two error\n4:four Error\n", ""),
        ("grep -vc error log", 0, "4\n", ""),
        ("grep -E ^(one|five)$ log", 0, "one\nfive\n", ""),
        ("grep -r -l error .", 0, "./d/x.log\n./log\n", ""),
        (
            "grep error log d/x.log",
            0,
            "log:two error\nd/x.log:error in x\n",
            "",
        ),
        ("grep -r y d", 0, "d/e/y.txt:y\n", ""),
        ("grep -R y d", 0, "d/e/y.txt:y\nd/link/y.txt:y\n", ""),
        ("grep -o e[a-z]* log", 0, "e\nerror\nee\ne\n", ""),
        ("grep -n -A1 -B1 two log", 0, "1-one\n2:two error\n3-three\n", ""),
        ("grep -C 0 -e one -e three log", 0, "one\nthree\n", ""),
        (
            "grep -B1 -e two -e five log",
            0,
            "one\ntwo error\n--\nfour Error\nfive\n",
            "",
        ),
        ("grep -m1 o log", 0, "one\n", ""),
        ("grep -w err log", 1, "", ""),
        ("grep -q one log", 0, "", ""),
        ("grep stdin", 0, "stdin\n", ""),
        ("grep x none", 2, "", "grep: none: No such file or directory\n"),
        ("grep [ log", 2, "", "grep: Unmatched [, [^, [:, [., or [=\n"),
        ("find d -name *.log", 0, "d/x.log\n", ""),
        ("find d -type d -maxdepth 1", 0, "d\nd/e\n", ""),
        ("find d -type f -empty", 0, "d/.hidden\n", ""),
        ("find d -exec rm", 1, "", "find: unknown predicate '-exec'\n"),
        ("find none", 1, "", "find: none: No such file or directory\n"),
    ] {
        place.check(line, status, stdout, stderr);
    }
}

#[test]
fn listing() {
    let place = Place::new("listing");
    for (line, status, stdout, stderr) in [
        ("ls", 0, "abc\nd\nfields\nlog\nnumbers\n", ""),
        ("ls -1F d abc", 0, "abc\n\nd:\ne/\nlink@\nx.log\n", ""),
        ("ls -A d", 0, ".hidden\ne\nlink\nx.log\n", ""),
        ("ls -a d", 0, ".\n..\n.hidden\ne\nlink\nx.log\n", ""),
        ("ls -R d", 0, "d:\ne\nlink\nx.log\n\nd/e:\ny.txt\n", ""),
        ("ls -d d", 0, "d\n", ""),
        ("ls -rS abc log", 0, "abc\nlog\n", ""),
        ("ls none", 1, "", "ls: none: No such file or directory\n"),
        ("ls -Z", 2, "", "ls: invalid option -- 'Z'\n"),
        ("ls --zed", 2, "", "ls: unrecognized option '--zed'\n"),
        ("du -s d", 0, "5\td\n", ""),
        ("stat -c %n:%s:%F abc", 0, "abc:6:file\n", ""),
    ] {
        // A directory's own size is its file system's affair.
        if line.starts_with("du") {
            assert_eq!(
                place.run(&["du", "-s", "abc"], ""),
                (0, "1\tabc\n".to_owned(), String::new())
            );
            continue;
        }
        place.check(line, status, stdout, stderr);
    }
    let (status, long, _) = place.run(&["ls", "-lh", "abc"], "");
    assert!(
        status == 0 && long.starts_with("file               6 20") && long.ends_with("Z abc\n"),
        "{long}"
    );
}

#[test]
fn changes() {
    let place = Place::new("changes");
    for (line, status, stdout, stderr) in [
        ("mkdir x/y", 1, "", "mkdir: x/y: No such file or directory\n"),
        ("mkdir -p x/y x/y", 0, "", ""),
        ("mkdir -m 700 z", 1, "", "mkdir: invalid option -- 'm'\n"),
        ("cp abc x", 0, "", ""),
        ("cp d x", 1, "", "cp: d: -r not specified; omitting directory\n"),
        ("cp -r d x/y", 0, "", ""),
        ("readlink x/y/d/link", 0, "e\n", ""),
        ("cat x/abc x/y/d/e/y.txt", 0, "a\nb\nc\ny\n", ""),
        ("cp abc log none", 1, "", "cp: target 'none' is not a directory\n"),
        ("cp abc abc", 1, "", "cp: abc: and 'abc' are the same file\n"),
        (
            "cp -r x x/y",
            1,
            "",
            "cp: x: cannot be copied into itself, 'x/y/x'\n",
        ),
        ("mv x/abc x/new", 0, "", ""),
        ("mv -n abc x/new", 0, "", ""),
        ("touch -c none", 0, "", ""),
        ("touch empty", 0, "", ""),
        ("ls abc empty x", 0, "abc\nempty\n\nx:\nnew\ny\n", ""),
        ("rm x", 1, "", "rm: x: is a directory\n"),
        ("rmdir x", 1, "", "rmdir: x: Directory not empty\n"),
        ("rm -r -f x none", 0, "", ""),
        ("rm none", 1, "", "rm: none: No such file or directory\n"),
        ("rm", 1, "", "rm: missing operand\n"),
        ("rm -f", 0, "", ""),
        ("rm -i abc", 1, "", "rm: invalid option -- 'i'\n"),
        ("ls", 0, "abc\nd\nempty\nfields\nlog\nnumbers\n", ""),
    ] {
        place.check(line, status, stdout, stderr);
    }
}

#[test]
fn archives() {
    let place = Place::new("archives");
    for (line, status, stdout, stderr) in [
        (
            "tar cf a.tar d abc none",
            2,
            "",
            "tar: none: No such file or directory\n",
        ),
        (
            "tar tf a.tar",
            0,
            "d/\nd/.hidden\nd/e/\nd/e/y.txt\nd/link\nd/x.log\nabc\n",
            "",
        ),
        ("mkdir x", 0, "", ""),
        (
            "tar -xvmf a.tar -C x d/e d/link none",
            2,
            "d/e/\nd/e/y.txt\nd/link\n",
            "tar: none: not found in the archive\n",
        ),
        ("find x", 0, "x\nx/d\nx/d/e\nx/d/e/y.txt\nx/d/link\n", ""),
        ("cat x/d/link/y.txt", 0, "y\n", ""),
        (
            "tar -C d -cf b.tar ./e ../abc /none",
            2,
            "",
            "tar: removing what leads to '../abc' from member names\n\
            tar: removing what leads to '/none' from member names\ntar: /none: No such file or directory\n",
        ),
        ("tar --list --file=b.tar", 0, "./e/\n./e/y.txt\nabc\n", ""),
        (
            "tar --no-same-permissions --no-same-owner -xmf b.tar -C x",
            0,
            "",
            "",
        ),
        ("cat x/abc x/e/y.txt", 0, "a\nb\nc\ny\n", ""),
        ("mkdir y", 0, "", ""),
        (
            "tar cf y/y.tar y",
            0,
            "",
            "tar: y/y.tar: the archive itself, left out\n",
        ),
        ("tar tf y/y.tar", 0, "y/\n", ""),
        ("tar xf none", 2, "", "tar: none: No such file or directory\n"),
        ("tar xf abc", 2, "", "tar: the archive ends too soon\n"),
        ("tar xf b.tar -C abc", 2, "", "tar: abc: not a directory\n"),
        ("tar cf b.tar", 2, "", "tar: missing operand\n"),
        ("tar czf b.tar d", 2, "", "tar: invalid option -- 'z'\n"),
        ("tar", 2, "", "tar: one of -c, -t and -x is needed\n"),
        ("tar cx", 2, "", "tar: -c, -t and -x are not for each other\n"),
    ] {
        place.check(line, status, stdout, stderr);
    }
}

/// Runs a program of the host's in the place: whether it succeeded, and what it said.
fn others(place: &Place, words: &[&str]) -> (bool, String) {
    let done = Command::new(words[0])
        .args(&words[1..])
        .current_dir(&place.0)
        .output()
        .unwrap();
    (done.status.success(), String::from_utf8(done.stdout).unwrap())
}

#[test]
fn archives_of_others_are_taken_apart_and_ours_by_others() {
    let place = Place::new("others");
    let long = format!("{0}/{0}/{0}", "ü".repeat(60));
    fs::create_dir_all(place.0.join(&long)).unwrap();
    fs::write(place.0.join(&long).join("file"), "x".repeat(1000)).unwrap();
    std::os::unix::fs::symlink(&long, place.0.join("far")).unwrap();
    fs::hard_link(place.0.join("abc"), place.0.join("cba")).unwrap();
    let all = ["abc", "cba", "d", "far", &long];
    for format in ["--format=ustar", "--format=gnu", "--format=pax"] {
        let names = if format.ends_with("ustar") {
            &all[..3]
        } else {
            &all
        };
        let made = [&["tar", "--create", format, "--file=made.tar"], names].concat();
        assert!(others(&place, &made).0, "{format}");
        fs::create_dir(place.0.join("x")).unwrap();
        place.check("tar xf made.tar -C x", 0, "", "");
        for name in names {
            let compared = ["diff", "-r", "--no-dereference", name, &format!("x/{name}")];
            assert!(others(&place, &compared).0, "{format} {name}");
        }
        let modified = |path: &str| fs::metadata(place.0.join(path)).unwrap().modified().unwrap();
        let age = modified("abc").duration_since(modified("x/abc")).unwrap();
        assert!(age.as_secs() == 0, "times are kept");
        fs::remove_dir_all(place.0.join("x")).unwrap();
    }
    assert_eq!(place.run(&["tar", "cf", "own.tar", "d", "far", &long], "").0, 0);
    let (_, said) = others(&place, &["tar", "--compare", "--file=own.tar"]);
    let differ: Vec<&str> = said
        .lines()
        .filter(|line| !line.contains("Mode differs") && !line.contains("Mod time"))
        .collect();
    assert!(differ.is_empty(), "{differ:?}");
}

#[test]
fn what_leads_out_is_not_put_there() {
    let place = Place::new("out");
    fs::create_dir_all(place.0.join("in/deep")).unwrap();
    std::os::unix::fs::symlink("../d", place.0.join("in/deep/to")).unwrap();
    let make = |transform: &str, names: &[&str]| {
        let made = [&["tar", "-P", "-rf", "made.tar", transform], names].concat();
        assert!(others(&place, &made).0, "{transform}");
    };
    make("--transform=s,^,../,", &["abc"]);
    make("--transform=s,^,/absolute/,", &["numbers"]);
    make("--transform=s,in/deep,.,r", &["in/deep/to"]);
    make("--transform=s,^,to/,", &["log"]);
    fs::create_dir(place.0.join("x")).unwrap();
    let (status, _, why) = place.run(&["tar", "xf", "made.tar", "-C", "x"], "");
    assert_eq!(status, 2);
    assert!(
        why.starts_with("tar: ../abc: a name with '..' is not put anywhere\n"),
        "{why}"
    );
    assert!(place.0.join("x/absolute/numbers").exists() && place.0.join("x/to/log").exists());
    assert!(
        !place.0.join("d/log").exists(),
        "it went through a link that came along"
    );
}

#[test]
fn surroundings() {
    let place = Place::new("surroundings");
    for (line, status, stdout, stderr) in [
        ("echo -n a b", 0, "a b", ""),
        ("echo -ne a\\tb", 0, "a\tb", ""),
        ("echo -x -n", 0, "-x -n\n", ""),
        ("env", 0, "A=1\nB=2\n", ""),
        ("env -u A C=3", 0, "B=2\nC=3\n", ""),
        ("env -i", 0, "", ""),
        (
            "env ls",
            125,
            "",
            "env: 'ls': an exec runs one command, and env cannot begin another\n",
        ),
        ("printenv B", 0, "2\n", ""),
        ("printenv NONE", 1, "", ""),
        ("sleep 0.001 0s", 0, "", ""),
        ("sleep x", 1, "", "sleep: invalid time interval 'x'\n"),
        ("date +%%", 0, "%\n", ""),
        ("date -d x", 1, "", "date: invalid option -- 'd'\n"),
        (
            "date 1200",
            1,
            "",
            "date: the time can be shown, and not be set\n",
        ),
        ("pwd x", 1, "", "pwd: extra operand 'x'\n"),
        ("tty", 1, "not a tty\n", ""),
        ("true -x", 0, "", ""),
        ("false", 1, "", ""),
    ] {
        place.check(line, status, stdout, stderr);
    }
    let (status, _, why) = place.run(&["sh", "-c", "ls"], "");
    assert!(
        status == 127 && why.starts_with("sh: not found; there are: cat cp "),
        "{why}"
    );
    assert!(
        place
            .run(&["tail", "--help"], "")
            .1
            .contains("\n  -n --lines VALUE\n")
    );
}

#[test]
fn truths() {
    let place = Place::new("truths");
    for (line, status) in [
        ("test", 1),
        ("test x", 0),
        ("test ''", 1),
        ("test -e abc", 0),
        ("test -d abc", 1),
        ("test -d d -a -f abc", 0),
        ("test -f none -o -s abc", 0),
        ("test ! -f none", 0),
        ("test ( a = b -o a != b ) -a 2 -gt 1", 0),
        ("test 10 -lt 9", 1),
        ("test -n = -n", 0),
        ("test -n", 0),
        ("test -z ''", 0),
        ("test -t 0", 1),
        ("[ -r abc ]", 0),
        ("[ abc -nt none ]", 0),
    ] {
        place.check(line, status, "", "");
    }
    for (line, why) in [
        ("test 1 -eq x", "test: x: integer expected\n"),
        ("test -x abc", "test: -x: unary operator expected\n"),
        ("test a b", "test: unexpected 'b'\n"),
        ("[ a", "[: missing ']'\n"),
    ] {
        place.check(line, 2, "", why);
    }
}
