//! Numbers of custom resources, however they are written.
use super::*;

/// A kind whose Scale is `spec.size`.
fn measured() -> Kind {
    let mut definition = definition();
    let version = &mut definition["spec"]["versions"][0];
    version["schema"]["openAPIV3Schema"]["properties"]["spec"] = json!({"type": "object", "properties": {
        "i": {"type": "integer"}, "i32": {"type": "integer", "format": "int32"},
        "i64": {"type": "integer", "format": "int64"}, "f": {"type": "number", "format": "float"},
        "d": {"type": "number", "format": "double"}, "n": {"type": "number"},
        "small": {"type": "integer", "maximum": 10}, "one": {"type": "integer", "enum": [1]},
        "text": {"type": "string"}, "ios": {"x-kubernetes-int-or-string": true},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "three": {"type": "integer", "default": 3.0}, "size": {"type": "integer"},
    }});
    version["subresources"]["scale"]["specReplicasPath"] = ".spec.size".into();
    version["selectableFields"] = json!([{"jsonPath": ".spec.i"}]);
    let mut definition = admitted(definition).expect("valid");
    let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";
    let three = definition.pointer(&format!("{spec}/properties/three/default"));
    assert_eq!(
        three,
        Some(&json!(3)),
        "a definition is written as its objects are"
    );
    definition["status"]["acceptedNames"] = settle_names(&definition, std::iter::empty()).accepted;
    definition["status"]["conditions"] = json!([{"type": "Established", "status": "True"}]);
    kinds(&definition).remove(0)
}

/// What becomes of an object with this member in its spec: what is served, or what is wrong.
fn created(kind: &Kind, member: &str) -> Result<Value, String> {
    let spec = serde_json::from_str(&format!("{{{member}}}")).expect("JSON");
    let mut object = object(spec);
    kind.prune(&mut object).expect("decodes");
    kind.default(&mut object);
    let errors = kind.validate_create(&object);
    kind.normalise(&mut object);
    match errors.is_empty() {
        true => Ok(object["spec"].take()),
        false => Err(join(&errors)),
    }
}

#[test]
fn whole_numbers_are_served_as_integers_however_they_are_written() {
    let kind = measured();
    for (sent, served) in [
        (r#""i":1.0"#, json!({"i": 1})),
        (r#""i":1e3"#, json!({"i": 1000})),
        (r#""i":-0"#, json!({"i": 0})),
        (r#""i":9223372036854775807"#, json!({"i": i64::MAX})),
        (r#""i32":2147483647.0"#, json!({"i32": i32::MAX})),
        (r#""ios":1.0"#, json!({"ios": 1})),
        (r#""one":1.0"#, json!({"one": 1})),
        (r#""n":2.0"#, json!({"n": 2})),
        (r#""n":1"#, json!({"n": 1})),
        (r#""n":2.5"#, json!({"n": 2.5})),
        (r#""f":3.5"#, json!({"f": 3.5})),
        (r#""d":1e308"#, json!({"d": 1e308})),
        (
            r#""free":{"a":[1.0,-0,1e3]}"#,
            json!({"free": {"a": [1, 0, 1000]}}),
        ),
    ] {
        let mut served = served;
        served["three"] = 3.into();
        let found = created(&kind, sent).unwrap_or_else(|why| panic!("{sent}: {why}"));
        assert_eq!(found.to_string(), served.to_string(), "{sent}");
    }
}

#[test]
fn numbers_that_do_not_fit_are_refused_in_upstreams_words() {
    let kind = measured();
    let checked = |member: &str, what: &str| {
        format!("<nil>: Invalid value: \"\": Checked value must be of type {what} in spec.{member}")
    };
    let typed = |member: &str, is: &str, wanted: &str| {
        format!(
            "spec.{member}: Invalid value: {is:?}: spec.{member} in body must be of type {wanted}: {is:?}"
        )
    };
    let integer = || {
        format!(
            "[{}, {}]",
            typed("i", "number", "integer"),
            checked("i", "integer (default format)")
        )
    };
    let long = || {
        format!(
            "[{}, {}]",
            typed("i64", "float64", "int64"),
            checked("i64", "integer with format int64")
        )
    };
    let accessor = |shown: &str, is: &str| {
        format!(
            ".spec.size: Invalid value: 0: .spec.size accessor error: {shown} is of the type {is}, expected int64"
        )
    };
    for (sent, want) in [
        (r#""i":1.5"#, integer()),
        (r#""i":1e20"#, integer()),
        (r#""i":9223372036854775808"#, integer()),
        (r#""i":-9223372036854775809"#, integer()),
        (r#""i64":9223372036854775808"#, long()),
        (r#""i64":1e19"#, long()),
        (r#""i32":2147483648"#, checked("i32", "integer with format int32")),
        (
            r#""i32":-2147483649"#,
            checked("i32", "integer with format int32"),
        ),
        (r#""i32":1e10"#, checked("i32", "integer with format int32")),
        (r#""f":1e39"#, checked("f", "number with format float")),
        (r#""ios":1.5"#, typed("ios", "number", "integer,string")),
        (r#""text":1.0"#, typed("text", "number", "string")),
        (r#""size":2.0"#, accessor("2", "float64")),
        (
            r#""size":"x""#,
            format!(
                "[{}, {}]",
                typed("size", "string", "integer"),
                accessor("x", "string")
            ),
        ),
        (
            r#""small":1e20"#,
            format!(
                "[{}, {}, spec.small: Invalid value: 1e+20: spec.small in body should be less than or equal to 10]",
                typed("small", "number", "integer"),
                checked("small", "integer (default format)")
            ),
        ),
    ] {
        assert_eq!(created(&kind, sent), Err(want), "{sent}");
    }
}

#[test]
fn an_update_is_judged_by_what_was_written_and_kept_as_upstream_keeps_it() {
    let kind = measured();
    let mut old = object(json!({"i": 1, "size": 2}));
    old["metadata"]["resourceVersion"] = "1".into();
    for (sent, wrong) in [
        (json!({"i": 2.0, "size": 2}), false),
        (json!({"i": 1, "size": 3.0}), true),
    ] {
        let mut new = old.clone();
        new["spec"] = sent;
        kind.prune(&mut new).expect("decodes");
        kind.prepare_update(None, &mut new, &old);
        let errors = kind.validate_update(None, &new, &old);
        assert_eq!(!errors.is_empty(), wrong, "{errors:?}");
        kind.normalise(&mut new);
        assert!(new["spec"]["i"].is_i64());
    }
    let mut stored = object(json!({"i": 2.0, "size": 2.0}));
    assert!(kind.modernise(&mut stored), "as older programs stored it");
    assert_eq!(
        (&stored["spec"]["i"], &stored["spec"]["size"]),
        (&json!(2), &json!(2))
    );
    assert_eq!(kind.selectable_fields(&stored)["spec.i"], "2");
}
