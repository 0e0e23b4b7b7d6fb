//! The operations of a JSON patch (RFC 6902), as upstream's library takes them, which is more lenient than the RFC:
//! keys are replaced that are not there, what is missing is null, and places in a list count from its end too. Pure.
use super::decode::word;
use super::depth::{self, LEVELS};
use crate::kinds::FieldIssue;
use serde_json::{Map, Value};

/// Upstream's `JSONPatchMaxCopyBytes`: what all `copy` operations of one patch may add up to.
const COPIED: usize = 3 << 20;

/// How many values the operations of one patch may shift within lists, or look at to know how deep what they move is: half a
/// second's work.
const STEPS: usize = 50_000_000;

/// One operation, of which nothing has been said to make sense.
#[derive(Debug)]
pub struct Operation {
    op: Option<String>,
    path: Option<String>,
    from: Option<String>,
    value: Value,
}

type Result<T> = std::result::Result<T, String>;

/// Why a patch cannot be applied.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// A value is another than it was tested for.
    #[error("{0}")]
    Test(String),
    #[error("{0}")]
    Other(String),
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        Failure::Other(why)
    }
}

/// A decoded patch, and what strict decoding would refuse about it.
pub fn read(patch: Value) -> Result<(Vec<Operation>, Vec<FieldIssue>)> {
    let items = match patch {
        Value::Null => Vec::new(),
        Value::Array(items) => items,
        other => return Err(mismatch(&other, "value of type []handlers.jsonPatchOp")),
    };
    let mut unknown = Vec::new();
    let mut operations = Vec::with_capacity(items.len());
    for (index, item) in items.into_iter().enumerate() {
        let (operation, rest) = read_one(item)?;
        operations.push(operation);
        unknown.extend(
            rest.keys()
                .map(|member| FieldIssue::Unknown(format!("[{index}].{member}"))),
        );
    }
    Ok((operations, unknown))
}

/// The operation, and the members that none has.
fn read_one(item: Value) -> Result<(Operation, Map<String, Value>)> {
    let mut members = match item {
        Value::Null => Map::new(),
        Value::Object(members) => members,
        other => return Err(mismatch(&other, "value of type handlers.jsonPatchOp")),
    };
    let mut text = |member: &str| match members.remove(member) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => {
            let field = format!("struct field jsonPatchOp.{member} of type string");
            Err(mismatch(&other, &field))
        }
    };
    let (op, path, from) = (text("op")?, text("path")?, text("from")?);
    let value = members.remove("value").unwrap_or_default();
    Ok((
        Operation {
            op,
            path,
            from,
            value,
        },
        members,
    ))
}

fn mismatch(value: &Value, wanted: &str) -> String {
    format!("json: cannot unmarshal {} into Go {wanted}", word(value))
}

/// What the operations, one after the other, make of a document.
pub fn apply(operations: &[Operation], document: &Value) -> std::result::Result<Value, Failure> {
    let mut patched = Patched {
        document: document.clone(),
        copied: 0,
        steps: 0,
    };
    for operation in operations {
        operation.apply(&mut patched)?;
    }
    Ok(patched.document)
}

/// A document that is being patched, and what the patch cost by now.
struct Patched {
    document: Value,
    /// Bytes.
    copied: usize,
    steps: usize,
}

impl Operation {
    fn apply(&self, patched: &mut Patched) -> std::result::Result<(), Failure> {
        match self.op.as_deref() {
            Some("test") => self.test(&mut patched.document),
            _ => Ok(self.change(patched)?),
        }
    }

    fn change(&self, patched: &mut Patched) -> Result<()> {
        match self.op.as_deref() {
            Some("add") => patched.add(self.path()?, self.value.clone()),
            Some("remove") => patched.remove(self.path()?).map(drop),
            Some("replace") => patched.replace(self.path()?, &self.value),
            Some("move") => {
                let moved = patched.remove(self.from()?)?;
                patched.add(self.path()?, moved)
            }
            Some("copy") => {
                let copy = patched.copy_of(self.from()?)?;
                patched.add(self.path()?, copy)
            }
            Some(other) => Err(format!("there is no operation {other:?}")),
            None => Err("an operation does not say which it is".to_owned()),
        }
    }

