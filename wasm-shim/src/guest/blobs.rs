//! Containers and objects of `wasi:blobstore`: folders of a volume and the files in them.
//!
//! Owns what is done to whole objects, and parts of them. Refuses to know the interface, and how bytes come from a guest
//! (`blob_body`).

use super::blob_body::Body;
use super::folder::{Folder, Listing, PAGE, Refused, blocking};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::iter::Peekable;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Semaphore;

/// Objects that all guests of a container write at once: what waits for the disk is held by the host.
const MAX_BODIES: usize = 64;

/// All containers of a guest: a directory among its mounts.
#[derive(Debug)]
pub struct Containers {
    folder: Folder,
    bodies: Arc<Semaphore>,
}

/// One container.
#[derive(Debug, Clone)]
pub struct Container {
    pub name: String,
    folder: Folder,
}

/// What is known of an object. Times are seconds since 1970: the draft does not say which unit they have, other hosts
/// take this one.
#[derive(Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    pub created_at: u64,
    pub size: u64,
}

/// An object, or a part of it, to be read: the file it was when it was asked for.
#[derive(Debug)]
pub struct Incoming {
    file: File,
    length: u64,
}

/// An object to be written, and where it is to be once it is finished.
#[derive(Debug, Default)]
pub struct Outgoing {
    pub body: Option<Arc<Body>>,
    pub place: Option<(Container, String)>,
}

/// Names of a container's objects, read little by little.
#[derive(Debug)]
pub struct Names {
    folder: Folder,
    /// The directory, once it was read.
    rest: Option<Peekable<Listing>>,
}

impl Containers {
    /// Those in `folder`.
    pub fn new(folder: Folder) -> Self {
        Self {
            folder,
            bodies: Arc::new(Semaphore::new(MAX_BODIES)),
        }
    }

    /// Makes a container; one that is there already stays as it is.
    ///
    /// # Errors
    /// When none can be made.
    pub fn create(&self, name: String) -> Result<Container, Refused> {
        self.folder.make(&name)?;
        self.get(name)
    }

    /// The container of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self, name: String) -> Result<Container, Refused> {
        let folder = self.folder.enter(&name)?;
        Ok(Container { name, folder })
    }

    /// Removes a container and its objects, also those that are not finished, by whomever; one that is not there is removed already.
    ///
    /// # Errors
    /// When something in it cannot be removed.
    pub fn delete(&self, name: String) -> Result<(), Refused> {
        match self.get(name) {
            Ok(container) => {
                container.clear()?;
                container.folder.sweep(Duration::ZERO)?;
                self.folder.remove(&container.name)
            }
            Err(Refused::NotThere) => self.folder.may_write(),
            Err(error) => Err(error),
        }
    }

    /// Begins the bytes of an object, beside where it is to be if that is known.
    ///
    /// # Errors
    /// When nothing can be written, or too much is being written.
    pub fn begin(&self, target: Option<&Container>) -> Result<Arc<Body>, Refused> {
        let permit = Arc::clone(&self.bodies).try_acquire_owned();
        let permit =
            permit.map_err(|_| Refused::Other(format!("{MAX_BODIES} objects are being written already")))?;
        let folder = target.map_or(&self.folder, |container| &container.folder);
        let (unfinished, file) = folder.begin()?;
        Ok(Body::new(unfinished, file, permit))
    }

    /// Copies an object, to the same or another container, in the place of what is there.
    ///
    /// # Errors
    /// When it is not there, or cannot be written.
    pub fn copy(&self, from: &Container, name: &str, to: &Container, other: &str) -> Result<(), Refused> {
        let source = from.folder.file(name)?.ok_or(Refused::NotThere)?;
        to.folder.receive(source, other)
    }
}

