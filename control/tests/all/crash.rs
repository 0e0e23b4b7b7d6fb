//! A store whose process is killed keeps every write that it acknowledged.
use amphipod_control::store::{Range, RedbStore, Store, Txn, TxnOutcome};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Where the child of the test works; without it the child does nothing.
const DIR: &str = "AMPHIPOD_TEST_CRASH_DIR";
const WRITERS: usize = 8;
/// Of one value: large enough that the tables are written to, too, before a kill.
const SIZE: usize = 32 << 10;
/// Acknowledgements to see before each kill.
const ACKNOWLEDGED: [usize; 4] = [20, 300, 700, 900];

fn value(key: &str) -> Vec<u8> {
    key.bytes().cycle().take(SIZE).collect()
}

/// Not a test of its own: the process that is killed. Writes for ever, and notes each acknowledgement.
#[tokio::test(flavor = "multi_thread")]
async fn child() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else {
        return;
    };
    let store = std::sync::Arc::new(RedbStore::open(&dir.join("store.redb")).unwrap());
    let tasks = (0..WRITERS).map(|writer| {
        let (store, notes) = (store.clone(), dir.join(format!("acks.{writer}")));
        tokio::spawn(async move {
            let mut notes = std::fs::File::options()
                .create(true)
                .append(true)
                .open(notes)
                .unwrap();
            let life = store.revision().await.unwrap();
            for number in 0.. {
                let key = format!("/k/{writer}/{life}/{number}");
                let outcome = store.txn(Txn::create(key.clone(), value(&key))).await.unwrap();
                let TxnOutcome::Committed { revision } = outcome else {
                    panic!("{outcome:?}")
                };
                writeln!(notes, "{key} {revision}").unwrap();
            }
        })
    });
    futures::future::join_all(tasks).await;
}

fn acknowledged(dir: &Path) -> Vec<(String, u64)> {
    let notes =
        (0..WRITERS).filter_map(|writer| std::fs::read_to_string(dir.join(format!("acks.{writer}"))).ok());
    let lines: Vec<String> = notes
        .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let parse = |line: &String| {
        line.split_once(' ')
            .and_then(|(k, r)| Some((k.to_owned(), r.parse().ok()?)))
    };
    lines.iter().filter_map(parse).collect()
}

/// Starts the child and kills it when it has noted as many acknowledgements.
async fn killed_after(dir: &Path, acknowledgements: usize) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["crash::child", "--exact"])
        .env(DIR, dir)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(120);
    while acknowledged(dir).len() < acknowledgements {
        assert!(Instant::now() < deadline, "the child wrote too little");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn an_acknowledged_write_survives_each_kill_of_its_process() {
    let dir = tempfile::tempdir().unwrap();
    for acknowledgements in ACKNOWLEDGED {
        killed_after(dir.path(), acknowledgements).await;
    }
    let written = acknowledged(dir.path());
    let store = RedbStore::open(&dir.path().join("store.redb")).unwrap();
    for (key, revision) in &written {
        let kv = store
            .get(key)
            .await
            .unwrap()
            .unwrap_or_else(|| panic!("{key} is lost"));
        assert_eq!(
            (kv.mod_revision, kv.value == value(key)),
            (*revision, true),
            "{key}"
        );
    }
    let found = store.range(Range::prefix("/k/")).await.unwrap();
    assert_eq!(
        found.revision,
        1 + found.items.len() as u64,
        "revisions have no gaps"
    );
}
