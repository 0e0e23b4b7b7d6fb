//! Bodies as clients of protobuf write them, and what is wrong with others.
use super::*;
use proptest::prelude::*;
use serde_json::json;

/// A length-delimited field.
fn field(number: u8, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    assert!(bytes.len() < 128);
    [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
}

fn body(version: &str, kind: &str, raw: Vec<u8>) -> Vec<u8> {
    let meta = [field(1, version), field(2, kind)].concat();
    [MAGIC.to_vec(), field(1, meta), field(2, raw)].concat()
}

#[test]
fn a_config_map() {
    let metadata = [field(1, "c"), field(2, ""), field(8, "")].concat();
    let data = [field(1, "a"), field(2, "1")].concat();
    let raw = [field(1, metadata), field(2, data)].concat();
    let want =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "1"}});
    assert_eq!(decode(&body("v1", "ConfigMap", raw), ("", "")).unwrap(), want);
}

#[test]
fn a_message_that_comes_twice_is_one_and_any_bytes_are_text() {
    let labels = |key: &str, value: &[u8]| field(11, [field(1, key), field(2, value)].concat());
    let twice = [field(1, field(1, "c")), field(1, labels("a", b"x\xffy"))].concat();
    let found = decode(&body("v1", "ConfigMap", twice), ("", "")).unwrap();
    assert_eq!(
        found["metadata"],
        json!({"name": "c", "labels": {"a": "x\u{fffd}y"}})
    );
}

#[test]
fn what_cannot_be_read_is_told_as_upstream_tells_it() {
    let inside = |raw| body("v1", "ConfigMap", raw);
    let tag = "illegal tag 0 (wire type 0)";
    for (bytes, why) in [
        (vec![], "empty data".to_owned()),
        (MAGIC.to_vec(), "empty body".to_owned()),
        (
            [inside(vec![]), vec![0, 0]].concat(),
            format!("proto: Unknown: {tag}"),
        ),
        (inside(vec![0, 0]), format!("proto: ConfigMap: {tag}")),
        (inside(field(1, [0, 0])), format!("proto: ObjectMeta: {tag}")),
        (inside(vec![10, 9]), "unexpected EOF".to_owned()),
    ] {
        let told = decode(&bytes, ("", "")).expect_err("it cannot be read");
        assert_eq!(told.to_string(), why, "{bytes:?}");
    }
}

#[test]
fn inlined_structs_quantities_and_ports() {
    let volume = [field(1, "v"), field(2, field(2, field(1, "Memory")))].concat();
    let limit = [field(1, "cpu"), field(2, field(1, "500m"))].concat();
    let probe = field(1, field(2, field(2, [vec![8, 0, 16, 80], field(3, "")].concat())));
    let container = [field(1, "c"), field(8, field(1, limit)), field(10, probe)].concat();
    let spec = [field(1, volume), field(2, container)].concat();
    let pod = decode(&body("v1", "Pod", field(2, spec)), ("", "")).unwrap();
    assert_eq!(
        pod["spec"]["volumes"],
        json!([{"name": "v", "emptyDir": {"medium": "Memory"}}])
    );
    assert_eq!(pod["spec"]["containers"][0]["resources"]["limits"]["cpu"], "500m");
    assert_eq!(
        pod["spec"]["containers"][0]["livenessProbe"]["httpGet"]["port"],
        80
    );
}

#[test]
fn schemas_of_definitions() {
    // type: object, additionalProperties: true, items: [string], enum: ["a"]; unset members are sent empty.
    let text = [field(1, ""), field(5, "string"), vec![10 << 3, 0]].concat();
    let items = field(24, field(2, text));
    let more = [vec![0xf2, 1], vec![2], vec![8, 1]].concat();
    let values = vec![0xa2, 1, 5, 10, 3, b'"', b'a', b'"'];
    let items = [vec![0xc2, 1], items[1..].to_vec()].concat();
    let schema = [field(5, "object"), more, values, items].concat();
    let version = [field(1, "v1"), field(4, field(1, schema))].concat();
    let raw = field(2, field(7, version));
    let version = "apiextensions.k8s.io/v1";
    let found = decode(&body(version, "CustomResourceDefinition", raw), ("", "")).unwrap();
    assert_eq!(
        found["spec"]["versions"][0]["schema"]["openAPIV3Schema"],
        json!({"type": "object", "additionalProperties": true, "enum": ["a"], "items": [{"type": "string"}]})
    );
}

#[test]
fn every_table_row_is_of_a_definition_or_inlined() {
    let inlined: Vec<&str> = numbers()
        .values()
        .flat_map(|row| row.values())
        .filter_map(|f| f.strip_prefix('@'))
        .collect();
    for name in numbers().keys() {
        assert!(
            Schemas::builtin().get(name).is_some() || inlined.contains(&name.as_str()),
            "{name}"
        );
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(raw: Vec<u8>) {
        let _ = decode(&[MAGIC, &raw].concat(), ("v1", "Pod"));
        let envelope = [MAGIC.to_vec(), vec![2 << 3 | 2, u8::try_from(raw.len().min(127)).unwrap()], raw].concat();
        let _ = decode(&envelope, ("v1", "Pod"));
    }
}
