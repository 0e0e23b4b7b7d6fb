//! How long a container takes, beside Debian's crun and runc: the same bundle, namespaces and cgroup limits for all of
//! them, one after another in the same run, so that only the ratios are to be trusted.
//!
//! `cargo bench -p amphipod-linux-shim` (root, busybox-static; crun and runc where they are installed). A number as
//! argument is that of rounds; any other argument is one more runtime's command line (`'…/amphipod linux-shim oci'`). crun
//! refuses hosts that have cgroup v2 with controllers beside v1: there, run it all below
//! `unshare -m sh -c 'umount /sys/fs/cgroup/unified; …'`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use amphipod_shim_api::cgroup::CgroupHost;
use amphipod_shim_api::client::ExecTask;
use amphipod_shim_api::{CreateTask, ShimCommand, TaskClient};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use serde_json::{Value, json};

const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-amphipod-v1");
const OCI: &str = env!("CARGO_BIN_EXE_amphipod-oci");
const BUSYBOX: &str = "/bin/busybox";
const ROUNDS: usize = 60;
const AT_ONCE: u32 = 32;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A runtime driven by its command line.
#[derive(Debug, Clone)]
struct Runtime {
    name: String,
    /// The program and its first words.
    command: Vec<String>,
    root: PathBuf,
}

/// What one runtime took.
struct Result {
    name: String,
    /// create → start → exit, without delete.
    life: Duration,
    /// With delete.
    whole: Duration,
    /// All of [`AT_ONCE`] with delete.
    burst: Duration,
    /// By all of them and their containers.
    spent: Spent,
    exec: Duration,
}

/// Bundles below a directory of its own.
struct Home {
    dir: tempfile::TempDir,
    name: String,
    next: AtomicUsize,
}

impl Home {
    fn new() -> std::io::Result<Self> {
        let dir = tempfile::tempdir()?;
        let rootfs = dir.path().join("rootfs");
        for name in ["bin", "proc", "dev", "sys", "tmp"] {
            fs::create_dir_all(rootfs.join(name))?;
        }
        fs::copy(BUSYBOX, rootfs.join("bin/busybox"))?;
        for applet in ["true", "sleep", "sh"] {
            symlink("busybox", rootfs.join("bin").join(applet))?;
        }
        Ok(Self {
            dir,
            name: format!("amphipod-bench-{}", std::process::id()),
            next: AtomicUsize::new(0),
        })
    }

    /// A new bundle and its id.
    fn bundle(&self, args: &[&str]) -> std::io::Result<(String, PathBuf)> {
        let id = format!("b{}", self.next.fetch_add(1, Ordering::Relaxed));
        let dir = self.dir.path().join("bundles").join(&id);
        fs::create_dir_all(&dir)?;
        let spec = self.spec(args, &id);
        fs::write(dir.join("config.json"), spec.to_string())?;
        Ok((id, dir))
    }

    fn spec(&self, args: &[&str], id: &str) -> Value {
        let caps = json!(["CAP_CHOWN", "CAP_KILL", "CAP_SETGID", "CAP_SETUID"]);
        json!({
            "ociVersion": "1.0.2",
            "root": {"path": self.dir.path().join("rootfs")},
            "hostname": "box",
            "process": {"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": args, "env": ["PATH=/bin"],
                "noNewPrivileges": true,
                "capabilities": {"bounding": caps, "effective": caps, "permitted": caps}},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                    "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
                {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]}
            ],
            "annotations": {"io.kubernetes.cri.sandbox-id": self.name},
            "linux": {
                "cgroupsPath": format!("/{}/{id}", self.name),
                "namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"}],
                "resources": {"pids": {"limit": 100}, "memory": {"limit": 64 << 20}},
                "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
                "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
            }
        })
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Ok(cgroup) = CgroupHost::discover().and_then(|h| h.cgroup_everywhere(&self.name)) {
            let _ = cgroup.kill();
            let _ = cgroup.remove_waiting();
        }
        let _ = fs::remove_dir_all(Path::new("/run/amphipod").join(&self.name));
    }
}