    fn path(&self) -> Result<&str> {
        let missing = || "an operation has no path".to_owned();
        self.path.as_deref().ok_or_else(missing)
    }

    fn from(&self) -> Result<&str> {
        let missing = || "an operation does not say from where".to_owned();
        self.from.as_deref().ok_or_else(missing)
    }

    /// A test for null holds where there is nothing; clients that add the first finalizer rely on it.
    fn test(&self, document: &mut Value) -> std::result::Result<(), Failure> {
        let path = self.path()?;
        let is = match path {
            "" => document,
            path => found(document, path)?,
        };
        match *is == self.value {
            true => Ok(()),
            false => Err(Failure::Test(format!("the test of {path:?} failed"))),
        }
    }
}

impl Patched {
    fn add(&mut self, path: &str, value: Value) -> Result<()> {
        self.check_depth(path, &value)?;
        match container(&mut self.document, path)? {
            (Value::Object(members), key) => {
                members.insert(key, value);
            }
            (Value::Array(items), key) if key == "-" => items.push(value),
            (Value::Array(items), key) => {
                let at = place(&key, items.len() + 1).ok_or_else(|| missing(path))?;
                count(&mut self.steps, items.len() - at)?;
                items.insert(at, value);
            }
            _ => return Err(missing(path)),
        }
        Ok(())
    }

    fn remove(&mut self, path: &str) -> Result<Value> {
        let removed = match container(&mut self.document, path)? {
            (Value::Object(members), key) => members.remove(&key),
            (Value::Array(items), key) => match place(&key, items.len()) {
                Some(at) => {
                    count(&mut self.steps, items.len() - at)?;
                    Some(items.remove(at))
                }
                None => None,
            },
            _ => None,
        };
        removed.ok_or_else(|| missing(path))
    }

    fn replace(&mut self, path: &str, value: &Value) -> Result<()> {
        if path.is_empty() {
            if !value.is_object() && !value.is_array() {
                return Err("a document is replaced by an object or an array only".to_owned());
            }
            self.document.clone_from(value);
            return Ok(());
        }
        self.check_depth(path, value)?;
        match container(&mut self.document, path)? {
            (Value::Object(members), key) => {
                members.insert(key, value.clone());
            }
            (Value::Array(items), key) => {
                let at = place(&key, items.len()).ok_or_else(|| missing(path))?;
                items[at].clone_from(value);
            }
            _ => return Err(missing(path)),
        }
        Ok(())
    }

    fn copy_of(&mut self, from: &str) -> Result<Value> {
        let value = found(&mut self.document, from)?.clone();
        if !value.is_null() {
            self.copied += value.to_string().len();
        }
        match self.copied > COPIED {
            true => Err(format!(
                "copies would add up to {} bytes, of {COPIED} that they may",
                self.copied
            )),
            false => Ok(value),
        }
    }

    /// Whoever wraps a document again and again would make one that takes more stack than there is.
    fn check_depth(&mut self, path: &str, value: &Value) -> Result<()> {
        let above = path.matches('/').count();
        let mut seen = 0;
        let too_deep = above > LEVELS || depth::exceeds(value, LEVELS - above, &mut seen);
        count(&mut self.steps, seen)?;
        match too_deep {
            true => Err(format!("what is at {path:?} would be nested too deeply")),
            false => Ok(()),
        }
    }
}

fn count(steps: &mut usize, more: usize) -> Result<()> {
    *steps += more;
    match *steps > STEPS {
        true => Err("the patch takes more work than a patch may".to_owned()),
        false => Ok(()),
    }
}

