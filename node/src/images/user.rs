//! Who a user name is, by the image's own accounts (OCI image-spec, config.md, `User`).

use std::io::Read;
use std::path::Path;

use super::content::Layout;
use super::digest::Digest;
use super::merged;

/// Account files are read up to this size; larger ones belong to no container.
const MAX_ACCOUNTS_BYTES: u64 = 1 << 20;
/// Largest id the CRI can carry (int64 in the API, but Linux and containerd stop at 2^31 - 1).
const MAX_ID: u32 = i32::MAX as u32;

/// Who a container's first process is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerUser {
    pub uid: u32,
    pub gid: u32,
    /// Groups the image's `/etc/group` puts the user in.
    pub additional_gids: Vec<u32>,
    /// From `/etc/passwd`; empty when the user is not in it.
    pub home: String,
}

/// Why a user is nobody.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    #[error("unable to find user {0}: no matching entries in passwd file")]
    NoUser(String),
    #[error("unable to find group {0}: no matching entries in group file")]
    NoGroup(String),
    #[error("cannot read {file} of the image: {source}")]
    Read {
        file: &'static str,
        source: std::io::Error,
    },
}

/// Resolves `user[:group]`, each a name or a number. Empty means root.
pub fn resolve(layout: &Layout, diff_ids: &[Digest], spec: &str) -> Result<ContainerUser, UserError> {
    let passwd = read(layout, diff_ids, "etc/passwd")?;
    let group = read(layout, diff_ids, "etc/group")?;
    lookup(&passwd, &group, spec)
}

fn read(layout: &Layout, diff_ids: &[Digest], file: &'static str) -> Result<String, UserError> {
    let failed = |source| UserError::Read { file, source };
    let Some(opened) = merged::open(layout, diff_ids, Path::new(file)).map_err(failed)? else {
        return Ok(String::new());
    };
    let mut bytes = Vec::new();
    opened
        .take(MAX_ACCOUNTS_BYTES)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The decision over the two files' text.
fn lookup(passwd: &str, group: &str, spec: &str) -> Result<ContainerUser, UserError> {
    let (user, wanted_group) = spec
        .split_once(':')
        .map_or((spec, ""), |(user, group)| (user, group));
    let user = if user.is_empty() { "0" } else { user };
    let accounts = || passwd.lines().filter_map(Account::parse);
    let number = id(user);
    let account = match number {
        Some(uid) => accounts().find(|account| account.uid == uid),
        None => Some(
            accounts()
                .find(|account| account.name == user)
                .ok_or_else(|| UserError::NoUser(user.into()))?,
        ),
    };
    let uid = account
        .as_ref()
        .map_or(number.unwrap_or_default(), |account| account.uid);
    let groups = || group.lines().filter_map(Group::parse);
    let gid = match (wanted_group, id(wanted_group)) {
        ("", _) => account.as_ref().map_or(0, |account| account.gid),
        (_, Some(gid)) => gid,
        (name, None) => {
            let found = groups().find(|group| group.name == name);
            found.ok_or_else(|| UserError::NoGroup(name.into()))?.gid
        }
    };
    let name = account.as_ref().map(|account| account.name);
    let member =
        |group: &Group<'_>| name.is_some_and(|name| group.members.split(',').any(|member| member == name));
    let additional_gids = match wanted_group {
        "" => groups().filter(member).map(|group| group.gid).collect(),
        _ => Vec::new(),
    };
    let home = account.map_or_else(String::new, |account| account.home.to_owned());
    Ok(ContainerUser {
        uid,
        gid,
        additional_gids,
        home,
    })
}

/// A number in range; everything else is a name.
fn id(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|id| digits && *id <= MAX_ID)
}

/// A line of passwd(5).
struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> Account<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid = id(fields.nth(1)?)?;
        let gid = id(fields.next()?)?;
        let home = fields.nth(1).unwrap_or_default();
        Some(Self { name, uid, gid, home })
    }
}

/// A line of group(5).
struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl<'a> Group<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let gid = id(fields.nth(1)?)?;
        Some(Self {
            name,
            gid,
            members: fields.next().unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\nnginx:x:101:102:n:/var/www:/sbin/nologin\n";
    const GROUP: &str = "root:x:0:\nwww:x:33:nginx,other\nnginx:x:102:\nlogs:x:7:nginx\n";

    fn check(spec: &str, uid: u32, gid: u32, additional: &[u32]) {
        let user = lookup(PASSWD, GROUP, spec).unwrap();
        assert_eq!(
            (user.uid, user.gid, &user.additional_gids[..]),
            (uid, gid, additional),
            "{spec:?}"
        );
    }

    #[test]
    fn users_by_name_and_number() {
        check("", 0, 0, &[]);
        check("nginx", 101, 102, &[33, 7]);
        check("101", 101, 102, &[33, 7]);
        check("nginx:www", 101, 33, &[]);
        check("5000", 5000, 0, &[]);
        check("5000:6000", 5000, 6000, &[]);
        check(":www", 0, 33, &[]);
        assert_eq!(lookup(PASSWD, GROUP, "nginx").unwrap().home, "/var/www");
    }

    #[test]
    fn nobody_becomes_root_by_accident() {
        for bad in [
            "nosuchuser",
            "4294967296",
            "-1",
            "2147483648",
            "0x0",
            "nginx:nogroup",
            "nginx:-1",
            "broken",
        ] {
            assert!(lookup(PASSWD, GROUP, bad).is_err(), "{bad}");
        }
    }
}
