//! A store whose process is killed keeps every write that it acknowledged.
use amphipod_control::store::{Range, RedbStore, Store, Txn, TxnOutcome};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Where the child of the test works; without it the child does nothing.
const DIR: &str = "AMPHIPOD_TEST_CRASH_DIR";
const WRITERS: usize = 8;
/// Acknowledgements to see before the kill.
const ACKNOWLEDGED: usize = 200;

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
            let mut notes = std::fs::File::create(notes).unwrap();
            for number in 0.. {
                let key = format!("/k/{writer}/{number}");
                let outcome = store.txn(Txn::create(key.clone(), key.clone())).await.unwrap();
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

#[tokio::test]
async fn an_acknowledged_write_survives_the_kill_of_its_process() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["crash::child", "--exact"])
        .env(DIR, dir.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(120);
    while acknowledged(dir.path()).len() < ACKNOWLEDGED {
        assert!(Instant::now() < deadline, "the child wrote too little");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    child.kill().unwrap();
    child.wait().unwrap();

    let written = acknowledged(dir.path());
    let store = RedbStore::open(&dir.path().join("store.redb")).unwrap();
    for (key, revision) in &written {
        let kv = store
            .get(key)
            .await
            .unwrap()
            .unwrap_or_else(|| panic!("{key} is lost"));
        assert_eq!((kv.mod_revision, &kv.value[..]), (*revision, key.as_bytes()));
    }
    let found = store.range(Range::prefix("/k/")).await.unwrap();
    assert_eq!(
        found.revision,
        1 + found.items.len() as u64,
        "revisions have no gaps"
    );
}
