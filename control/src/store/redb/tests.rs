//! Crashes: the process ends between any two steps, or in the middle of the journal's write, and the store is opened
//! again. Whatever was acknowledged is there, whatever was not is there whole or not at all.
use super::*;
use crate::store::{KeyValue, Op};
use bytes::Bytes;
use nix::fcntl::{FcntlArg, SealFlag};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// What a store should say.
#[derive(Clone, Default)]
struct Model {
    keys: BTreeMap<String, Bytes>,
    events: Vec<(Revision, String, Option<Bytes>)>,
}

impl Model {
    fn revision(&self) -> Revision {
        FIRST_REVISION + self.events.len() as u64
    }

    fn change(&mut self, key: String, value: Option<Bytes>) {
        let changes = match &value {
            Some(value) => {
                self.keys.insert(key.clone(), value.clone());
                true
            }
            None => self.keys.remove(&key).is_some(),
        };
        if changes {
            self.events.push((self.revision() + 1, key, value));
        }
    }
}

/// A store without threads: it commits and settles when it is told to.
struct Machine {
    dir: tempfile::TempDir,
    writer: Option<Writer>,
    model: Model,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let writer = Some(recovered(&dir.path().join("s.redb")).unwrap());
        Machine {
            dir,
            writer,
            model: Model::default(),
        }
    }

    fn journal(&self) -> PathBuf {
        self.dir.path().join("s.journal")
    }

    fn commit(&mut self, changes: &[(String, Option<Bytes>)]) {
        let txns = changes.iter().cloned().map(|(key, value)| Txn {
            compare: Vec::new(),
            ops: vec![match value {
                Some(value) => Op::Put { key, value },
                None => Op::Delete { key },
            }],
        });
        self.writer.as_mut().unwrap().commit(txns.collect()).unwrap();
        for (key, value) in changes {
            self.model.change(key.clone(), value.clone());
        }
    }

    fn settle(&self) {
        let pending = &self.writer.as_ref().unwrap().pending;
        pending.close();
        settler::run(pending);
    }

    /// Ends without settling; between the end and the next beginning `meanwhile` happens to the files.
    fn crash(&mut self, meanwhile: impl FnOnce(&Self)) {
        drop(self.writer.take());
        meanwhile(self);
        self.writer = Some(recovered(&self.dir.path().join("s.redb")).unwrap());
    }

    /// Commits, but the sectors of that frame for which `lost` says so are as they were before. Whether it is not whole.
    fn torn(&mut self, change: (String, Option<Bytes>), lost: impl Fn(usize) -> bool) -> bool {
        let (mut torn, model) = (std::fs::read(self.journal()).unwrap(), self.model.clone());
        self.commit(&[change]);
        let whole = std::fs::read(self.journal()).unwrap();
        torn.resize(whole.len(), 0);
        let sectors = (0..whole.len()).step_by(frame::ALIGN);
        let changed = |at: &usize| whole[*at..at + frame::ALIGN] != torn[*at..at + frame::ALIGN];
        let changed: Vec<usize> = sectors.filter(changed).collect();
        for (_, at) in changed.iter().enumerate().filter(|(number, _)| !lost(*number)) {
            let sector = *at..at + frame::ALIGN;
            torn[sector.clone()].copy_from_slice(&whole[sector]);
        }
        self.crash(|machine| std::fs::write(machine.journal(), &torn).unwrap());
        // What it should have been may be there from before.
        let there = |bytes: &[u8]| {
            let from = &bytes[*changed.first()?..];
            frame::decode(u64::from_le_bytes(from[8..16].try_into().ok()?), from)
        };
        let is_torn = !changed.is_empty() && there(&torn) != there(&whole);
        if is_torn {
            self.model = model;
        }
        is_torn
    }

    /// Everything that can be read is what the model says.
    fn check(&self) {
        let pending = &self.writer.as_ref().unwrap().pending;
        assert_eq!(pending.newest(), self.model.revision());
        let found = pending
            .view_of(&Range::prefix(""))
            .range(&Range::prefix(""))
            .unwrap();
        let text = |kv: &KeyValue| (kv.key.to_string(), kv.value.clone());
        let keys: BTreeMap<_, _> = found.items.iter().map(text).collect();
        assert_eq!(keys, self.model.keys);
        assert!(found.items.is_sorted_by_key(|kv| kv.key.clone()));
        let events = pending
            .view_since(FIRST_REVISION)
            .events_after(FIRST_REVISION)
            .unwrap();
        let now = |event: &Event| event.now.as_ref().map(|kv| kv.value.clone());
        let events: Vec<_> = events
            .iter()
            .map(|e| (e.revision, e.key.to_string(), now(e)))
            .collect();
        assert_eq!(events, self.model.events);
        let half = Range {
            revision: Some(self.model.revision().div_ceil(2)),
            ..Range::prefix("")
        };
        let mut then = Model::default();
        for (_, key, value) in &self.model.events[..(half.revision.unwrap() - FIRST_REVISION) as usize] {
            then.change(key.clone(), value.clone());
        }
        let found = pending.view_of(&half).range(&half).unwrap();
        assert_eq!(
            found.items.iter().map(text).collect::<BTreeMap<_, _>>(),
            then.keys
        );
    }
}

