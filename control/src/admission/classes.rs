//! Which class is taken where an object names none: one that an annotation marks.
use super::{Objects, ResourceName};
use crate::kinds::view::View;
use serde_json::Value;

/// The name of the class that any of `marks` makes the default: of several the newest, then the first by name.
pub(super) fn default(objects: &dyn Objects, classes: ResourceName<'_>, marks: &[&str]) -> Option<String> {
    let is_default = |class: &Value| {
        let annotations = class.at("metadata.annotations");
        marks
            .iter()
            .any(|mark| annotations.get(mark).is_some_and(|v| v == "true"))
    };
    let mut classes = objects.list(classes, None);
    classes.retain(|class| is_default(class));
    classes.sort_by(|a, b| {
        let (made, name) = ("metadata.creationTimestamp", "metadata.name");
        b.text(made)
            .cmp(a.text(made))
            .then(a.text(name).cmp(b.text(name)))
    });
    classes
        .first()
        .map(|class| class.text("metadata.name").to_owned())
}