impl Runtime {
    fn call(&self, words: &[&str]) -> std::result::Result<(), Failure> {
        let status = Command::new(&self.command[0])
            .args(&self.command[1..])
            .arg("--root")
            .arg(&self.root)
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("{} {words:?}: {status}", self.name).into())
        }
    }

    /// Answers when the program had ended, and when the container was deleted.
    fn life(&self, home: &Home) -> std::result::Result<(Duration, Duration), Failure> {
        let (id, dir) = home.bundle(&["/bin/true"])?;
        let (path, pid_file) = (dir.display().to_string(), dir.join("pid"));
        let begun = Instant::now();
        let file = pid_file.display().to_string();
        self.call(&["create", "--bundle", &path, "--pid-file", &file, &id])?;
        self.call(&["start", &id])?;
        let pid: i32 = fs::read_to_string(&pid_file)?.trim().parse()?;
        waitpid(Pid::from_raw(pid), None)?;
        let ended = begun.elapsed();
        self.call(&["delete", &id])?;
        Ok((ended, begun.elapsed()))
    }

    fn measure(&self, home: &Home, rounds: usize) -> std::result::Result<Result, Failure> {
        self.life(home)?;
        let mut lives = Vec::new();
        for _ in 0..rounds {
            lives.push(self.life(home)?);
        }
        let (begun, before) = (Instant::now(), Spent::by_children()?);
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(|| self.life(home))).collect();
            all.into_iter()
                .try_for_each(|t| t.join().map_err(|_| "a thread died")?.map(drop))
        })?;
        let burst = begun.elapsed();
        let spent = Spent::by_children()?.since(before);
        Ok(Result {
            spent,
            name: self.name.clone(),
            life: median(lives.iter().map(|l| l.0)),
            whole: median(lives.iter().map(|l| l.1)),
            burst,
            exec: self.exec(home, rounds)?,
        })
    }

    fn exec(&self, home: &Home, rounds: usize) -> std::result::Result<Duration, Failure> {
        let (id, dir) = home.bundle(&["/bin/sleep", "1000"])?;
        let path = dir.display().to_string();
        self.call(&["create", "--bundle", &path, &id])?;
        self.call(&["start", &id])?;
        let mut times = Vec::new();
        for _ in 0..rounds {
            let begun = Instant::now();
            self.call(&["exec", &id, "/bin/true"])?;
            times.push(begun.elapsed());
        }
        self.call(&["delete", "--force", &id])?;
        Ok(median(times.into_iter()))
    }
}

