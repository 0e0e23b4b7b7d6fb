//! An object as the other versions of its kind show it, for the rules of field ownership. These do not wait, so what takes
//! a converter is asked between two runs of them: a run that lacked an answer is repeated with it.
use super::Call;
use super::status::{ApiError, Result};
use crate::callout;
use crate::kinds::Kind;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Runs before the rules are given up; each asks for the objects that the run before made, of one more version at least.
const RUNS: usize = 64;

/// What a converter said during a call, and what it is still to be asked.
#[derive(Default)]
pub struct Others(Mutex<Memo>);

#[derive(Default)]
struct Memo {
    answers: HashMap<(String, String), Value>,
    open: Vec<(Arc<Kind>, Value)>,
}

impl Others {
    fn memo(&self) -> MutexGuard<'_, Memo> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The object in the version of `kind`; none when that has to be asked first.
    fn answer(&self, kind: &Arc<Kind>, object: &Value) -> Option<Value> {
        let mut memo = self.memo();
        let key = (kind.version.clone(), object.to_string());
        let answer = memo.answers.get(&key).cloned();
        if answer.is_none() {
            memo.open.push((kind.clone(), object.clone()));
        }
        answer
    }

    async fn ask(&self, call: &Call, (kind, object): (Arc<Kind>, Value)) -> Result<()> {
        let Some(converter) = kind.converter() else {
            return Ok(());
        };
        let asked = vec![object.clone()];
        let converted = callout::convert(call.api.objects.as_ref(), converter, &kind, asked, false).await;
        let mut converted = converted.map_err(ApiError::unconvertible)?;
        let mut answer = converted.pop().unwrap_or_default();
        kind.normalise(&mut answer);
        let key = (kind.version.clone(), object.to_string());
        self.memo().answers.insert(key, answer);
        Ok(())
    }
}

/// What `work` comes to when it has seen all that it wants to see of other versions.
pub async fn settled<T: Send>(call: &Call, work: impl Fn() -> T + Send + Sync) -> Result<T> {
    for _ in 0..RUNS {
        let done = work();
        let open = std::mem::take(&mut call.others.memo().open);
        if open.is_empty() {
            return Ok(done);
        }
        for question in open {
            call.others.ask(call, question).await?;
        }
    }
    let why = "the owners of fields do not settle: the converter answers differently each time";
    Err(ApiError::unconvertible(why))
}

/// The object as other served versions of its kind show it.
pub fn versions(call: &Call) -> impl Fn(&Value, &str) -> Option<(Arc<Kind>, Value)> + Send + Sync {
    let (kinds, own) = (call.api.kinds.load(), call.target.kind.clone());
    move |value, version| {
        let from = value["apiVersion"].as_str().unwrap_or_default();
        let find = |version: &str| match own.api_version() == version {
            true => Some(own.clone()),
            false => kinds
                .object(version, &own.kind)
                .filter(|k| k.group == own.group)
                .cloned(),
        };
        let kind = find(version)?;
        if from == version {
            return Some((kind, value.clone()));
        }
        if kind.converter().is_some() {
            return call.others.answer(&kind, value).map(|value| (kind, value));
        }
        let mut value = value.clone();
        find(from)?.to_storage(&mut value);
        kind.from_storage(&mut value);
        kind.normalise(&mut value);
        Some((kind, value))
    }
}
