//! What an update leaves as it was is not judged again, but told (KEP-4008).
use super::*;

fn ratcheted() -> Kind {
    let mut definition = definition();
    let version = &mut definition["spec"]["versions"][0];
    version["schema"]["openAPIV3Schema"]["properties"]["spec"] = json!({"type": "object", "properties": {
        "n": {"type": "integer"},
        "a": {"type": "string", "maxLength": 9, "x-kubernetes-validations": [{"rule": "self == 'ok'"}]},
        "o": {"type": "object", "properties": {"x": {"type": "integer"}, "y": {"type": "integer"}},
            "x-kubernetes-validations": [{"rule": "self.x <= self.y", "message": "x<=y"}]},
        "al": {"type": "array", "maxItems": 3, "items": {"type": "string", "maxLength": 9,
            "x-kubernetes-validations": [{"rule": "self == 'ok'"}]}},
        "l": {"type": "array", "maxItems": 1, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
            "items": {"type": "object", "required": ["name"], "properties": {
                "name": {"type": "string"}, "v": {"type": "string", "pattern": "^ok$"}}}},
    }});
    version["subresources"] = json!({});
    version["selectableFields"] = json!([]);
    version["additionalPrinterColumns"] = json!([]);
    let mut definition = admitted(definition).expect("valid");
    definition["status"]["acceptedNames"] = settle_names(&definition, std::iter::empty()).accepted;
    definition["status"]["conditions"] = json!([{"type": "Established", "status": "True"}]);
    kinds(&definition).remove(0)
}

#[test]
fn what_is_let_be_is_told_and_the_order_of_a_map_is_no_change() {
    let kind = ratcheted();
    let mut old = object(
        json!({"n": 1, "a": "bad", "o": {"x": 5, "y": 1}, "al": ["bad", "ok"],
        "l": [{"name": "x", "v": "bad"}, {"name": "y", "v": "ok"}]}),
    );
    old["metadata"]["resourceVersion"] = "1".into();
    let (a, o) = (
        "spec.a: Invalid value: \"bad\": failed rule: self == 'ok'",
        "spec.o: Invalid value: x<=y",
    );
    let item = |i: usize| format!("spec.al[{i}]: Invalid value: \"bad\": failed rule: self == 'ok'");
    let (first, second) = (item(0), item(1));
    for (part, wrong, told) in [
        (json!({"n": 2}), "[]", vec![a, &first, o]),
        (
            json!({"l": [{"name": "y", "v": "ok"}, {"name": "x", "v": "bad"}]}),
            "[]",
            vec![a, &first, o],
        ),
        (json!({"al": ["ok", "bad"]}), &second, vec![a, o]),
        (json!({"o": {"x": 6}}), o, vec![a, &first]),
        (json!({"o": {"y": 7}}), "[]", vec![a, &first]),
        (
            json!({"l": [{"name": "y", "v": "ok"}, {"name": "z"}]}),
            "[spec.l: Too many: 2: must have at most 1 item, <nil>: Invalid value: null: some validation rules were not \
             checked because the object was invalid; correct the existing errors to complete validation]",
            vec![],
        ),
    ] {
        let mut new = old.clone();
        json_patch::merge(&mut new["spec"], &part);
        let (errors, warnings) = kind.judge_update(None, &new, &old);
        assert_eq!(
            (join(&errors).as_str(), warnings),
            (wrong, told.iter().map(ToString::to_string).collect()),
            "{part}"
        );
    }
}
