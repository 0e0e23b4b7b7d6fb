//! Compares with what upstream 1.36.2 writes of the objects in `data/protobuf_samples.jsonl`, which also has its bytes; how
//! they were recorded: `data/judge/record_protobuf.py`. And with itself, for any object that the schemas allow.
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::super::Registry;
use super::super::schema::{Definition, Schemas, Type};
use super::{META, decode, encode, frame};

const SAMPLES: &str = include_str!("../data/protobuf_samples.jsonl");

/// The object and upstream's bytes of it.
fn samples() -> Vec<(Value, Vec<u8>)> {
    let lines = SAMPLES
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).expect("JSON"));
    let pair = |line: Value| {
        let bytes = line["bytes"].as_str().expect("bytes").to_owned();
        (line["object"].clone(), STANDARD.decode(bytes).expect("base64"))
    };
    lines.map(pair).collect()
}

/// As decoding and encoding by the schema makes it.
fn settled(object: &Value) -> Value {
    let text = |key: &str| object[key].as_str().expect("text");
    let mut object = object.clone();
    if let Some(kind) = Registry::builtin().object(text("apiVersion"), text("kind")) {
        kind.prune(&mut object).expect("an object of its kind");
        kind.normalise(&mut object);
    }
    object
}

#[test]
fn what_upstream_writes_is_read() {
    assert!(samples().len() > 60);
    let differing = samples().into_iter().filter_map(|(object, bytes)| {
        let read = settled(&decode(&bytes, ("", "")).expect("read"));
        let object = settled(&object);
        (read != object).then(|| format!("upstream {read}\nsample   {object}"))
    });
    let differing: Vec<String> = differing.collect();
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}

#[test]
fn what_is_written_is_read_again() {
    for (object, _) in samples() {
        let object = settled(&object);
        let bytes = encode(&object).expect("encoded");
        assert_eq!(settled(&decode(&bytes, ("", "")).expect("read")), object);
    }
}

#[test]
fn an_envelope_is_as_upstreams() {
    let bytes =
        encode(&json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "1"}})).expect("encoded");
    let want = b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x08\x12\x06\x0a\x01a\x12\x011\x1a\x00\x22\x00";
    assert_eq!(bytes, want);
    let metadata = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList",
        "metadata": {"resourceVersion": "7"}, "items": [{"metadata": {"name": "a"}}]});
    let bytes = encode(&metadata).expect("encoded");
    assert!(
        bytes.ends_with(b"\x12\x0c\x0a\x03\x12\x017\x12\x05\x0a\x03\x0a\x01a\x1a\x00\x22\x00"),
        "{bytes:?}"
    );
    assert_eq!(frame("ADDED", b"x"), b"\0\0\0\x0c\x0a\x05ADDED\x12\x03\x0a\x01x");
    assert_eq!(encode(&json!({"apiVersion": "e.com/v1", "kind": "Foo"})), None);
}

/// A value of the type; what is nested too deeply is left out.
fn value_of(ty: &Type, depth: u32) -> BoxedStrategy<Value> {
    match ty {
        Type::String => "[a-z/é]{1,6}".prop_map(Value::from).boxed(),
        Type::Bool => Just(json!(true)).boxed(),
        Type::Int32 => any::<i32>()
            .prop_map(|n| json!(if n == 0 { 1 } else { n }))
            .boxed(),
        Type::Int64 => any::<i64>()
            .prop_map(|n| json!(if n == 0 { 1 } else { n }))
            .boxed(),
        Type::Float => any::<i32>().prop_map(|n| json!(f64::from(n) + 0.5)).boxed(),
        Type::Bytes => any::<[u8; 3]>().prop_map(|b| STANDARD.encode(b).into()).boxed(),
        Type::Quantity => "[1-9]{1,3}(m|Ki|G)?".prop_map(Value::from).boxed(),
        Type::IntOrString => prop_oneof![
            any::<i32>().prop_map(Value::from),
            "[a-z]{1,5}".prop_map(Value::from)
        ]
        .boxed(),
        Type::Time => (1_i64..4_000_000_000)
            .prop_map(|s| at(s, 0, "%Y-%m-%dT%H:%M:%SZ"))
            .boxed(),
        Type::MicroTime => (1_i64..4_000_000_000, 0..1_000_000)
            .prop_map(|(s, micros)| at(s, micros * 1000, "%Y-%m-%dT%H:%M:%S%.6fZ"))
            .boxed(),
        Type::Any => Just(json!({"free": [1, "x", null]})).boxed(),
        Type::List(item) => prop::collection::vec(value_of(item, depth), 1..3)
            .prop_map(Value::Array)
            .boxed(),
        Type::Map(item) => prop::collection::btree_map("[a-z]{1,3}", value_of(item, depth), 1..3)
            .prop_map(|map| Value::Object(map.into_iter().collect()))
            .boxed(),
        Type::Ref(name) => referred(name, depth),
    }
}