impl Container {
    /// When it was made.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn created_at(&self) -> Result<u64, Refused> {
        Ok(seconds(self.folder.made_at()?))
    }

    /// Bytes of an object from `start` to `end`, both included, as far as it goes.
    ///
    /// # Errors
    /// When it is not there, or has nothing in that place.
    pub fn data(&self, name: &str, start: u64, end: u64) -> Result<Incoming, Refused> {
        let mut file = self.folder.file(name)?.ok_or(Refused::NotThere)?;
        let size = file.metadata()?.len();
        if start > end || start > size {
            return Err(Refused::Other(format!(
                "the object has {size} bytes: none from {start} to {end}"
            )));
        }
        file.seek(SeekFrom::Start(start))?;
        let length = (end - start).saturating_add(1).min(size - start);
        Ok(Incoming { file, length })
    }

    /// What is known of an object; `None` when it is not there.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn info(&self, name: &str) -> Result<Option<ObjectInfo>, Refused> {
        let Some(file) = self.folder.file(name)? else {
            return Ok(None);
        };
        let metadata = file.metadata()?;
        Ok(Some(ObjectInfo {
            created_at: seconds(metadata.modified()?),
            size: metadata.len(),
        }))
    }

    /// Whether there is such an object.
    ///
    /// # Errors
    /// When that cannot be known.
    pub fn has(&self, name: &str) -> Result<bool, Refused> {
        self.folder.has(name)
    }

    /// Removes objects; those that are not there are removed already.
    ///
    /// # Errors
    /// When one cannot be removed.
    pub fn delete(&self, names: &[String]) -> Result<(), Refused> {
        names.iter().try_for_each(|name| self.folder.delete(name))
    }

    /// Removes all objects.
    ///
    /// # Errors
    /// When something in the folder cannot be removed: another has made a directory in it, say.
    pub fn clear(&self) -> Result<(), Refused> {
        loop {
            let names = self.folder.names(0)?.names;
            if names.is_empty() {
                return self.folder.may_write();
            }
            self.delete(&names)?;
        }
    }

    /// The names of its objects.
    pub fn names(&self) -> Names {
        Names {
            folder: self.folder.clone(),
            rest: None,
        }
    }

    /// Moves an object, to this or another container, in the place of what is there.
    ///
    /// # Errors
    /// When it is not there, or cannot be moved.
    pub fn rename(&self, name: &str, to: &Self, other: &str) -> Result<(), Refused> {
        self.folder.rename(name, &to.folder, other)
    }
}

impl Incoming {
    /// Bytes in it.
    pub fn size(&self) -> u64 {
        self.length
    }

    /// All of it.
    ///
    /// # Errors
    /// When it has more bytes than `most`, or cannot be read.
    pub fn read(self, most: usize) -> Result<Vec<u8>, Refused> {
        if self.length > most as u64 {
            return Err(Refused::Other(format!(
                "it has {} bytes; at once {most} can be had, more as a stream",
                self.length
            )));
        }
        let mut bytes = Vec::new();
        self.file.take(self.length).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// The file at its place, and how much of it is to be read.
    pub fn into_parts(self) -> (File, u64) {
        (self.file, self.length)
    }
}

impl Outgoing {
    /// Puts the object in its place once all bytes are written.
    ///
    /// # Errors
    /// When no place was named, or not all could be written.
    pub async fn finish(self, all: Arc<Containers>) -> Result<(), Refused> {
        let (container, name) = self
            .place
            .ok_or_else(|| Refused::Other("no container was told to take it".to_owned()))?;
        let body = match self.body {
            Some(body) => body,
            None => {
                let target = container.clone();
                blocking(move || all.begin(Some(&target))).await?
            }
        };
        body.written().await?;
        blocking(move || body.place(&container.folder, &name)).await
    }
}

impl Names {
    /// These names at their place, leaving none: whoever takes them gives them back.
    pub fn take(&mut self) -> Self {
        Self {
            folder: self.folder.clone(),
            rest: self.rest.take(),
        }
    }

    /// Leaves out the next names. Answers how many there were of these, and whether they were the last.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn skip(&mut self, most: u64) -> Result<(u64, bool), Refused> {
        let mut skipped = 0;
        loop {
            let (names, last) = self.next(most - skipped)?;
            skipped += names.len() as u64;
            if last || skipped == most {
                return Ok((skipped, last));
            }
        }
    }

    /// At most `most` of the next names, and whether they were the last.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn next(&mut self, most: u64) -> Result<(Vec<String>, bool), Refused> {
        let most = usize::try_from(most).unwrap_or(PAGE).min(PAGE);
        let rest = match &mut self.rest {
            Some(rest) => rest,
            none => none.insert(self.folder.listing()?.peekable()),
        };
        let some = rest
            .by_ref()
            .take(most)
            .collect::<Result<Vec<String>, Refused>>()?;
        Ok((some, rest.peek().is_none()))
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn containers(home: &Path, read_only: bool) -> Arc<Containers> {
        let folder = Folder::new(File::open(home).unwrap().into(), read_only);
        Arc::new(Containers::new(folder))
    }

    async fn put(all: &Arc<Containers>, container: &Container, name: &str, bytes: &[u8]) {
        let body = all.begin(None).unwrap();
        body.push(bytes);
        let object = Outgoing {
            body: Some(body),
            place: Some((container.clone(), name.to_owned())),
        };
        object.finish(Arc::clone(all)).await.unwrap();
    }

    fn read(container: &Container, name: &str) -> Vec<u8> {
        container.data(name, 0, u64::MAX).unwrap().read(100).unwrap()
    }

