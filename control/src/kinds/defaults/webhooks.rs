//! Defaults of webhook configurations.
use serde_json::{Map, Value};

use crate::kinds::view::{items_mut, set_missing};

type Object = Map<String, Value>;

pub fn validating(object: &mut Value) {
    each(object, |_| {});
}

pub fn mutating(object: &mut Value) {
    each(object, |webhook| {
        set_missing(webhook, "reinvocationPolicy", "Never")
    });
}

fn each(object: &mut Value, own: impl Fn(&mut Object)) {
    let Some(map) = object.as_object_mut() else { return };
    for webhook in items_mut(map, "webhooks") {
        set_missing(webhook, "failurePolicy", "Fail");
        set_missing(webhook, "matchPolicy", "Equivalent");
        set_missing(webhook, "namespaceSelector", Object::new());
        set_missing(webhook, "objectSelector", Object::new());
        set_missing(webhook, "timeoutSeconds", 10);
        items_mut(webhook, "rules").for_each(|rule| set_missing(rule, "scope", "*"));
        if let Some(Value::Object(service)) = webhook
            .get_mut("clientConfig")
            .and_then(|config| config.get_mut("service"))
        {
            set_missing(service, "port", 443);
        }
        own(webhook);
    }
}
