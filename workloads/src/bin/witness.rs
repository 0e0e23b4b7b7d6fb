//! Says what a container sees of itself: one word names what to look at, and the answer is the same text wherever the
//! same was given, as a native process or as a Wasm command. `tests/shared/cases.yaml` asks it.
//!
//! Errors are told by their kind, not by the words of an operating system.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, Read, Seek, SeekFrom, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

/// A word and what it looks at.
type Look = (&'static str, fn(&[String]) -> io::Result<()>);

const LOOKS: &[Look] = &[
    ("abort", |_| std::process::abort()),
    ("append", append),
    ("arguments", arguments),
    ("bind", bind),
    ("connect", connect),
    ("datagram", datagram),
    ("directory", directory),
    ("end", end),
    ("environment", environment),
    ("files", files),
    ("flood", flood),
    ("hear", hear),
    ("input", input),
    ("knock", knock),
    ("list", list),
    ("loopback", loopback),
    ("once", once),
    ("parts", parts),
    ("random", random),
    ("read", read),
    ("resolve", resolve),
    ("serve", serve),
    ("spin", |_| {
        loop {
            std::hint::black_box(());
        }
    }),
    ("take", take),
    ("time", time),
    ("until", until),
    ("wait", wait),
    ("write", write),
];

/// Between looks at what cannot be waited for.
const PERIOD: Duration = Duration::from_millis(20);

/// How long a server may take to be there.
const PATIENCE: Duration = Duration::from_secs(60);

/// wasi-libc begins in the root; where a guest shall begin it is told by `wasi:cli/environment`.
#[cfg(all(target_os = "wasi", target_env = "p2"))]
fn begin() {
    if let Some(directory) = wasip2::cli::environment::initial_cwd() {
        let _ = std::env::set_current_dir(directory); // as a shell that goes on where it cannot
    }
}

#[cfg(not(all(target_os = "wasi", target_env = "p2")))]
fn begin() {}

fn main() -> ExitCode {
    begin();
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (name, operands) = words
        .split_first()
        .map_or(("", &[][..]), |(n, o)| (n.as_str(), o));
    let Some((_, look)) = LOOKS.iter().find(|(known, _)| *known == name) else {
        eprintln!("witness: {name:?} is not known");
        return ExitCode::from(127);
    };
    match look(operands) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("witness: {name}: {:?}", error.kind());
            ExitCode::FAILURE
        }
    }
}