fn median(times: impl Iterator<Item = Duration>) -> Duration {
    let mut times: Vec<_> = times.collect();
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Through the running shim, as the node does it.
async fn task_life(client: &TaskClient, home: &Home) -> std::result::Result<(Duration, Duration), Failure> {
    let (id, dir) = home.bundle(&["/bin/true"])?;
    let begun = Instant::now();
    let task = CreateTask {
        id: id.clone(),
        bundle: dir,
        ..Default::default()
    };
    client.create(&task).await?;
    client.start(&id).await?;
    client.wait(&id).await?;
    let ended = begun.elapsed();
    client.delete(&id).await?;
    Ok((ended, begun.elapsed()))
}

async fn task_exec(
    client: &TaskClient,
    home: &Home,
    rounds: usize,
) -> std::result::Result<Duration, Failure> {
    let (id, dir) = home.bundle(&["/bin/sleep", "1000"])?;
    let task = CreateTask {
        id: id.clone(),
        bundle: dir,
        ..Default::default()
    };
    client.create(&task).await?;
    client.start(&id).await?;
    let process =
        json!({"cwd": "/", "args": ["/bin/true"], "user": {"uid": 0, "gid": 0}, "noNewPrivileges": true});
    let mut times = Vec::new();
    for round in 0..rounds {
        let exec = ExecTask {
            id: id.clone(),
            exec_id: format!("e{round}"),
            process: process.clone(),
            ..Default::default()
        };
        let both = (id.as_str(), exec.exec_id.as_str());
        let begun = Instant::now();
        client.exec(&exec).await?;
        client.start(both).await?;
        client.wait(both).await?;
        client.delete(both).await?;
        times.push(begun.elapsed());
    }
    println!(
        "\nthe shim's own memory, with one container: {} KiB",
        private(home)?
    );
    client.kill(&id, 9, false).await?;
    client.wait(&id).await?;
    client.delete(&id).await?;
    Ok(median(times.into_iter()))
}

/// `Anonymous` of `/proc/PID/smaps_rollup` of the process that serves this run: what it costs beyond the pages of its
/// program, which all shims of a host share with the file. (`Private_Dirty` counts those of a program just built too.)
fn private(home: &Home) -> std::result::Result<u64, Failure> {
    let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", server(home)?))?;
    let lines = text.lines().filter(|l| l.starts_with("Anonymous:"));
    let sizes = lines.filter_map(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok());
    Ok(sizes.sum())
}

/// The process that serves this run.
fn server(home: &Home) -> std::result::Result<i32, Failure> {
    for entry in fs::read_dir("/proc")?.flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let mut words = line.split(|b| *b == 0);
        if words.any(|w| w == home.name.as_bytes()) && words.any(|w| w == b"serve") {
            return Ok(entry.file_name().to_string_lossy().parse()?);
        }
    }
    Err("the shim is not there".into())
}

async fn measure_shim(home: &Home, rounds: usize) -> std::result::Result<Result, Failure> {
    let (id, dir) = home.bundle(&["/bin/true"])?;
    let command = ShimCommand {
        words: vec![SHIM.into()],
        namespace: home.name.clone(),
    };
    let client = TaskClient::connect(command.start(&id, &dir).await?).await?;
    task_life(&client, home).await?;
    let mut lives = Vec::new();
    for _ in 0..rounds {
        lives.push(task_life(&client, home).await?);
    }
    let server = server(home)?;
    let (begun, before) = (Instant::now(), Spent::by_process(server)?);
    futures_all((0..AT_ONCE).map(|_| task_life(&client, home))).await?;
    let burst = begun.elapsed();
    let spent = Spent::by_process(server)?.since(before);
    let exec = task_exec(&client, home, rounds).await?;
    client.shutdown(&id).await?;
    Ok(Result {
        spent,
        name: "amphipod, through the shim".into(),
        life: median(lives.iter().map(|l| l.0)),
        whole: median(lives.iter().map(|l| l.1)),
        burst,
        exec,
    })
}

/// Processor time, in the programs and in the kernel.
#[derive(Clone, Copy, Default)]
struct Spent {
    user: Duration,
    system: Duration,
}

impl Spent {
    fn since(self, before: Self) -> Self {
        Self {
            user: self.user.saturating_sub(before.user),
            system: self.system.saturating_sub(before.system),
        }
    }

    /// Of all that this program has waited for.
    fn by_children() -> std::result::Result<Self, Failure> {
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
        let time = |t: TimeVal| Duration::from_micros(u64::try_from(t.num_microseconds()).unwrap_or(0));
        Ok(Self {
            user: time(usage.user_time()),
            system: time(usage.system_time()),
        })
    }

    /// Of a process and all that it has waited for (proc_pid_stat(5), fields 14 to 17).
    fn by_process(pid: i32) -> std::result::Result<Self, Failure> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (_, fields) = text.rsplit_once(") ").ok_or("no stat")?;
        let fields: Vec<u64> = fields
            .split(' ')
            .skip(11)
            .take(4)
            .filter_map(|f| f.parse().ok())
            .collect();
        let [user, system, others_user, others_system] = fields[..] else {
            return Err("no times in stat".into());
        };
        let time = |ticks: u64| Duration::from_millis(ticks * 1000 / TICKS);
        Ok(Self {
            user: time(user + others_user),
            system: time(system + others_system),
        })
    }
}

