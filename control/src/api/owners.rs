//! Owners that an object names twice: they are named once, and who wrote it is warned.
//!
//! Upstream's `dedupOwnerReferencesAndAddWarning`: creations and updates are looked at before and after admission changes
//! them, patches after.
use crate::kinds::view::{View, object_mut};
use serde_json::Value;
use std::collections::BTreeSet;

/// When an object is looked at.
#[derive(Clone, Copy)]
pub enum Moment {
    AsSent,
    AsAdmitted,
}

/// Takes out each owner that was named before in all respects. Answers with the warning, if there were any.
pub fn named_once(object: &mut Value, moment: Moment) -> Option<String> {
    if object.list("metadata.ownerReferences").len() < 2 {
        return None;
    }
    let owners = object_mut(object, "metadata")?.get_mut("ownerReferences")?;
    let (mut seen, mut twice) = (BTreeSet::new(), Vec::new());
    owners.as_array_mut()?.retain(|owner| {
        let first = seen.insert(identity(owner));
        if !first {
            twice.push(owner.text("uid").to_owned());
        }
        first
    });
    (!twice.is_empty()).then(|| warning(moment, &twice))
}

fn identity(owner: &Value) -> ([String; 4], [bool; 2]) {
    let text = |key: &str| owner.text(key).to_owned();
    let flag = |key: &str| owner[key].as_bool().unwrap_or(false);
    (
        ["uid", "apiVersion", "kind", "name"].map(text),
        ["controller", "blockOwnerDeletion"].map(flag),
    )
}

fn warning(moment: Moment, twice: &[String]) -> String {
    let when = match moment {
        Moment::AsSent => "",
        Moment::AsAdmitted => " after mutating admission happens",
    };
    let uids = twice.join(", ");
    format!(
        ".metadata.ownerReferences contains duplicate entries{when}; API server dedups owner references in 1.20+, and may \
         reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {uids}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn owners_named_twice_are_named_once() {
        let owner =
            |uid: &str, name: &str| json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid});
        for (owners, kept, told) in [
            (json!([owner("u", "a")]), json!([owner("u", "a")]), None),
            (
                json!([owner("u", "a"), owner("v", "a"), owner("u", "a"), owner("u", "a")]),
                json!([owner("u", "a"), owner("v", "a")]),
                Some("observed: u, u"),
            ),
            (
                json!([owner("u", "a"), owner("u", "b")]),
                json!([owner("u", "a"), owner("u", "b")]),
                None,
            ),
        ] {
            let mut object = json!({"metadata": {"ownerReferences": owners}});
            let warning = named_once(&mut object, Moment::AsAdmitted);
            assert_eq!(object["metadata"]["ownerReferences"], kept);
            assert_eq!(warning.is_some(), told.is_some(), "{warning:?}");
            assert!(warning.unwrap_or_default().ends_with(told.unwrap_or_default()));
        }
    }
}