fn operand(operands: &[String], place: usize) -> io::Result<&str> {
    operands
        .get(place)
        .map(String::as_str)
        .ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

fn number(operands: &[String], place: usize) -> io::Result<u64> {
    operand(operands, place)?
        .parse()
        .map_err(|_| io::ErrorKind::InvalidInput.into())
}

#[expect(clippy::disallowed_methods, reason = "passing time is what is looked at")]
fn rest(time: Duration) {
    std::thread::sleep(time);
}

/// All arguments, the program's own name first.
fn arguments(_: &[String]) -> io::Result<()> {
    std::env::args().for_each(|argument| println!("{argument:?}"));
    Ok(())
}

/// The variables that were named, or all.
fn environment(names: &[String]) -> io::Result<()> {
    let named = |line: &&str| {
        let name = line.split('=').next().unwrap_or_default();
        names.is_empty() || names.iter().any(|wanted| wanted == name)
    };
    let all = workloads::site::environment();
    all.lines().filter(named).for_each(|line| println!("{line}"));
    Ok(())
}

fn directory(_: &[String]) -> io::Result<()> {
    println!("{}", std::env::current_dir()?.display());
    Ok(())
}

/// Says something on both streams and ends with the status that was given.
fn end(operands: &[String]) -> io::Result<()> {
    println!("said on stdout");
    eprintln!("said on stderr");
    std::process::exit(number(operands, 0)?.try_into().unwrap_or(255))
}

/// Ends with 1 the first time, with 0 when the file is there.
fn once(operands: &[String]) -> io::Result<()> {
    let file = Path::new(operand(operands, 0)?);
    if file.exists() {
        println!("again");
        return Ok(());
    }
    fs::write(file, "")?;
    println!("for the first time");
    std::process::exit(1)
}

fn read(paths: &[String]) -> io::Result<()> {
    for path in paths {
        match fs::read_to_string(path) {
            Ok(text) => println!("{path}: {:?}", text),
            Err(error) => println!("{path}: {:?}", error.kind()),
        }
    }
    Ok(())
}

fn write(operands: &[String]) -> io::Result<()> {
    said("write", fs::write(operand(operands, 0)?, operand(operands, 1)?));
    Ok(())
}

fn append(operands: &[String]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(operand(operands, 0)?)?;
    writeln!(file, "{}", operand(operands, 1)?)
}

/// Names and kinds of what is in a directory, sorted, without those that atomic updates are made of.
fn list(paths: &[String]) -> io::Result<()> {
    for path in paths {
        let found: io::Result<BTreeSet<String>> =
            fs::read_dir(path).and_then(|entries| entries.map(entry).collect());
        let found = found.map(|mut found| {
            found.retain(|name| !name.starts_with(".."));
            found
        });
        match found {
            Ok(found) => println!("{path}: {}", found.into_iter().collect::<Vec<_>>().join(" ")),
            Err(error) => println!("{path}: {:?}", error.kind()),
        }
    }
    Ok(())
}

fn entry(entry: io::Result<fs::DirEntry>) -> io::Result<String> {
    let entry = entry?;
    let kind = entry.file_type()?;
    let sign = match (kind.is_dir(), kind.is_symlink()) {
        (true, _) => "/",
        (_, true) => "@",
        _ => "",
    };
    Ok(format!("{}{sign}", entry.file_name().to_string_lossy()))
}

fn said<T>(what: &str, result: io::Result<T>) {
    match result {
        Ok(_) => println!("{what}: done"),
        Err(error) => println!("{what}: {:?}", error.kind()),
    }
}

/// What may be done with files below a directory.
fn files(operands: &[String]) -> io::Result<()> {
    let home = PathBuf::from(operand(operands, 0)?);
    let at = |name: &str| home.join(name);
    said("create", fs::write(at("a"), "0123456789"));
    said("create again", File::create_new(at("a")));
    said("make a directory", fs::create_dir(at("d")));
    said("make directories", fs::create_dir_all(at("d/e/f")));
    said("rename", fs::rename(at("a"), at("d/b")));
    said("hard link", fs::hard_link(at("d/b"), at("hard")));
    said("copy", fs::copy(at("d/b"), at("copy")));
    said("rename over a file", fs::rename(at("copy"), at("hard")));
    println!("remove a full directory: {}", fs::remove_dir(at("d")).is_ok());
    said("remove a directory as a file", fs::remove_file(at("d")));
    said("read a directory as a file", fs::read(at("d")));
    said("change the middle", middle(&at("d/b")));
    println!(
        "then: {:?}",
        fs::read_to_string(at("d/b")).map_err(|error| error.kind())
    );
    said(
        "cut",
        OpenOptions::new()
            .write(true)
            .open(at("d/b"))
            .and_then(|file| file.set_len(4)),
    );
    println!(
        "then: {:?}",
        fs::metadata(at("d/b"))
            .map(|metadata| metadata.len())
            .map_err(|e| e.kind())
    );
    println!(
        "changed just now: {:?}",
        age(&at("d/b"))
            .map(|age| age < Duration::from_secs(60))
            .map_err(|e| e.kind())
    );
    said("what is not there", fs::read(at("none")));
    said("a name that is too long", fs::write(at(&"x".repeat(300)), ""));
    said("remove everything", fs::remove_dir_all(at("d")));
    list(&[home.display().to_string()])
}

fn age(path: &Path) -> io::Result<Duration> {
    Ok(fs::metadata(path)?.modified()?.elapsed().unwrap_or_default())
}

fn middle(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    file.seek(SeekFrom::Start(3))?;
    file.write_all(b"abc")?;
    file.sync_all()
}

/// Lines of standard input until it ends.
fn input(_: &[String]) -> io::Result<()> {
    for line in io::stdin().lock().lines() {
        println!("heard {}", line?);
    }
    println!("no more");
    Ok(())
}

/// Clocks go on, and sleeping takes its time.
fn time(_: &[String]) -> io::Result<()> {
    let (began, wall) = (Instant::now(), SystemTime::now());
    rest(Duration::from_millis(50));
    println!("slept: {}", began.elapsed() >= Duration::from_millis(50));
    println!("not for long: {}", began.elapsed() < Duration::from_secs(30));
    println!(
        "the wall clock went on: {}",
        wall.elapsed().is_ok_and(|gone| !gone.is_zero())
    );
    println!(
        "this century: {}",
        wall.duration_since(SystemTime::UNIX_EPOCH)
            .is_ok_and(|age| age.as_secs() > 1 << 30)
    );
    Ok(())
}

/// Random numbers differ.
fn random(_: &[String]) -> io::Result<()> {
    use std::hash::{BuildHasher, RandomState};
    let drawn: BTreeSet<u64> = (0..100).map(|_| RandomState::new().hash_one(0)).collect();
    println!("different: {}", drawn.len());
    Ok(())
}

/// What else a program may ask for: threads, processes.
fn parts(_: &[String]) -> io::Result<()> {
    said(
        "thread",
        std::thread::Builder::new()
            .spawn(|| ())
            .map(std::thread::JoinHandle::join),
    );
    said(
        "process",
        std::process::Command::new("/witness").arg("time").output(),
    );
    Ok(())
}

/// Takes memory, a mebibyte at a time, until it has as many as were named, and holds it if told to.
fn take(operands: &[String]) -> io::Result<()> {
    let most = number(operands, 0)?;
    let mut held = Vec::new();
    for round in 0..most {
        held.push(vec![round as u8 | 1; 1 << 20]);
    }
    println!("has {} MiB", std::hint::black_box(&held).len());
    Ok(())
}

/// As many lines as were named.
fn flood(operands: &[String]) -> io::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    for line in 0..number(operands, 0)? {
        writeln!(out, "line {line}")?;
    }
    out.flush()
}

