//! `tar`, by which `kubectl cp` copies: it makes, lists and takes apart archives.
//!
//! Owns what becomes of members. A member is put below the directory it is meant for: no `..` leads out of it, and links are made
//! after everything else, so that nothing goes through a link that came along. What a link of the container's own leads to is
//! the host's to refuse. Modes and owners are not kept: WASI has neither.

use crate::archive::{Member, Reader, What, end, pad, padding};
use crate::date::timestamp;
use crate::text::open;
use crate::world::{Kind, absolute, link, look, names};
use crate::{Call, Failure, Outcome, complain, misuse, words};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufWriter, ErrorKind, Read, Write};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Exit status when something could not be done (as GNU's).
pub const TROUBLE: u8 = 2;

/// One read or write.
const CHUNK: usize = 32 << 10;

/// Options with a value, among those of a first word.
const WITH_VALUE: &str = "Cf";

/// As `tar` takes its options from the beginning: a first word without a dash is letters, whose values follow it in their order.
pub fn written_out(args: Vec<String>) -> Vec<String> {
    let mut rest = args.iter();
    let Some(letters) = rest.next().filter(|first| !first.starts_with('-')) else {
        return args;
    };
    let mut written = Vec::new();
    for letter in letters.chars() {
        written.push(format!("-{letter}"));
        if WITH_VALUE.contains(letter) {
            written.extend(rest.next().cloned());
        }
    }
    written.extend(rest.cloned());
    written
}

pub fn tar(call: &mut Call<'_>) -> Outcome {
    if call.options.values('C').count() > 1 {
        return misuse("one -C is taken, for all names");
    }
    match [call.has('c'), call.has('t'), call.has('x')] {
        [true, false, false] => create(call),
        [false, true, false] => list(call),
        [false, false, true] => extract(call),
        [false, false, false] => misuse("one of -c, -t and -x is needed"),
        _ => misuse("-c, -t and -x are not for each other"),
    }
}

/// Where the archive is; without a word of it, the standard streams.
fn archive(call: &Call<'_>) -> PathBuf {
    PathBuf::from(call.options.value('f').unwrap_or("-"))
}

/// An error of what an option names.
fn of(path: &Path) -> impl Fn(io::Error) -> Failure {
    |error| Failure::Misuse(format!("{}: {}", path.display(), words(&error)))
}

/// What names are relative to.
fn base(call: &Call<'_>) -> Result<PathBuf, Failure> {
    let Some(given) = call.options.value('C').map(PathBuf::from) else {
        return Ok(PathBuf::new());
    };
    match look(&given, true).map_err(of(&given))?.kind {
        Kind::Directory => Ok(given),
        _ => Err(of(&given)(ErrorKind::NotADirectory.into())),
    }
}

fn create(call: &mut Call<'_>) -> Outcome {
    call.needs_operands(1)?;
    let (base, archive) = (base(call)?, archive(call));
    let to: Box<dyn Write> = match archive == Path::new("-") {
        true => Box::new(io::stdout()),
        false => Box::new(File::create(&archive).map_err(of(&archive))?),
    };
    let mut packer = Packer {
        to: BufWriter::with_capacity(CHUNK, to),
        archive: absolute(&archive)?,
        tell: call.has('v'),
        status: 0,
    };
    for operand in std::mem::take(&mut call.operands) {
        let name = packer.member_name(&operand);
        packer.add(&base.join(&operand), &name)?;
    }
    packer.to.write_all(&end())?;
    packer.to.flush()?;
    Ok(packer.status)
}

struct Packer {
    to: BufWriter<Box<dyn Write>>,
    /// Where that is: it is not packed into itself.
    archive: PathBuf,
    tell: bool,
    status: u8,
}

/// What is there to be packed.
enum Found {
    Directory(Vec<String>),
    File(File),
    Link,
    Other,
}

fn find(path: &Path) -> io::Result<(Found, Member)> {
    let seen = look(path, false)?;
    let mut member = Member {
        what: What::File,
        name: String::new(),
        size: 0,
        modified: seen.modified,
    };
    let found = match seen.kind {
        Kind::Directory => {
            member.what = What::Directory;
            Found::Directory(names(path)?)
        }
        Kind::File => {
            let file = File::open(path)?;
            member.size = file.metadata()?.len();
            Found::File(file)
        }
        Kind::Link => {
            let target = fs::read_link(path)?.to_string_lossy().into_owned();
            member.what = What::Link(target);
            Found::Link
        }
        Kind::Other => Found::Other,
    };
    Ok((found, member))
}

impl Packer {
    fn trouble(&mut self, name: &str, why: &str) {
        complain("tar", &format!("{name}: {why}"));
        self.status = TROUBLE;
    }

    /// A name that says nothing of what is above: whoever takes the archive apart says where.
    fn member_name(&self, operand: &str) -> String {
        let path = Path::new(operand);
        let parts: Vec<_> = path.components().collect();
        let inside = parts
            .iter()
            .rev()
            .take_while(|part| !matches!(part, Component::ParentDir | Component::RootDir));
        let inside = inside.count();
        if inside == parts.len() {
            return operand.to_owned();
        }
        complain(
            "tar",
            &format!("removing what leads to '{operand}' from member names"),
        );
        let name: PathBuf = parts[parts.len() - inside..].iter().collect();
        name.to_string_lossy().into_owned()
    }

    /// Adds a file, or a directory with all that is in it. What cannot be read is complained of.
    ///
    /// # Errors
    /// Those of the archive.
    fn add(&mut self, path: &Path, name: &str) -> io::Result<()> {
        let (found, mut member) = match find(path) {
            Ok(found) => found,
            Err(error) => {
                self.trouble(&path.display().to_string(), &words(&error));
                return Ok(());
            }
        };
        member.name = match found {
            Found::Directory(_) => format!(
                "{}/",
                if name.is_empty() {
                    "."
                } else {
                    name.trim_end_matches('/')
                }
            ),
            _ => name.to_owned(),
        };
        let left_out = match found {
            Found::Other => Some("neither a file nor a directory"),
            Found::File(_) if absolute(path)? == self.archive => Some("the archive itself"),
            _ => None,
        };
        if let Some(why) = left_out {
            complain("tar", &format!("{name}: {why}, left out"));
            return Ok(());
        }
        if self.tell {
            eprintln!("{}", member.name);
        }
        self.to.write_all(&member.header())?;
        match found {
            Found::Directory(names) => names.iter().try_for_each(|one| {
                let below = match name.trim_end_matches('/') {
                    "" => one.clone(),
                    above => format!("{above}/{one}"),
                };
                self.add(&path.join(one), &below)
            }),
            Found::File(file) => self.content(file, &member),
            Found::Link | Found::Other => Ok(()),
        }
    }

    /// As many bytes as were announced: a file that shrinks meanwhile is filled up.
    fn content(&mut self, mut file: File, member: &Member) -> io::Result<()> {
        let (mut left, mut chunk) = (member.size, vec![0; CHUNK]);
        while left > 0 {
            let most = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
            match file.read(&mut chunk[..most]) {
                Ok(0) => {
                    self.trouble(&member.name, "it has become shorter, and is filled up with zeros");
                    break;
                }
                Ok(read) => {
                    self.to.write_all(&chunk[..read])?;
                    left -= read as u64;
                }
                Err(error) => {
                    self.trouble(&member.name, &words(&error));
                    break;
                }
            }
        }
        pad(&mut self.to, left + padding(member.size))
    }
}

/// Which members are asked for: those that are named and what is below them, or all.
struct Wanted(Vec<(String, bool)>);

impl Wanted {
    fn of(call: &mut Call<'_>) -> Self {
        let names = std::mem::take(&mut call.operands).into_iter();
        Self(
            names
                .map(|name| (name.trim_end_matches('/').to_owned(), false))
                .collect(),
        )
    }

    fn has(&mut self, member: &str) -> bool {
        let is_below = |name: &str| {
            let rest = member.strip_prefix(name);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let mut has = self.0.is_empty();
        for (name, met) in &mut self.0 {
            if is_below(name) {
                (*met, has) = (true, true);
            }
        }
        has
    }

    /// Complains of those that are not there.
    fn missed(&self) -> bool {
        let missed = self.0.iter().filter(|(_, met)| !met);
        missed
            .inspect(|(name, _)| complain("tar", &format!("{name}: not found in the archive")))
            .count()
            > 0
    }
}

/// Does one thing for each member that is asked for.
fn each(
    call: &mut Call<'_>,
    mut work: impl FnMut(&mut Call<'_>, &mut Reader<Box<dyn BufRead>>, Member) -> Result<(), Failure>,
) -> Result<bool, Failure> {
    let mut wanted = Wanted::of(call);
    let archive = archive(call);
    let mut reader = Reader::new(open(&archive).map_err(of(&archive))?);
    while let Some(member) = reader.member()? {
        if wanted.has(&member.name) {
            work(call, &mut reader, member)?;
        }
    }
    Ok(!wanted.missed())
}

fn list(call: &mut Call<'_>) -> Outcome {
    let all = each(call, |call, _, member| {
        let (kind, target) = match &member.what {
            What::Directory => (Kind::Directory, String::new()),
            What::File => (Kind::File, String::new()),
            What::Link(target) => (Kind::Link, format!(" -> {target}")),
            What::SameAs(target) => (Kind::File, format!(" link to {target}")),
            What::Other => (Kind::Other, String::new()),
        };
        let (size, name) = (member.size, &member.name);
        match call.has('v') {
            true => writeln!(
                call.out,
                "{:<9} {size:>10} {} {name}{target}",
                kind.name(),
                timestamp(member.modified)
            )?,
            false => writeln!(call.out, "{name}")?,
        }
        Ok(())
    })?;
    Ok(if all { 0 } else { TROUBLE })
}

fn extract(call: &mut Call<'_>) -> Outcome {
    let mut place = Place {
        base: base(call)?,
        keep_times: !call.has('m'),
        links: BTreeMap::new(),
    };
    let mut status = 0;
    let mut complain_of = |name: &str, error: &io::Error| {
        complain("tar", &format!("{name}: {}", words(error)));
        status = TROUBLE;
    };
    let all = each(call, |call, reader, member| {
        if call.has('v') {
            writeln!(call.out, "{}", member.name)?;
        }
        if let Err(error) = place.put(reader, &member) {
            complain_of(&member.name, &error);
        }
        Ok(())
    })?;
    for (path, target) in &place.links {
        if let Err(error) = make_room(path).and_then(|()| link(target, path)) {
            complain_of(&path.display().to_string(), &error);
        }
    }
    Ok(if all { status } else { TROUBLE })
}

/// Where members are put.
struct Place {
    base: PathBuf,
    keep_times: bool,
    /// Links that are still to be made, and what they lead to.
    links: BTreeMap<PathBuf, String>,
}

impl Place {
    fn put(&mut self, content: &mut impl Read, member: &Member) -> io::Result<()> {
        let path = self.inside(&member.name)?;
        self.links.remove(&path);
        match &member.what {
            What::Directory => fs::create_dir_all(&path),
            What::File => {
                make_room(&path)?;
                let mut file = File::create(&path)?;
                io::copy(content, &mut file)?;
                match self.keep_times {
                    true => file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(member.modified)),
                    false => Ok(()),
                }
            }
            What::SameAs(target) => {
                let target = self.inside(target)?;
                make_room(&path)?;
                fs::hard_link(target, &path)
            }
            What::Link(target) => {
                self.links.insert(path, target.clone());
                Ok(())
            }
            What::Other => Err(io::Error::other(
                "neither a file nor a directory, which cannot be made here",
            )),
        }
    }

    /// A member's path: below the base, whatever it says.
    fn inside(&self, name: &str) -> io::Result<PathBuf> {
        let parts = || Path::new(name).components();
        if parts().any(|part| part == Component::ParentDir) {
            return Err(io::Error::other("a name with '..' is not put anywhere"));
        }
        let names = parts().filter(|part| matches!(part, Component::Normal(_)));
        let path = self.base.join(names.collect::<PathBuf>());
        Ok(if path.as_os_str().is_empty() {
            ".".into()
        } else {
            path
        })
    }
}

/// Makes the directories above a path, and removes the file that is there.
fn make_room(path: &Path) -> io::Result<()> {
    if let Some(above) = path.parent().filter(|above| !above.as_os_str().is_empty()) {
        fs::create_dir_all(above)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
