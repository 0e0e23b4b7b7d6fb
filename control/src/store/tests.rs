//! The store's promises, on a real file.
use super::*;
use futures::StreamExt;

fn open(dir: &tempfile::TempDir) -> RedbStore {
    RedbStore::open(&dir.path().join("store.redb")).unwrap()
}

async fn put(store: &RedbStore, key: &str, value: &'static str) -> Revision {
    let at = store.get(key).await.unwrap().map_or(0, |kv| kv.mod_revision);
    match store.txn(Txn::swap(key, at, value)).await.unwrap() {
        TxnOutcome::Committed { revision } => revision,
        conflict => panic!("{conflict:?}"),
    }
}

async fn remove(store: &RedbStore, key: &str) -> Revision {
    let at = store.get(key).await.unwrap().unwrap().mod_revision;
    match store.txn(Txn::remove(key, at)).await.unwrap() {
        TxnOutcome::Committed { revision } => revision,
        conflict => panic!("{conflict:?}"),
    }
}

async fn keys(store: &RedbStore, range: Range) -> Vec<(String, String)> {
    let found = store.range(range).await.unwrap();
    found
        .items
        .iter()
        .map(|kv| (kv.key.to_string(), String::from_utf8_lossy(&kv.value).into()))
        .collect()
}

fn pairs(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

#[tokio::test]
async fn revisions_count_creations_and_changes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    assert_eq!(store.revision().await.unwrap(), 1);
    assert_eq!(put(&store, "/a", "1").await, 2);
    assert_eq!(put(&store, "/a", "2").await, 3);
    let kv = store.get("/a").await.unwrap().unwrap();
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (2, 3, 2));
}

#[tokio::test]
async fn a_stale_compare_is_a_conflict_with_the_current_value() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    put(&store, "/a", "1").await;
    let outcome = store.txn(Txn::create("/a", "x")).await.unwrap();
    let TxnOutcome::Conflict {
        key,
        current: Some(current),
    } = outcome
    else {
        panic!("{outcome:?}")
    };
    assert_eq!((key.as_str(), &current.value[..]), ("/a", &b"1"[..]));
    assert_eq!(store.revision().await.unwrap(), 2);
}

#[tokio::test]
async fn a_transaction_is_all_or_nothing_and_one_revision() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    put(&store, "/taken", "1").await;
    let mut txn = Txn::create("/a", "1");
    txn.ops.push(Op::Put {
        key: "/b".into(),
        value: "1".into(),
    });
    let mut refused = txn.clone();
    refused.compare.push(Compare {
        key: "/taken".into(),
        mod_revision: 0,
    });
    assert!(matches!(store.txn(refused).await.unwrap(), TxnOutcome::Conflict { key, .. } if key == "/taken"));
    assert!(store.get("/a").await.unwrap().is_none());
    assert_eq!(
        store.txn(txn).await.unwrap(),
        TxnOutcome::Committed { revision: 3 }
    );
    assert_eq!(store.get("/b").await.unwrap().unwrap().mod_revision, 3);
}

#[tokio::test]
async fn ranges_page_and_read_the_past() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    for key in ["/p/a", "/p/b", "/p/c", "/q/x"] {
        put(&store, key, "1").await;
    }
    let then = store.revision().await.unwrap();
    put(&store, "/p/a", "2").await;
    remove(&store, "/p/b").await;
    put(&store, "/p/d", "1").await;
    assert_eq!(
        keys(&store, Range::prefix("/p/")).await,
        pairs(&[("/p/a", "2"), ("/p/c", "1"), ("/p/d", "1")])
    );
    let past = Range {
        revision: Some(then),
        limit: Some(2),
        ..Range::prefix("/p/")
    };
    assert_eq!(
        keys(&store, past.clone()).await,
        pairs(&[("/p/a", "1"), ("/p/b", "1")])
    );
    assert!(store.range(past.clone()).await.unwrap().more);
    let rest = Range {
        after: Some("/p/b".into()),
        ..past
    };
    assert_eq!(keys(&store, rest).await, pairs(&[("/p/c", "1")]));
    let future = Range {
        revision: Some(99),
        ..Range::prefix("/p/")
    };
    assert!(matches!(store.range(future).await, Err(ReadError::Future { .. })));
}

#[tokio::test]
async fn a_watch_replays_history_and_goes_on_live() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    put(&store, "/a", "1").await;
    put(&store, "/a", "2").await;
    let mut watch = store.watch(2).await.unwrap();
    remove(&store, "/a").await;
    let changed = watch.next().await.unwrap().unwrap();
    assert_eq!(changed.revision, 3);
    assert_eq!(changed.events[0].now.as_ref().unwrap().value, "2");
    assert_eq!(changed.events[0].before.as_ref().unwrap().value, "1");
    let removed = watch.next().await.unwrap().unwrap();
    assert_eq!((removed.revision, &removed.events[0].now), (4, &None));
}

#[tokio::test]
async fn compaction_forgets_history_but_no_key() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    put(&store, "/a", "1").await;
    let mid = put(&store, "/a", "2").await;
    put(&store, "/a", "3").await;
    store.compact(mid).await.unwrap();
    assert!(matches!(store.watch(1).await, Err(WatchError::Compacted { .. })));
    let old = Range {
        revision: Some(2),
        ..Range::prefix("/")
    };
    assert!(matches!(store.range(old).await, Err(ReadError::Compacted { .. })));
    let at_mid = Range {
        revision: Some(mid),
        ..Range::prefix("/")
    };
    assert_eq!(keys(&store, at_mid).await, pairs(&[("/a", "2")]));
    let mut watch = store.watch(mid).await.unwrap();
    assert_eq!(
        watch.next().await.unwrap().unwrap().events[0]
            .before
            .as_ref()
            .unwrap()
            .value,
        "2"
    );
}

#[tokio::test]
async fn a_reopened_store_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    put(&store, "/a", "1").await;
    drop(store);
    let store = open(&dir);
    assert_eq!(store.revision().await.unwrap(), 2);
    assert_eq!(put(&store, "/b", "1").await, 3);
}

#[tokio::test]
async fn a_second_opener_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let _store = open(&dir);
    let again = RedbStore::open(&dir.path().join("store.redb"));
    assert!(matches!(again, Err(OpenError::InUse { .. })));
}

#[tokio::test]
async fn concurrent_writers_share_commits_and_lose_nothing() {
    const WRITERS: u64 = 64;
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(open(&dir));
    let tasks = (0..WRITERS).map(|i| {
        let store = store.clone();
        tokio::spawn(async move { store.txn(Txn::create(format!("/k/{i}"), "v")).await.unwrap() })
    });
    for task in tasks.collect::<Vec<_>>() {
        assert!(matches!(task.await.unwrap(), TxnOutcome::Committed { .. }));
    }
    assert_eq!(
        store.range(Range::prefix("/k/")).await.unwrap().items.len() as u64,
        WRITERS
    );
    assert_eq!(store.revision().await.unwrap(), 1 + WRITERS);
}