/// What is at a path: null where its container has no such key.
fn found<'d>(document: &'d mut Value, path: &str) -> Result<&'d Value> {
    static NULL: Value = Value::Null;
    match container(document, path)? {
        (Value::Object(members), key) => Ok(members.get(&key).unwrap_or(&NULL)),
        (Value::Array(items), key) => {
            let at = place(&key, items.len()).ok_or_else(|| missing(path))?;
            Ok(&items[at])
        }
        _ => Err(missing(path)),
    }
}

/// The object or the list that has what is at the path, and under which key. What stands before the first slash says
/// nothing.
fn container<'d>(document: &'d mut Value, path: &str) -> Result<(&'d mut Value, String)> {
    let mut keys: Vec<String> = path.split('/').skip(1).map(unescaped).collect();
    let last = keys.pop().ok_or_else(|| missing(path))?;
    let mut at = document;
    for key in keys {
        let child = match at {
            Value::Object(members) => members.get_mut(&key),
            Value::Array(items) => place(&key, items.len()).map(|at| &mut items[at]),
            _ => None,
        };
        at = child.ok_or_else(|| missing(path))?;
    }
    Ok((at, last))
}

/// Which of so many places a key names; negative ones count from the end.
fn place(key: &str, places: usize) -> Option<usize> {
    let at: i64 = key.parse().ok()?;
    let at = match at < 0 {
        true => places.checked_sub(usize::try_from(at.unsigned_abs()).ok()?)?,
        false => usize::try_from(at).ok()?,
    };
    (at < places).then_some(at)
}

fn unescaped(key: &str) -> String {
    key.replace("~1", "/").replace("~0", "~")
}

