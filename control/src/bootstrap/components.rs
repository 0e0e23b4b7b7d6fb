//! ComponentStatuses: what upstream asks of its scheduler, its controllers and its store. Here they are this very
//! program, so that whoever can ask finds them well.
use crate::api::encode;
use crate::store::{Store, Txn, WriteError};
use serde_json::json;

/// As upstream's, whose clients look for these names.
const COMPONENTS: [&str; 3] = ["controller-manager", "etcd-0", "scheduler"];

/// Puts them into the store, where no client can write them.
pub async fn ensure(store: &dyn Store) -> Result<(), WriteError> {
    for name in COMPONENTS {
        let key = format!("/registry/componentstatuses/{name}");
        let object = json!({
            "apiVersion": "v1", "kind": "ComponentStatus", "metadata": {"name": name},
            "conditions": [{"type": "Healthy", "status": "True", "message": "ok"}],
        });
        // A conflict means that an earlier start wrote it.
        store.txn(Txn::create(key, encode(&object))).await?;
    }
    Ok(())
}
