//! Addresses of Services as clusters of before kept them: as keys of their own. Each becomes the IPAddress object that
//! it is now, once, before anybody reads the store.
use crate::admission::services::address;
use crate::store::{Op, Range, ReadError, Store, Txn, WriteError};
use std::net::IpAddr;

/// Where they were; the key of the Service was the value.
const BEFORE: &str = "/registry/ranges/serviceips/";
const SERVICES: &str = "/registry/services/specs/";
/// Addresses of one transaction.
const PAGE: usize = 256;

#[derive(Debug, thiserror::Error)]
pub enum AddressesError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Makes the objects, and removes the keys.
pub async fn ensure(store: &dyn Store) -> Result<(), AddressesError> {
    loop {
        let page = Range {
            limit: Some(PAGE),
            ..Range::prefix(BEFORE)
        };
        let found = store.range(page).await?;
        if found.items.is_empty() {
            return Ok(());
        }
        let mut txn = Txn::default();
        for kv in &found.items {
            if let Some(made) = object(&kv.key, &kv.value)
                && store.get(&made.0).await?.is_none()
            {
                txn.ops.push(Op::Put {
                    key: made.0,
                    value: made.1,
                });
            }
            txn.ops.push(Op::Delete {
                key: kv.key.to_string(),
            });
        }
        store.txn(txn).await?;
    }
}

/// The key and the value of the object. None when nobody can be told from the key and the value of before.
fn object(key: &str, value: &[u8]) -> Option<(String, bytes::Bytes)> {
    let ip: IpAddr = key.strip_prefix(BEFORE)?.parse().ok()?;
    let service = std::str::from_utf8(value).ok()?.strip_prefix(SERVICES)?;
    let (namespace, name) = service.split_once('/')?;
    Some((
        format!("{}{ip}", address::KEYS),
        address::stored(ip, namespace, name),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::RedbStore;
    use serde_json::{Value, json};

    #[tokio::test]
    async fn what_was_claimed_before_is_an_object_and_what_is_there_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let store = RedbStore::open(&dir.path().join("s.redb")).unwrap();
        let put = async |key: String, value: String| store.txn(Txn::create(key, value)).await.unwrap();
        for index in 0..600 {
            let ip = format!("10.9.{}.{}", index / 250, index % 250 + 1);
            put(format!("{BEFORE}{ip}"), format!("{SERVICES}n/s{index}")).await;
        }
        put(format!("{}10.9.0.1", address::KEYS), "by hand".to_owned()).await;
        ensure(&store).await.unwrap();
        assert!(store.range(Range::prefix(BEFORE)).await.unwrap().items.is_empty());
        let made = store.range(Range::prefix(address::KEYS)).await.unwrap().items;
        assert_eq!(made.len(), 600);
        assert_eq!(made[0].value, "by hand");
        let second = store
            .get("/registry/ipaddresses/10.9.0.2")
            .await
            .unwrap()
            .unwrap();
        let second: Value = serde_json::from_slice(&second.value).unwrap();
        assert_eq!(
            second["spec"]["parentRef"],
            json!({"resource": "services", "namespace": "n", "name": "s1"})
        );
        let revision = store.revision().await.unwrap();
        ensure(&store).await.unwrap();
        assert_eq!(store.revision().await.unwrap(), revision);
    }
}