fn at(seconds: i64, nanos: i32, format: &str) -> Value {
    let time = jiff::Timestamp::new(seconds, nanos).expect("a time");
    time.strftime(format).to_string().into()
}

fn referred(name: &str, depth: u32) -> BoxedStrategy<Value> {
    match name.rsplit('.').next() {
        Some("FieldsV1" | "RawExtension" | "JSON") => return Just(json!({"f:a": {}})).boxed(),
        Some("JSONSchemaPropsOrBool") => return Just(json!(true)).boxed(),
        Some("JSONSchemaPropsOrArray") => return Just(json!({"type": "string"})).boxed(),
        Some("JSONSchemaPropsOrStringArray") => return Just(json!(["a", "b"])).boxed(),
        _ => {}
    }
    match Schemas::builtin().get(name) {
        Some(definition) if !definition.fields.is_empty() => object_of(definition, depth + 1),
        _ => Just(json!({})).boxed(),
    }
}

/// An object with one member, or a few.
fn object_of(definition: &Definition, depth: u32) -> BoxedStrategy<Value> {
    let fields: Vec<_> = definition
        .fields
        .iter()
        .filter(|f| !["apiVersion", "kind"].contains(&&*f.name))
        .collect();
    if fields.is_empty() || depth > 6 {
        return Just(json!({})).boxed();
    }
    let fields: Vec<(String, Type)> = fields.iter().map(|f| (f.name.clone(), f.ty.clone())).collect();
    prop::collection::vec(prop::sample::select(fields), 0..3)
        .prop_flat_map(move |chosen| {
            let members = chosen
                .into_iter()
                .map(|(name, ty)| value_of(&ty, depth).prop_map(move |v| (name.clone(), v)));
            members.collect::<Vec<_>>()
        })
        .prop_map(|members| Value::Object(members.into_iter().collect::<Map<_, _>>()))
        .boxed()
}

proptest! {
    #[test]
    fn any_object_comes_back(kind in prop::sample::select(kinds()), seed in any::<[u8; 32]>()) {
        use proptest::strategy::ValueTree;
        use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
        let mut runner = TestRunner::new_with_rng(Config::default(), rng);
        let (version, name) = &kind;
        let definition = super::definition(version, name).expect("a definition");
        let mut object = object_of(definition, 0).new_tree(&mut runner).expect("a value").current();
        object["apiVersion"] = version.as_str().into();
        object["kind"] = name.as_str().into();
        let bytes = encode(&object).expect("encoded");
        prop_assert_eq!(decode(&bytes, ("", "")).expect("read"), object);
    }
}

fn kinds() -> Vec<(String, String)> {
    let all = Registry::builtin()
        .iter()
        .map(|kind| (kind.api_version(), kind.kind.clone()));
    let mut all: Vec<_> = all
        .filter(|(version, kind)| super::has_form(version, kind))
        .collect();
    all.push(("v1".into(), "Status".into()));
    assert!(META.ends_with("v1."));
    all
}