    #[tokio::test]
    async fn an_object_is_there_when_it_is_finished() {
        let home = tempfile::tempdir().unwrap();
        let all = containers(home.path(), false);
        let container = all.create("c".to_owned()).unwrap();
        put(&all, &container, "a/b", b"0123456789").await;
        assert_eq!(std::fs::read(home.path().join("c/a%2Fb")).unwrap(), b"0123456789");
        assert_eq!(container.info("a/b").unwrap().unwrap().size, 10);
        for (start, end, expected) in [
            (0, 0, &b"0"[..]),
            (3, 5, b"345"),
            (8, u64::MAX, b"89"),
            (10, 20, b""),
        ] {
            let part = container.data("a/b", start, end).unwrap();
            assert_eq!(part.size(), expected.len() as u64);
            assert_eq!(part.read(10).unwrap(), expected);
        }
        assert!(container.data("a/b", 11, 12).is_err());
        assert!(container.data("a/b", 2, 1).is_err());
        assert!(container.data("a/b", 0, u64::MAX).unwrap().read(9).is_err());
        assert_eq!(container.data("b", 0, 1).unwrap_err(), Refused::NotThere);
    }

    #[tokio::test]
    async fn what_is_not_finished_leaves_nothing() {
        let home = tempfile::tempdir().unwrap();
        let all = containers(home.path(), false);
        let body = all.begin(None).unwrap();
        body.push(b"half");
        body.written().await.unwrap();
        drop(body);
        // The thread that wrote may hold the file a moment longer.
        let gone = async {
            while std::fs::read_dir(home.path()).unwrap().count() > 0 {
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(std::time::Duration::from_secs(20), gone);
        waited.await.expect("the unfinished object stays");
        let nowhere = Outgoing::default().finish(Arc::clone(&all)).await;
        assert!(matches!(nowhere, Err(Refused::Other(_))));
    }

    #[tokio::test]
    async fn no_more_than_so_many_are_written_at_once() {
        let home = tempfile::tempdir().unwrap();
        let all = containers(home.path(), false);
        let container = all.create("c".to_owned()).unwrap();
        let bodies: Vec<_> = (0..MAX_BODIES)
            .map(|_| all.begin(Some(&container)).unwrap())
            .collect();
        assert!(matches!(all.begin(None), Err(Refused::Other(_))));
        drop(bodies);
        put(&all, &container, "x", b"").await;
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn names_are_all_there_while_those_told_are_removed() {
        const ALL: usize = 3 * PAGE;
        let home = tempfile::tempdir().unwrap();
        let container = containers(home.path(), false).create("c".to_owned()).unwrap();
        for number in 0..ALL {
            File::create(home.path().join(format!("c/{number}"))).unwrap();
        }
        let (mut names, mut told) = (container.names(), 0);
        loop {
            let (some, last) = names.take().next_of(&mut names);
            told += some.len();
            container.delete(&some).unwrap();
            if last {
                break;
            }
        }
        assert_eq!(told, ALL);
        assert_eq!(container.names().skip(10).unwrap(), (0, true));
    }

    impl Names {
        /// As the interface reads them: taken from their place and given back.
        fn next_of(mut self, place: &mut Names) -> (Vec<String>, bool) {
            let answer = self.next(u64::MAX).unwrap();
            *place = self;
            answer
        }
    }

    #[tokio::test]
    async fn copies_moves_and_clearing() {
        let home = tempfile::tempdir().unwrap();
        let all = containers(home.path(), false);
        let (one, two) = (
            all.create("1".to_owned()).unwrap(),
            all.create("2".to_owned()).unwrap(),
        );
        put(&all, &one, "x", b"first").await;
        put(&all, &two, "y", b"second").await;
        all.copy(&one, "x", &two, "y").unwrap();
        assert_eq!(read(&two, "y"), b"first");
        one.rename("x", &two, "z").unwrap();
        assert_eq!((one.has("x"), read(&two, "z")), (Ok(false), b"first".to_vec()));
        assert_eq!(one.rename("x", &two, "z"), Err(Refused::NotThere));
        let (mut names, last) = two.names().next(10).unwrap();
        names.sort();
        assert_eq!((names, last), (vec!["y".to_owned(), "z".to_owned()], true));
        // A process that was killed has left it.
        File::create(home.path().join("2/.12-0")).unwrap();
        all.delete("2".to_owned()).unwrap();
        all.delete("2".to_owned()).unwrap();
        assert_eq!(all.get("2".to_owned()).unwrap_err(), Refused::NotThere);
        let sealed = containers(home.path(), true);
        assert_eq!(sealed.create("1".to_owned()).unwrap_err(), Refused::AccessDenied);
        assert_eq!(sealed.delete("1".to_owned()), Err(Refused::AccessDenied));
    }
}