fn missing(path: &str) -> String {
    format!("there is nothing at {path:?}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn patched(patch: Value, document: &Value) -> std::result::Result<Value, Failure> {
        apply(&read(patch)?.0, document)
    }

    #[test]
    fn operations_are_as_lenient_as_upstreams() {
        let document = json!({"a": {"x": 1}, "l": [1, 2, 3], "n": null, "~/": 0});
        for (op, changed) in [
            (
                json!({"op": "replace", "path": "/a/y", "value": 2}),
                json!({"a": {"x": 1, "y": 2}}),
            ),
            (json!({"op": "add", "path": "/a"}), json!({"a": null})),
            (json!({"op": "replace", "path": "/a"}), json!({"a": null})),
            (
                json!({"op": "copy", "from": "/zz", "path": "/a"}),
                json!({"a": null}),
            ),
            (
                json!({"op": "add", "path": "/l/-", "value": 4}),
                json!({"l": [1, 2, 3, 4]}),
            ),
            (
                json!({"op": "add", "path": "/l/-1", "value": 4}),
                json!({"l": [1, 2, 3, 4]}),
            ),
            (
                json!({"op": "add", "path": "/l/0", "value": 4}),
                json!({"l": [4, 1, 2, 3]}),
            ),
            (json!({"op": "remove", "path": "/l/-1"}), json!({"l": [1, 2]})),
            (
                json!({"op": "replace", "path": "/l/-3", "value": 9}),
                json!({"l": [9, 2, 3]}),
            ),
            (json!({"op": "test", "path": "/n"}), json!({})),
            (json!({"op": "test", "path": "/a/y"}), json!({})),
            (json!({"op": "test", "path": "/l/1", "value": 2}), json!({})),
            (
                json!({"op": "move", "from": "/l/0", "path": "/a"}),
                json!({"a": 1, "l": [2, 3]}),
            ),
            (
                json!({"op": "replace", "path": "/~0~1", "value": 1}),
                json!({"~/": 1}),
            ),
        ] {
            let mut want = document.clone();
            for (key, value) in changed.as_object().into_iter().flatten() {
                want[key] = value.clone();
            }
            assert_eq!(patched(json!([op]), &document), Ok(want), "{op}");
        }
        assert_eq!(patched(Value::Null, &document), Ok(document));
    }

    #[test]
    fn what_cannot_be_done_fails() {
        let document = json!({"a": {}, "l": [1], "s": ""});
        for op in [
            json!(null),
            json!({}),
            json!({"op": "foo", "path": "/a"}),
            json!({"op": "Add", "path": "/b", "value": 1}),
            json!({"op": "add", "path": "b", "value": 1}),
            json!({"op": "add", "path": "", "value": {}}),
            json!({"op": "add", "path": "/l/3", "value": 1}),
            json!({"op": "add", "path": "/s/x", "value": 1}),
            json!({"op": "replace", "path": "/x/y", "value": 1}),
            json!({"op": "replace", "path": "/l/1", "value": 1}),
            json!({"op": "replace", "path": "/l/-", "value": 1}),
            json!({"op": "replace", "path": "", "value": 1}),
            json!({"op": "remove", "path": "/b"}),
            json!({"op": "remove", "path": "/l/-2"}),
            json!({"op": "move", "path": "/b"}),
            json!({"op": "move", "from": "/b", "path": "/c"}),
            json!({"op": "copy", "from": "/x/y", "path": "/c"}),
            json!({"op": "copy", "from": "", "path": "/c"}),
            json!({"op": "test", "path": "/a"}),
            json!({"op": "test", "path": "/x/y"}),
            json!({"op": "test", "path": "/l/0", "value": 2}),
        ] {
            assert!(patched(json!([op]), &document).is_err(), "{op}");
        }
    }

    #[test]
    fn what_is_no_patch_is_told_in_upstreams_words() {
        for (patch, why) in [
            (json!({}), "object into Go value of type []handlers.jsonPatchOp"),
            (json!([5]), "number into Go value of type handlers.jsonPatchOp"),
            (
                json!([{"op": 5}]),
                "number into Go struct field jsonPatchOp.op of type string",
            ),
        ] {
            let said = read(patch).map(|_| ()).unwrap_err();
            assert_eq!(said, format!("json: cannot unmarshal {why}"));
        }
        let (_, unknown) = read(json!([{"op": "test", "path": "/a", "foo": 1}])).unwrap();
        assert_eq!(unknown, [FieldIssue::Unknown("[0].foo".to_owned())]);
    }

    #[test]
    fn a_patch_that_doubles_the_document_is_stopped() {
        let double = vec![json!({"op": "copy", "from": "/a", "path": "/b"}); 40];
        assert!(patched(json!(double), &json!({"a": "x".repeat(100_000)})).is_err());
    }

    /// Each of these patches once ended the process, or held a thread for seconds.
    #[test]
    fn a_patch_that_wraps_the_document_again_and_again_is_stopped() {
        let wrap = [
            json!({"op": "move", "from": "/a", "path": "/b"}),
            json!({"op": "add", "path": "/a", "value": {}}),
            json!({"op": "move", "from": "/b", "path": "/a/n"}),
        ];
        let rounds = |count| Value::Array(wrap.iter().cloned().cycle().take(3 * count).collect());
        let document = json!({"a": {}});
        assert!(patched(rounds(LEVELS - 2), &document).is_ok());
        assert!(patched(rounds(3_300), &document).is_err());
        let deep = (0..LEVELS).fold(json!({}), |inner, _| json!({"n": inner}));
        for op in ["add", "replace"] {
            assert!(patched(json!([{"op": op, "path": "/a/n", "value": deep}]), &document).is_err());
        }
    }

    #[test]
    fn a_patch_that_shifts_a_long_list_again_and_again_is_stopped() {
        let document = json!({"l": vec![0; 100_000]});
        for op in [
            json!({"op": "add", "path": "/l/0", "value": 1}),
            json!({"op": "move", "from": "/l/0", "path": "/l/0"}),
        ] {
            assert!(patched(json!(vec![op.clone(); 100]), &document).is_ok(), "{op}");
            assert!(
                patched(json!(vec![op.clone(); 1_000]), &document).is_err(),
                "{op}"
            );
        }
    }
}