fn value(fill: u8, size: usize) -> Option<Bytes> {
    Some(vec![fill; size].into())
}

#[test]
fn a_frame_of_which_any_part_is_missing_never_was() {
    for sectors in 1..6usize {
        for lost in 0..1usize << sectors {
            let mut machine = Machine::new();
            machine.commit(&[("a".into(), value(1, 700)), ("b".into(), value(2, 10))]);
            let size = sectors * frame::ALIGN - 100;
            let torn = machine.torn(("a".into(), value(3, size)), |sector| lost >> sector & 1 == 1);
            assert_eq!(torn, lost != 0);
            machine.check();
            machine.commit(&[("c".into(), value(4, 2000)), ("b".into(), None)]);
            machine.crash(|_| ());
            machine.check();
        }
    }
}

#[test]
fn a_torn_frame_is_not_completed_by_the_next_torn_one() {
    let mut machine = Machine::new();
    assert!(machine.torn(("a".into(), value(9, 472)), |sector| sector == 1));
    machine.check();
    assert!(machine.torn(("a".into(), value(9, 473)), |sector| sector == 0));
    machine.check();
}

#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<(u8, Option<(u8, usize)>)>),
    Settle,
    Crash,
    Torn(u8, usize, u64),
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![4 => 0..2000usize, 1 => 0..150_000usize];
    let change = (0..12u8, prop::option::weighted(0.8, (any::<u8>(), size.clone())));
    prop_oneof![
        6 => prop::collection::vec(change, 1..5).prop_map(Step::Commit),
        2 => Just(Step::Settle),
        1 => Just(Step::Crash),
        1 => (0..12u8, size, any::<u64>()).prop_map(|(key, size, lost)| Step::Torn(key, size, lost)),
    ]
}

fn key(number: u8) -> String {
    format!("/k/{number}")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn whatever_happens_in_between_the_store_says_what_was_committed(steps in prop::collection::vec(step(), 1..40)) {
        let mut machine = Machine::new();
        for step in steps {
            match step {
                Step::Commit(changes) => {
                    let changes = changes.into_iter().map(|(of, to)| (key(of), to.and_then(|(fill, size)| value(fill, size))));
                    machine.commit(&changes.collect::<Vec<_>>());
                }
                Step::Settle => machine.settle(),
                Step::Crash => machine.crash(|_| ()),
                Step::Torn(of, size, lost) => {
                    machine.torn((key(of), value(9, size)), |sector| lost >> (sector % 64) & 1 == 1);
                }
            }
            machine.check();
        }
    }
}

#[test]
fn a_journal_that_is_damaged_before_its_end_is_not_passed_over() {
    let mut machine = Machine::new();
    for number in 0..3 {
        machine.commit(&[(key(number), value(number, 100))]);
    }
    drop(machine.writer.take());
    let file = OpenOptions::new().write(true).open(machine.journal()).unwrap();
    file.write_all_at(b"x", frame::ALIGN as u64 + 60).unwrap();
    let error = RedbStore::open(&machine.dir.path().join("s.redb"))
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("it has revision 4") && error.contains("revision 2"),
        "{error}"
    );
}

#[test]
fn an_older_copy_of_the_tables_does_not_fit_the_journal() {
    let mut machine = Machine::new();
    drop(machine.writer.take());
    let tables = machine.dir.path().join("s.redb");
    let old = std::fs::read(&tables).unwrap();
    machine.crash(|_| ());
    for number in 0..3 {
        machine.commit(&[(key(number), value(number, 100_000))]);
        machine.settle();
    }
    machine.commit(&[(key(3), value(3, 100))]);
    drop(machine.writer.take());
    std::fs::write(&tables, old).unwrap();
    assert!(RedbStore::open(&tables).is_err());
}

