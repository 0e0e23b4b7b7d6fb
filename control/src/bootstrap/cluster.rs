//! The priority classes and the flow control configuration that upstream's clusters begin with. What is there is left
//! alone here, whatever an administrator made of it: what becomes of flow control is `controllers/flow_control.rs`'s.
use super::policy::call;
use crate::facts;
use futures::{StreamExt, TryStreamExt, stream};
use http::Method;
use kube::Client;
use serde_json::Value;

/// Writes under way at once: they share commits.
const AT_ONCE: usize = 32;

pub(super) async fn ensure(client: &Client) -> Result<(), kube::Error> {
    stream::iter(facts::objects())
        .map(|line| create(client, line))
        .buffer_unordered(AT_ONCE)
        .try_for_each(|()| async { Ok(()) })
        .await
}

async fn create(client: &Client, line: Value) -> Result<(), kube::Error> {
    let path = line["path"].as_str().unwrap_or_default();
    match call(client, Method::POST, path, &line["object"]).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        result => result.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Registry;

    #[test]
    fn all_objects_are_of_served_kinds_and_valid() {
        for line in facts::objects() {
            let mut object = line["object"].clone();
            let text = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
            let kind = Registry::builtin()
                .object(&text("apiVersion"), &text("kind"))
                .expect("a served kind")
                .clone();
            assert_eq!(kind.prune(&mut object), Ok(Vec::new()));
            kind.default(&mut object);
            assert_eq!(kind.validate_create(&object), [], "{object}");
        }
    }
}
