//! Which Pod has which address: one file per address, its content the Pod's uid.
//!
//! The files are the truth: a file appears whole (hard link of a finished temporary file) or not at
//! all, so an agent that dies at any point neither loses an address nor gives it out twice.
//! Knows nothing of links or namespaces.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipnet::Ipv4Net;

use super::names::{BadUid, check_uid};

/// Why an address could not be given or taken back.
#[derive(Debug, thiserror::Error)]
pub enum IpamError {
    #[error(transparent)]
    Uid(#[from] BadUid),
    #[error("no free address left in {0}: delete Pods, or give the node a larger --pod-cidr")]
    Exhausted(Ipv4Net),
    #[error("Pod network {0} is too small: a prefix of at most /29 is needed")]
    TooSmall(Ipv4Net),
    #[error("cannot {step} {}", path.display())]
    File {
        step: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

/// The addresses of one node.
#[derive(Debug)]
pub struct Ipam {
    dir: PathBuf,
    range: Ipv4Net,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    owners: BTreeMap<Ipv4Addr, String>,
    /// The same the other way round: a Pod's own is looked for often, and there may be thousands.
    addresses: BTreeMap<String, Ipv4Addr>,
    /// The address given last: the next search starts behind it, so that an address rests before reuse.
    last: Option<Ipv4Addr>,
}

impl Ipam {
    /// Reads what is given out. Files that are no address, or outside the range, or empty, are removed.
    pub fn open(dir: &Path, range: Ipv4Net) -> Result<Self, IpamError> {
        if range.prefix_len() > 29 {
            return Err(IpamError::TooSmall(range));
        }
        fs::create_dir_all(dir).map_err(|e| file("create", dir, e))?;
        let mut state = State::default();
        for entry in fs::read_dir(dir).map_err(|e| file("list", dir, e))? {
            let path = entry.map_err(|e| file("list", dir, e))?.path();
            match read_owner(&path, range)? {
                Some((ip, uid)) => state.give(ip, uid),
                None => fs::remove_file(&path).map_err(|e| file("remove", &path, e))?,
            }
        }
        state.last = state.owners.keys().next_back().copied();
        Ok(Self {
            dir: dir.to_owned(),
            range,
            state: Mutex::new(state),
        })
    }

    /// The address Pods use as their gateway: the first of the range.
    pub fn gateway(&self) -> Ipv4Addr {
        gateway(self.range)
    }

    /// The Pod's address: the one it has, or a free one that is its from now on.
    pub fn acquire(&self, uid: &str) -> Result<Ipv4Addr, IpamError> {
        check_uid(uid)?;
        let mut state = self.lock();
        if let Some(ip) = state.addresses.get(uid) {
            return Ok(*ip);
        }
        let ip = next_free(self.range, &state).ok_or(IpamError::Exhausted(self.range))?;
        self.write(ip, uid)?;
        state.give(ip, uid.to_owned());
        state.last = Some(ip);
        Ok(ip)
    }

    /// The Pod's address, if it has one.
    pub fn of(&self, uid: &str) -> Option<Ipv4Addr> {
        self.lock().addresses.get(uid).copied()
    }

    /// Takes the Pod's address back; a Pod without one is no error.
    pub fn release(&self, uid: &str) -> Result<(), IpamError> {
        let mut state = self.lock();
        let Some(ip) = state.addresses.get(uid).copied() else {
            return Ok(());
        };
        let path = self.dir.join(ip.to_string());
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(file("remove", &path, e)),
            _ => {
                state.owners.remove(&ip);
                state.addresses.remove(uid);
            }
        }
        Ok(())
    }

    /// The uids of all Pods holding an address.
    pub fn owners(&self) -> Vec<String> {
        self.lock().owners.values().cloned().collect()
    }

    fn write(&self, ip: Ipv4Addr, uid: &str) -> Result<(), IpamError> {
        let (path, whole) = (self.dir.join(ip.to_string()), self.dir.join(format!(".new-{ip}")));
        fs::write(&whole, uid).map_err(|e| file("write", &whole, e))?;
        let linked = fs::hard_link(&whole, &path).map_err(|e| file("create", &path, e));
        fs::remove_file(&whole).map_err(|e| file("remove", &whole, e))?;
        linked
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is changed only after the file was: a panic cannot leave it half-made.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first host address of a range.
pub fn gateway(range: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(range.network()) + 1)
}

impl State {
    fn give(&mut self, ip: Ipv4Addr, uid: String) {
        self.owners.insert(ip, uid.clone());
        self.addresses.insert(uid, ip);
    }
}

fn next_free(range: Ipv4Net, state: &State) -> Option<Ipv4Addr> {
    let first = u32::from(range.network()) + 2;
    let end = u32::from(range.broadcast());
    let start = state.last.map_or(first, |ip| u32::from(ip) + 1).clamp(first, end);
    (start..end)
        .chain(first..start)
        .map(Ipv4Addr::from)
        .find(|ip| !state.owners.contains_key(ip))
}

fn read_owner(path: &Path, range: Ipv4Net) -> Result<Option<(Ipv4Addr, String)>, IpamError> {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let Some(ip) = name.parse::<Ipv4Addr>().ok().filter(|ip| range.contains(ip)) else {
        return Ok(None);
    };
    let uid = fs::read_to_string(path).map_err(|e| file("read", path, e))?;
    Ok(check_uid(&uid).is_ok().then_some((ip, uid)))
}

fn file(step: &'static str, path: &Path, source: io::Error) -> IpamError {
    IpamError::File {
        step,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn the_same_pod_gets_the_same_address_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let ipam = Ipam::open(dir.path(), range("10.1.2.0/24")).unwrap();
        let first = ipam.acquire("a").unwrap();
        assert_eq!(first, Ipv4Addr::new(10, 1, 2, 2));
        assert_eq!(ipam.acquire("a").unwrap(), first);
        assert_ne!(ipam.acquire("b").unwrap(), first);
        let again = Ipam::open(dir.path(), range("10.1.2.0/24")).unwrap();
        assert_eq!(again.acquire("a").unwrap(), first);
        assert_eq!(again.owners(), ["a", "b"]);
    }

    #[test]
    fn a_released_address_rests_before_it_is_given_again() {
        let dir = tempfile::tempdir().unwrap();
        let ipam = Ipam::open(dir.path(), range("10.1.2.0/24")).unwrap();
        let first = ipam.acquire("a").unwrap();
        ipam.release("a").unwrap();
        ipam.release("a").unwrap();
        assert_ne!(ipam.acquire("b").unwrap(), first);
        assert_eq!(ipam.of("a"), None);
    }

    #[test]
    fn a_full_range_is_an_error_and_a_release_makes_room() {
        let dir = tempfile::tempdir().unwrap();
        let ipam = Ipam::open(dir.path(), range("10.1.2.0/29")).unwrap();
        for uid in ["a", "b", "c", "d", "e"] {
            ipam.acquire(uid).unwrap();
        }
        assert!(matches!(ipam.acquire("f"), Err(IpamError::Exhausted(_))));
        ipam.release("c").unwrap();
        assert_eq!(ipam.acquire("f").unwrap(), Ipv4Addr::new(10, 1, 2, 4));
        assert!(Ipam::open(dir.path(), range("10.1.2.0/30")).is_err());
    }

    #[test]
    fn remains_of_a_crash_and_strangers_are_cleared() {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in [
            (".new-10.1.2.5", "x"),
            ("10.1.2.6", ""),
            ("10.9.9.9", "y"),
            ("junk", "z"),
            ("10.1.2.7", "../x"),
        ] {
            fs::write(dir.path().join(name), content).unwrap();
        }
        let ipam = Ipam::open(dir.path(), range("10.1.2.0/24")).unwrap();
        assert!(ipam.owners().is_empty());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