/// Says that it runs, and does for ever, or for as many seconds as are named.
fn wait(operands: &[String]) -> io::Result<()> {
    println!("waiting");
    match number(operands, 0) {
        Ok(seconds) => rest(Duration::from_secs(seconds)),
        Err(_) => loop {
            rest(Duration::from_secs(3600));
        },
    }
    println!("waited");
    Ok(())
}

/// Waits until a file says what was named, then tells it.
fn until(operands: &[String]) -> io::Result<()> {
    let (path, text) = (operand(operands, 0)?, operand(operands, 1)?);
    while fs::read_to_string(path).unwrap_or_default() != text {
        rest(PERIOD);
    }
    println!("{path}: {text:?}");
    Ok(())
}

/// Whether these addresses can be bound.
fn bind(addresses: &[String]) -> io::Result<()> {
    for address in addresses {
        said(address, TcpListener::bind(address.as_str()));
    }
    Ok(())
}

/// The first line of what these addresses answer to a line, once somebody is there.
fn connect(addresses: &[String]) -> io::Result<()> {
    for address in addresses {
        let began = Instant::now();
        let mut answer = ask(address);
        while answer.is_err() && began.elapsed() < PATIENCE {
            rest(PERIOD);
            answer = ask(address);
        }
        tell(address, answer);
    }
    Ok(())
}

/// The same, without waiting for anybody.
fn knock(addresses: &[String]) -> io::Result<()> {
    addresses.iter().for_each(|address| tell(address, ask(address)));
    Ok(())
}

fn tell(address: &str, answer: io::Result<String>) {
    match answer {
        Ok(line) => println!("{address}: {line:?}"),
        Err(error) => println!("{address}: {:?}", error.kind()),
    }
}

fn ask(address: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"who is there\n")?;
    let mut line = String::new();
    io::BufReader::new(stream).read_line(&mut line)?;
    Ok(line)
}

/// Answers every connection's first line on the port that was named; the line `end` is the last. Who only knocks gets none.
fn serve(operands: &[String]) -> io::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", number(operands, 0)?.try_into().unwrap_or(0)))?;
    println!("serving");
    for stream in listener.incoming() {
        match exchange(stream?) {
            Ok(line) if line == "end" => return Ok(()),
            Ok(line) if !line.is_empty() => println!("heard {line}"),
            _ => {}
        }
    }
    Ok(())
}

fn exchange(mut stream: TcpStream) -> io::Result<String> {
    let mut line = String::new();
    io::BufReader::new(&stream).read_line(&mut line)?;
    let line = line.trim_end();
    if !line.is_empty() {
        writeln!(stream, "you said {line}")?;
    }
    Ok(line.to_owned())
}

/// What these addresses answer to a datagram.
fn datagram(addresses: &[String]) -> io::Result<()> {
    addresses.iter().for_each(|address| tell(address, send(address)));
    Ok(())
}

fn send(address: &str) -> io::Result<String> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.send_to(b"who is there", address)?;
    received(&socket).map(|(text, _)| text)
}

fn received(socket: &UdpSocket) -> io::Result<(String, std::net::SocketAddr)> {
    let mut bytes = [0; 64];
    let (length, from) = socket.recv_from(&mut bytes)?;
    Ok((String::from_utf8_lossy(&bytes[..length]).into_owned(), from))
}

/// Answers every datagram to the port that was named; `end` is the last.
fn hear(operands: &[String]) -> io::Result<()> {
    let socket = UdpSocket::bind(("0.0.0.0", number(operands, 0)?.try_into().unwrap_or(0)))?;
    println!("hearing");
    loop {
        let (text, from) = received(&socket)?;
        if text == "end" {
            return Ok(());
        }
        println!("heard {text}");
        socket.send_to(format!("you said {text}").as_bytes(), from)?;
    }
}

/// TCP and UDP with oneself.
fn loopback(_: &[String]) -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut here = TcpStream::connect(listener.local_addr()?)?;
    let (mut there, peer) = listener.accept()?;
    println!("tcp: the peer is {}", peer.ip());
    here.write_all(b"over tcp")?;
    here.shutdown(std::net::Shutdown::Write)?;
    let mut text = String::new();
    there.read_to_string(&mut text)?;
    println!("tcp: {text}");
    let (one, other) = (UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
    one.send_to(b"over udp", other.local_addr()?)?;
    println!("udp: {}", received(&other)?.0);
    Ok(())
}

/// The IPv4 addresses of names.
fn resolve(names: &[String]) -> io::Result<()> {
    for name in names {
        match (name.as_str(), 0).to_socket_addrs() {
            Ok(found) => {
                let found: BTreeSet<String> = found
                    .filter(|a| a.is_ipv4())
                    .map(|a| a.ip().to_string())
                    .collect();
                println!("{name}: {}", found.into_iter().collect::<Vec<_>>().join(" "));
            }
            Err(_) => println!("{name}: not found"),
        }
    }
    Ok(())
}
