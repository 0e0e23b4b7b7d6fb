//! A change as those see it who match it by another version than the request's: by the definition's converter where it
//! takes one; a change of a Scale as that of a Scale. And the way back, of what they made of it.
use super::{Action, Objects, Review};
use crate::callout;
use crate::kinds::custom::Converter;
use crate::kinds::view::View;
use crate::kinds::{Kind, posted, scale};
use serde_json::{Value, json};
use std::sync::Arc;

/// The object and what it replaces; null where there is none.
#[derive(Debug)]
pub(super) struct Shown {
    pub object: Value,
    pub old: Value,
}

/// A change in the versions that were asked for so far, so that a converter is asked once for each.
#[derive(Default)]
pub(super) struct Versions(Vec<(String, Arc<Shown>)>);

impl Versions {
    /// The change in the version of `kind`; the error says why it cannot be had so.
    pub async fn show(
        &mut self,
        objects: &dyn Objects,
        review: &Review<'_>,
        kind: &Kind,
        object: &Value,
    ) -> Result<Arc<Shown>, String> {
        let version = kind.api_version();
        if let Some((_, shown)) = self.0.iter().find(|(known, _)| *known == version) {
            return Ok(shown.clone());
        }
        let shown = Arc::new(Shown::of(objects, review, kind, object).await?);
        self.0.push((version, shown.clone()));
        Ok(shown)
    }

    /// The object has changed.
    pub fn forget(&mut self) {
        self.0.clear();
    }
}

impl Shown {
    async fn of(
        objects: &dyn Objects,
        review: &Review<'_>,
        kind: &Kind,
        object: &Value,
    ) -> Result<Shown, String> {
        let both = [object, review.action.old()];
        let Some(converter) = converter(review, kind, kind) else {
            let [object, old] = both.map(|object| show(review, kind, object));
            return Ok(Shown { object, old });
        };
        let there = both.iter().filter(|object| !object.is_null());
        let asked = there.map(|object| show(review, review.kind, object)).collect();
        let converted = callout::convert(objects, converter, kind, asked, false).await?;
        let mut converted = converted.into_iter();
        let [object, old] = both.map(|object| {
            let mut shown = match object.is_null() {
                true => return Value::Null,
                false => converted.next().unwrap_or_default(),
            };
            kind.normalise(&mut shown);
            shown
        });
        Ok(Shown { object, old })
    }
}

/// What somebody made of an object that was shown as `kind`, as an object of the request; `before` is what that was.
pub(super) async fn back(
    objects: &dyn Objects,
    review: &Review<'_>,
    kind: &Kind,
    before: &Value,
    after: Value,
) -> Result<Value, String> {
    if is_scale(review) {
        let mut object = before.clone();
        scale::set(&mut object, &after, review.kind.scale_paths());
        return Ok(object);
    }
    let Some(converter) = converter(review, kind, review.kind) else {
        return Ok(renamed(kind, review.kind, after));
    };
    let mut converted = callout::convert(objects, converter, review.kind, vec![after], false).await?;
    Ok(converted.pop().unwrap_or_default())
}

/// Group, version and kind of what is shown.
pub(super) fn kind_of(review: &Review<'_>, kind: &Kind, object: &Value) -> Value {
    match review.action {
        action if action.asks() => {
            let version = object.text("apiVersion");
            let (group, version) = version.split_once('/').unwrap_or(("", version));
            json!({"group": group, "version": version, "kind": object.text("kind")})
        }
        _ if is_scale(review) => json!({"group": "autoscaling", "version": "v1", "kind": "Scale"}),
        _ => json!({"group": kind.group, "version": kind.version, "kind": kind.kind}),
    }
}

/// The kind that says how what is shown is built.
pub(super) fn built<'k>(review: &Review<'k>, kind: &'k Kind) -> &'k Kind {
    match review.action {
        Action::Connect { kind } | Action::Post { kind } => kind,
        _ if is_scale(review) => &posted::SCALE,
        _ => kind,
    }
}

/// Whether it is a Scale that is shown.
pub(super) fn is_scale(review: &Review<'_>) -> bool {
    review.subresource == Some("scale")
}

/// Who turns objects into the kind `to`, when `kind` is another version than the request's.
fn converter<'k>(review: &Review<'_>, kind: &Kind, to: &'k Kind) -> Option<&'k Converter> {
    let other = kind.version != review.kind.version && !is_scale(review);
    let converts = other && !review.action.asks();
    to.converter().filter(|_| converts)
}

/// The object in wire form, where it takes no converter.
fn show(review: &Review<'_>, kind: &Kind, object: &Value) -> Value {
    if object.is_null() || review.action.asks() {
        return object.clone();
    }
    if is_scale(review) {
        return scale::get(object, kind.scale_paths());
    }
    let mut shown = renamed(review.kind, kind, object.clone());
    kind.normalise(&mut shown);
    shown
}

/// Between versions that need no converter.
fn renamed(from: &Kind, to: &Kind, mut object: Value) -> Value {
    if (&from.group, &from.version) != (&to.group, &to.version) {
        from.to_storage(&mut object);
        to.from_storage(&mut object);
    }
    object
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{Fixed, review};
    use super::*;
    use crate::kinds::Registry;
    use futures::executor::block_on;

    #[test]
    fn another_version_is_shown_and_comes_back() {
        let review = review("horizontalpodautoscalers.autoscaling", Action::Create);
        let v2 = Registry::builtin()
            .resource("autoscaling", "v2", "horizontalpodautoscalers")
            .expect("served");
        let object = json!({"metadata": {"name": "o"}, "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 50}});
        let objects = Fixed::default();
        let shown = block_on(Versions::default().show(&objects, &review, v2, &object)).expect("shown");
        assert_eq!(shown.object["apiVersion"], "autoscaling/v2");
        assert_eq!(
            shown.object["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"],
            50
        );
        assert_eq!(shown.old, Value::Null);
        let mut after = shown.object.clone();
        after["spec"]["maxReplicas"] = 4.into();
        let after = block_on(back(&objects, &review, v2, &object, after)).expect("converted");
        assert_eq!(after["spec"]["maxReplicas"], 4);
        assert_eq!(after["spec"]["targetCPUUtilizationPercentage"], 50);
    }

    #[test]
    fn a_scale_changes_replicas_and_nothing_else() {
        let old = json!({"metadata": {"name": "o"}, "spec": {"replicas": 1, "paused": true}});
        let mut review = review("deployments.apps", Action::Update { old: &old });
        review.subresource = Some("scale");
        let objects = Fixed::default();
        let shown = block_on(Versions::default().show(&objects, &review, review.kind, &old)).expect("shown");
        assert_eq!(shown.old["kind"], "Scale");
        assert_eq!(
            kind_of(&review, review.kind, &shown.object)["group"],
            "autoscaling"
        );
        let mut after = shown.object.clone();
        after["spec"]["replicas"] = 7.into();
        let after = block_on(back(&objects, &review, review.kind, &old, after)).expect("back");
        assert_eq!(after["spec"], json!({"replicas": 7, "paused": true}));
    }
}
