//! What the patch in a webhook's answer makes of an object.
use super::super::shown::{built, is_scale};
use super::super::{Denial, Review};
use super::answer::{Answer, PATCH};
use crate::api;
use crate::callout::Failed;
use crate::kinds::view::View;
use crate::kinds::{Kind, scale};
use serde_json::Value;

/// Why a webhook has no say in what becomes of the object.
#[derive(Debug)]
pub(super) enum Fault {
    /// It did not make sense: its failure policy says what that means.
    Webhook(Failed),
    /// Whatever the policy. What a patch cannot be applied to upstream takes for an error of its own.
    Final(Denial),
}

impl From<Denial> for Fault {
    fn from(denial: Denial) -> Self {
        Fault::Final(denial)
    }
}

fn of_webhook(why: String) -> Fault {
    Fault::Webhook(why.into())
}

fn internal(why: impl ToString) -> Fault {
    Fault::Final(Denial::Failed(why.to_string()))
}

impl Answer {
    /// The operations of its patch; none where there are none.
    fn operations(&self) -> Result<Option<Value>, Fault> {
        if self.patch.is_empty() {
            return Ok(None);
        }
        let undecodable =
            |why: String| of_webhook(format!("received undecodable patch in webhook response: {why}"));
        let mismatch = |of: &Value, ty: &str| {
            let word = api::word(of);
            undecodable(format!(
                "json: cannot unmarshal {word} into Go value of type jsonpatch.{ty}"
            ))
        };
        let patch = api::decoded_json(&self.patch).map_err(undecodable)?.value;
        let operations = match &patch {
            Value::Null => return Ok(None),
            Value::Array(operations) => operations,
            other => return Err(mismatch(other, "Patch")),
        };
        let is_one = |operation: &&Value| operation.is_object() || operation.is_null();
        match operations.iter().find(|operation| !is_one(operation)) {
            Some(other) => Err(mismatch(other, "Operation")),
            None if operations.is_empty() => Ok(None),
            None => Ok(Some(patch)),
        }
    }
}

/// What a patch makes of an object.
#[derive(Debug, PartialEq)]
pub(super) struct Patched {
    pub object: Value,
    pub operations: Value,
}

/// What the answer's patch makes of this object, shown to `webhook`; none when there is no patch. A patch is refused when it
/// cannot be applied, makes another object of this one, or something that is no object of the kind.
pub(super) fn patched(
    review: &Review<'_>,
    (kind, webhook): (&Kind, &str),
    answer: &Answer,
    before: &Value,
) -> Result<Option<Patched>, Fault> {
    let Some(operations) = answer.operations()? else {
        return Ok(None);
    };
    if before.is_null() {
        return Err(internal(format!(
            "admission webhook {webhook:?} attempted to modify the object, which is not supported for this operation"
        )));
    }
    if answer.patch_type != PATCH {
        return Err(of_webhook(format!(
            "unsupported patch type {:?}",
            answer.patch_type
        )));
    }
    let mut object = api::apply_operations(operations.clone(), before).map_err(internal)?;
    check_kept(before, &object)?;
    // What is posted is decoded by who posts it.
    if !review.action.asks() {
        built(review, kind).prune(&mut object).map_err(internal)?;
    }
    let wrong = match is_scale(review) {
        true => scale::validate(&object),
        false => Vec::new(),
    };
    match wrong.first() {
        None => Ok(Some(Patched { object, operations })),
        Some(why) => Err(of_webhook(format!("its patch: {why}"))),
    }
}

/// A webhook changes the object that it is shown.
fn check_kept(before: &Value, after: &Value) -> Result<(), Fault> {
    let identity = [
        "apiVersion",
        "kind",
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
    ];
    match identity.iter().find(|path| after.at(path) != before.at(path)) {
        None => Ok(()),
        Some(path) => Err(of_webhook(format!(
            "its patch changes {path}, which a webhook may not"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::Action;
    use super::super::super::fixtures::review;
    use super::*;
    use serde_json::json;

    fn answer(patch: &str, patch_type: &str) -> Answer {
        Answer {
            patch: patch.as_bytes().to_vec(),
            patch_type: patch_type.to_owned(),
            ..Answer::default()
        }
    }

    #[test]
    fn a_patch_without_operations_is_none_even_of_a_deletion() {
        let review = review("configmaps", Action::Delete { old: &Value::Null });
        let told = |patch: &str| {
            let answer = answer(patch, PATCH);
            patched(&review, (review.kind, "w"), &answer, &Value::Null)
        };
        for patch in ["[]", "null", " [ ] "] {
            assert!(told(patch).is_ok_and(|patched| patched.is_none()), "{patch}");
        }
        let Err(Fault::Final(Denial::Failed(why))) = told("[{}]") else {
            panic!("it is refused");
        };
        let want = "admission webhook \"w\" attempted to modify the object, which is not supported for this operation";
        assert_eq!(why, want);
    }

    #[test]
    fn patches_stay_with_their_object() {
        let review = review("configmaps", Action::Create);
        let object = json!({"metadata": {"name": "o"}, "data": {"a": "1"}});
        let with = |patch: &str, patch_type: &str| {
            patched(&review, (review.kind, "w"), &answer(patch, patch_type), &object)
        };
        let added = with(r#"[{"op": "add", "path": "/data/b", "value": "2"}]"#, PATCH);
        let added = added.expect("applied").expect("patched").object;
        assert_eq!(added["data"], json!({"a": "1", "b": "2"}));
        let undecodable = "received undecodable patch in webhook response: ";
        for (patch, ty, want) in [
            (
                r#"[{"op": "replace", "path": "/metadata/name", "value": "other"}]"#,
                PATCH,
                "its patch changes metadata.name, which a webhook may not",
            ),
            ("[{}]", "Other", "unsupported patch type \"Other\""),
            (
                r#"{"no": "list"}"#,
                PATCH,
                "json: cannot unmarshal object into Go value of type jsonpatch.Patch",
            ),
            (
                "[1]",
                PATCH,
                "json: cannot unmarshal number into Go value of type jsonpatch.Operation",
            ),
            (
                "nope",
                PATCH,
                "invalid character 'o' in literal null (expecting 'u')",
            ),
        ] {
            let Err(Fault::Webhook(why)) = with(patch, ty) else {
                panic!("{patch} is the webhook's fault");
            };
            let why = why.why;
            assert_eq!(why.strip_prefix(undecodable).unwrap_or(&why), want);
        }
        for (patch, want) in [
            (
                r#"[{"op": "replace", "path": "/nowhere/at/all", "value": 1}]"#,
                r#"there is nothing at "/nowhere/at/all""#,
            ),
            (
                r#"[{"op": "replace", "path": "/data", "value": 7}]"#,
                "json: cannot unmarshal number into Go struct field ConfigMap.data of type map[string]string",
            ),
        ] {
            let Err(Fault::Final(Denial::Failed(why))) = with(patch, PATCH) else {
                panic!("{patch} cannot be applied");
            };
            assert_eq!(why, want);
        }
    }
}