/// `USER_HZ`, the same on every architecture this runs on.
const TICKS: u64 = 100;

/// Runs all at once on this thread.
async fn futures_all<T>(
    all: impl Iterator<Item = impl Future<Output = std::result::Result<T, Failure>>>,
) -> std::result::Result<(), Failure> {
    let mut waiting: Vec<_> = all.map(Box::pin).collect();
    std::future::poll_fn(|context| {
        let mut at = 0;
        while at < waiting.len() {
            match waiting[at].as_mut().poll(context) {
                std::task::Poll::Ready(Ok(_)) => drop(waiting.swap_remove(at)),
                std::task::Poll::Ready(Err(error)) => return std::task::Poll::Ready(Err(error)),
                std::task::Poll::Pending => at += 1,
            }
        }
        if waiting.is_empty() {
            std::task::Poll::Ready(Ok(()))
        } else {
            std::task::Poll::Pending
        }
    })
    .await
}

fn found(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|p| p.is_file())
}

/// Debian's two where they are installed, ours, and those that were asked for.
fn runtimes(home: &Home, more: impl Iterator<Item = String>) -> Vec<Runtime> {
    let mut all = Vec::new();
    for name in ["crun", "runc"] {
        match found(name) {
            Some(program) => all.push((name.to_owned(), vec![program.display().to_string()])),
            None => println!("{name} is not installed, and left out"),
        }
    }
    all.push(("amphipod, command line".into(), vec![OCI.into()]));
    all.extend(more.map(|line| {
        let command = line.split_whitespace().map(str::to_owned).collect();
        (line, command)
    }));
    let runtimes = all.into_iter().enumerate();
    runtimes
        .map(|(number, (name, command))| Runtime {
            name,
            command,
            root: home.dir.path().join(format!("state-{number}")),
        })
        .collect()
}

fn main() -> std::result::Result<(), Failure> {
    if !nix::unistd::geteuid().is_root() || !Path::new(BUSYBOX).exists() {
        println!("skipped: needs root and {BUSYBOX} (Debian package busybox-static)");
        return Ok(());
    }
    // Containers of a command line that has ended become ours, to be waited for.
    nix::sys::prctl::set_child_subreaper(true)?;
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let rounds = arguments.iter().find_map(|a| a.parse().ok()).unwrap_or(ROUNDS);
    let more = arguments.into_iter().filter(|a| a.parse::<usize>().is_err());
    let home = Home::new()?;
    let mut results = Vec::new();
    for runtime in runtimes(&home, more) {
        results.push(runtime.measure(&home, rounds)?);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    results.push(runtime.block_on(measure_shim(&home, rounds))?);
    print(&results, rounds);
    Ok(())
}

fn print(results: &[Result], rounds: usize) {
    println!(
        "\nmedian of {rounds} rounds of /bin/true; in milliseconds, and as a share of the first line's\n"
    );
    println!(
        "| runtime | create, start, exit | and delete | {AT_ONCE} at once, all | processor, each of them | exec |"
    );
    println!("|---|---|---|---|---|---|");
    let Some(first) = results.first() else { return };
    for result in results {
        let each = |all: Duration| (all / AT_ONCE).as_secs_f64() * 1000.0;
        let cell = |own: Duration, base: Duration| {
            let ratio = own.as_secs_f64() / base.as_secs_f64();
            format!("{:.2} ({ratio:.2})", own.as_secs_f64() * 1000.0)
        };
        println!(
            "| {} | {} | {} | {} | {:.2} + {:.2} | {} |",
            result.name,
            cell(result.life, first.life),
            cell(result.whole, first.whole),
            cell(result.burst, first.burst),
            each(result.spent.user),
            each(result.spent.system),
            cell(result.exec, first.exec),
        );
    }
}