/// A file of two that is gone, empty or cut is no new store, also before anything has come to the tables.
#[test]
fn a_store_of_which_a_part_is_lost_is_not_taken_for_a_new_one() {
    let file = |path: &Path| OpenOptions::new().write(true).open(path).unwrap();
    let remove = |path: &Path| std::fs::remove_file(path).unwrap();
    let empty = |path: &Path| file(path).set_len(0).unwrap();
    let cut = |path: &Path| file(path).set_len(1000).unwrap();
    type Damage<'a> = &'a dyn Fn(&Path);
    let damages: [(&str, Damage<'_>, &str); 5] = [
        ("s.redb", &remove, "it is gone or empty"),
        ("s.redb", &empty, "it is gone or empty"),
        ("s.journal", &remove, "0 of"),
        ("s.journal", &empty, "0 of"),
        ("s.journal", &cut, "1000 of"),
    ];
    for settles in [false, true] {
        for (name, damage, expected) in &damages {
            let mut machine = Machine::new();
            machine.commit(&[("a".into(), value(1, 100))]);
            if settles {
                machine.settle();
            }
            drop(machine.writer.take());
            damage(&machine.dir.path().join(name));
            for _ in 0..2 {
                let error = RedbStore::open(&machine.dir.path().join("s.redb")).err().unwrap();
                assert!(error.to_string().contains(expected), "{error}");
            }
        }
    }
}

/// Who gives up what is lost goes on with what the tables have.
#[test]
fn an_emptied_journal_of_full_size_is_taken() {
    let mut machine = Machine::new();
    machine.commit(&[("a".into(), value(1, 100))]);
    machine.settle();
    machine.crash(|machine| {
        let file = OpenOptions::new().write(true).open(machine.journal()).unwrap();
        let size = file.metadata().unwrap().len();
        file.set_len(0).unwrap();
        file.set_len(size).unwrap();
    });
    machine.check();
}

#[test]
fn the_journal_of_another_store_is_not_read() {
    let (mut one, other) = (Machine::new(), Machine::new());
    let mut other = other;
    other.commit(&[(key(1), value(1, 100))]);
    one.crash(|one| {
        std::fs::copy(other.journal(), one.journal()).unwrap();
    });
    one.check();
}

#[test]
fn a_store_from_before_the_journal_goes_on() {
    let mut machine = Machine::new();
    machine.commit(&[(key(1), value(1, 100))]);
    machine.settle();
    {
        let write = begin(&machine.writer.as_ref().unwrap().pending.db).unwrap();
        let mut tables = Tables::open(&write).unwrap();
        tables.meta.insert("format", FORMAT_WITHOUT_JOURNAL).unwrap();
        tables.meta.remove("identity").unwrap();
        tables.meta.remove("journal").unwrap();
        tables.meta.remove("journal_size").unwrap();
        drop(tables);
        write.commit().unwrap();
    }
    machine.crash(|machine| std::fs::remove_file(machine.journal()).unwrap());
    machine.check();
    machine.commit(&[(key(2), value(2, 100))]);
    machine.crash(|_| ());
    machine.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn much_more_than_the_journal_holds_goes_through_it() {
    const TASKS: usize = 8;
    const EACH: usize = 120;
    const SIZE: usize = 64 << 10;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.redb");
    let store = Arc::new(RedbStore::open(&path).unwrap());
    let tasks = (0..TASKS).map(|task| {
        let store = store.clone();
        tokio::spawn(async move {
            for number in 0..EACH {
                let key = format!("/k/{task}/{number:03}");
                let txn = Txn::create(key.clone(), vec![number as u8; SIZE]);
                let TxnOutcome::Committed { revision } = store.txn(txn).await.unwrap() else {
                    panic!("{key} is new")
                };
                let kv = store.get(&key).await.unwrap().unwrap();
                assert_eq!((kv.mod_revision, kv.value[0]), (revision, number as u8));
                let own = store.range(Range::prefix(format!("/k/{task}/"))).await.unwrap();
                assert_eq!(own.items.len(), number + 1);
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let journal = std::fs::metadata(dir.path().join("s.journal")).unwrap().len();
    assert!((ring::SMALLEST..=ring::LARGEST).contains(&journal), "{journal}");
    drop(store);
    let store = RedbStore::open(&path).unwrap();
    assert_eq!(
        store.range(Range::prefix("/k/")).await.unwrap().items.len(),
        TASKS * EACH
    );
}

/// Commits one change and says whether it was refused; the model does not learn of it.
fn is_refused(machine: &mut Machine, key: &str) -> bool {
    let txn = Txn {
        compare: Vec::new(),
        ops: vec![Op::Put {
            key: key.to_owned(),
            value: Bytes::from_static(b"lost"),
        }],
    };
    machine.writer.as_mut().unwrap().commit(vec![txn]).is_err()
}

fn device(path: &str) -> std::fs::File {
    OpenOptions::new().write(true).open(path).unwrap()
}

/// `/dev/full` takes no write, `/dev/null` no fdatasync.
#[test]
fn what_the_disk_did_not_take_was_never_there() {
    for path in ["/dev/full", "/dev/null"] {
        let mut machine = Machine::new();
        machine.commit(&[("a".into(), value(1, 100))]);
        let file = machine.writer.as_mut().unwrap().journal.put_on(device(path));
        assert!(is_refused(&mut machine, "b"), "{path}");
        assert!(machine.writer.as_ref().unwrap().failing.load(Ordering::Acquire));
        assert!(is_refused(&mut machine, "c"), "{path}");
        machine.check();
        drop(machine.writer.as_mut().unwrap().journal.put_on(file));
        machine.commit(&[("d".into(), value(2, 2000))]);
        assert!(!machine.writer.as_ref().unwrap().failing.load(Ordering::Acquire));
        machine.check();
        machine.crash(|_| {});
        machine.check();
    }
}

/// The frame may be whole on disk although fdatasync failed: what comes after it must not make it count.
#[test]
fn what_was_refused_stays_refused_though_it_reached_the_disk() {
    let mut machine = Machine::new();
    machine.commit(&[("a".into(), value(1, 100))]);
    let before = std::fs::read(machine.journal()).unwrap();
    assert!(!is_refused(&mut machine, "b"));
    let reached = std::fs::read(machine.journal()).unwrap();
    machine.crash(|machine| std::fs::write(machine.journal(), &before).unwrap());
    machine.check();
    let file = machine
        .writer
        .as_mut()
        .unwrap()
        .journal
        .put_on(device("/dev/null"));
    assert!(is_refused(&mut machine, "b"));
    std::fs::write(machine.journal(), &reached).unwrap();
    drop(machine.writer.as_mut().unwrap().journal.put_on(file));
    machine.commit(&[("c".into(), value(2, 100))]);
    machine.check();
    machine.crash(|_| {});
    machine.check();
}

#[tokio::test]
async fn a_store_whose_disk_fails_says_so_and_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.redb");
    let mut writer = recovered(&path).unwrap();
    let put = |key: &str| Txn {
        compare: Vec::new(),
        ops: vec![Op::Put {
            key: key.to_owned(),
            value: Bytes::from_static(b"x"),
        }],
    };
    writer.commit(vec![put("/a")]).unwrap();
    let file = writer.journal.put_on(device("/dev/null"));
    let store = RedbStore::start(writer, &path).unwrap();
    assert!(store.writable().await.is_ok());
    assert!(store.txn(put("/b")).await.is_err());
    assert!(store.writable().await.is_err());
    assert!(store.get("/a").await.unwrap().is_some());
    assert!(store.get("/b").await.unwrap().is_none());
    drop((store, file));
    let store = RedbStore::open(&dir.path().join("s.redb")).unwrap();
    assert!(store.writable().await.is_ok());
    assert!(store.get("/a").await.unwrap().is_some());
    assert!(store.get("/b").await.unwrap().is_none());
}

/// A disk that is full: no file grows on it.
fn of_fixed_size(size: u64) -> std::fs::File {
    let flags = nix::sys::memfd::MFdFlags::MFD_ALLOW_SEALING;
    let file: std::fs::File = nix::sys::memfd::memfd_create("full", flags).unwrap().into();
    file.set_len(size).unwrap();
    nix::fcntl::fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_GROW)).unwrap();
    file
}

#[tokio::test]
async fn a_full_disk_takes_what_fits_when_older_changes_are_settled() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.redb");
    let mut writer = recovered(&path).unwrap();
    drop(writer.journal.put_on(of_fixed_size(ring::SMALLEST)));
    let store = RedbStore::start(writer, &path).unwrap();
    for number in 0..20 {
        let txn = Txn::create(format!("/k/{number:02}"), vec![number; 64 << 10]);
        assert!(store.txn(txn).await.is_ok(), "{number}");
    }
    assert_eq!(store.range(Range::prefix("/k/")).await.unwrap().items.len(), 20);
    let too_large = Txn::create("/k/large", vec![0; 512 << 10]);
    assert!(store.txn(too_large).await.is_err());
    assert!(store.writable().await.is_ok());
}

#[tokio::test]
async fn its_size_is_what_both_files_take() {
    let dir = tempfile::tempdir().unwrap();
    let store = RedbStore::open(&dir.path().join("s.redb")).unwrap();
    store.txn(Txn::create("/k", vec![7; 64 << 10])).await.unwrap();
    let size = store.size().await.unwrap();
    assert!(size >= 64 << 10, "{size}");
    std::fs::remove_file(dir.path().join("s.journal")).unwrap();
    assert!(store.size().await.is_err());
}
