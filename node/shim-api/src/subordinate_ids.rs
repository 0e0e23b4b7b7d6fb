//! The form of /etc/subuid and /etc/subgid (subuid(5)): which ids of the host are given to whom. What they are used for
//! is for others to know.

/// One line: `OWNER:FIRST:COUNT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// A user's name, or his number.
    pub owner: String,
    pub first: u32,
    pub count: u32,
}

/// Lines of another form are no entries.
pub fn entries(text: &str) -> impl Iterator<Item = Entry> {
    text.lines().filter_map(|line| {
        let mut parts = line.trim().split(':');
        Some(Entry {
            owner: parts.next()?.to_owned(),
            first: parts.next()?.parse().ok()?,
            count: parts.next()?.parse().ok()?,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_are_no_entries_are_none() {
        let text = "me:100000:65536\n# comment\n\n1000:1:2\nbad\nx:-1:5\ny:1:4294967296\n";
        let seen: Vec<_> = entries(text).map(|e| (e.owner, e.first, e.count)).collect();
        assert_eq!(seen, [("me".into(), 100_000, 65_536), ("1000".into(), 1, 2)]);
    }
}
