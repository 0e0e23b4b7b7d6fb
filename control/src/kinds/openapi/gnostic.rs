//! The Swagger 2.0 document in protobuf: kubectl before 1.28 reads it in no other form.
//!
//! Message and field numbers: google/gnostic, `openapiv2/OpenAPIv2.proto` (package `openapi.v2`). Only what `v2` writes is
//! translated; wire format: protobuf's encoding page (proto3).
use serde_json::Value;

/// A message being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// A length-delimited field (wire type 2).
    fn bytes(&mut self, number: u64, bytes: &[u8]) {
        self.varint(number << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn message(&mut self, number: u64, message: Message) {
        self.bytes(number, &message.0);
    }

    fn text(&mut self, number: u64, value: &Value) {
        if let Some(text) = value.as_str().filter(|text| !text.is_empty()) {
            self.bytes(number, text.as_bytes());
        }
    }

    fn texts(&mut self, number: u64, values: &Value) {
        for value in values.as_array().into_iter().flatten() {
            self.text(number, value);
        }
    }

    /// A bool (wire type 0); false is the absence of it.
    fn flag(&mut self, number: u64, value: &Value) {
        if value == true {
            self.varint(number << 3);
            self.varint(1);
        }
    }

    /// A field of type `Any`: any JSON is YAML.
    fn any(&mut self, number: u64, value: &Value) {
        self.message(number, any(value));
    }

    /// The `x-…` members as `NamedAny`.
    fn extensions(&mut self, number: u64, object: &Value) {
        for (name, value) in fields(object).filter(|(name, _)| name.starts_with("x-")) {
            self.message(number, named(name, any(value)));
        }
    }
}

fn any(value: &Value) -> Message {
    let mut out = Message::default();
    out.bytes(2, value.to_string().as_bytes());
    out
}

/// `Named…`: a map's entry.
fn named(name: &str, value: Message) -> Message {
    let mut out = Message::default();
    out.bytes(1, name.as_bytes());
    out.message(2, value);
    out
}

/// A message with one field: the `oneof` wrappers and the lists with a name of their own.
fn wrap(number: u64, inner: Message) -> Message {
    let mut out = Message::default();
    out.message(number, inner);
    out
}

/// The members of an object; none where there is none.
fn fields(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// `Document`.
pub fn document(swagger: &Value) -> Vec<u8> {
    let mut info = Message::default();
    info.text(1, &swagger["info"]["title"]);
    info.text(2, &swagger["info"]["version"]);
    let mut paths = Message::default();
    for (path, item) in fields(&swagger["paths"]) {
        paths.message(2, named(path, path_item(item)));
    }
    let mut definitions = Message::default();
    for (name, definition) in fields(&swagger["definitions"]) {
        definitions.message(1, named(name, schema(definition)));
    }
    let mut out = Message::default();
    out.text(1, &swagger["swagger"]);
    out.message(2, info);
    out.message(8, paths);
    out.message(9, definitions);
    let mut shared = Message::default();
    for (name, parameter) in fields(&swagger["parameters"]) {
        shared.message(1, named(name, self::parameter(parameter)));
    }
    if !shared.0.is_empty() {
        out.message(10, shared);
    }
    out.0
}

fn path_item(item: &Value) -> Message {
    const VERBS: [(&str, u64); 7] = [
        ("get", 2),
        ("put", 3),
        ("post", 4),
        ("delete", 5),
        ("options", 6),
        ("head", 7),
        ("patch", 8),
    ];
    let mut out = Message::default();
    for (verb, number) in VERBS {
        if let Some(operation) = item.get(verb) {
            out.message(number, self::operation(operation));
        }
    }
    parameters(&mut out, 9, &item["parameters"]);
    out
}

fn operation(operation: &Value) -> Message {
    let mut out = Message::default();
    out.texts(1, &operation["tags"]);
    out.text(3, &operation["description"]);
    out.text(5, &operation["operationId"]);
    out.texts(6, &operation["produces"]);
    out.texts(7, &operation["consumes"]);
    parameters(&mut out, 8, &operation["parameters"]);
    out.message(9, responses(&operation["responses"]));
    out.texts(10, &operation["schemes"]);
    out.extensions(13, operation);
    out
}

fn parameters(out: &mut Message, number: u64, parameters: &Value) {
    for parameter in parameters.as_array().into_iter().flatten() {
        out.message(number, item(parameter));
    }
}

/// `ParametersItem`: a parameter, or where it is said.
fn item(parameter: &Value) -> Message {
    match parameter.get("$ref") {
        None => wrap(1, self::parameter(parameter)),
        Some(reference) => {
            let mut inner = Message::default();
            inner.text(1, reference);
            wrap(2, inner)
        }
    }
}

/// `Parameter`: of the body, of the query or of the path.
fn parameter(parameter: &Value) -> Message {
    if parameter["in"] == "body" {
        let mut body = Message::default();
        body.text(1, &parameter["description"]);
        body.text(2, &parameter["name"]);
        body.text(3, &parameter["in"]);
        body.flag(4, &parameter["required"]);
        body.message(5, schema(&parameter["schema"]));
        return wrap(1, body);
    }
    let in_query = parameter["in"] == "query";
    let mut inner = Message::default();
    inner.flag(1, &parameter["required"]);
    inner.text(2, &parameter["in"]);
    inner.text(3, &parameter["description"]);
    inner.text(4, &parameter["name"]);
    inner.text(if in_query { 6 } else { 5 }, &parameter["type"]);
    wrap(2, wrap(if in_query { 3 } else { 4 }, inner))
}

fn responses(responses: &Value) -> Message {
    let mut out = Message::default();
    for (code, response) in fields(responses) {
        let mut inner = Message::default();
        inner.text(1, &response["description"]);
        if let Some(body) = response.get("schema") {
            inner.message(2, wrap(1, schema(body)));
        }
        out.message(1, named(code, wrap(1, inner)));
    }
    out
}

fn schema(value: &Value) -> Message {
    let mut out = Message::default();
    out.text(1, &value["$ref"]);
    out.text(2, &value["format"]);
    out.text(4, &value["description"]);
    if let Some(default) = value.get("default") {
        out.any(5, default);
    }
    out.texts(19, &value["required"]);
    for one in value["enum"].as_array().into_iter().flatten() {
        out.any(20, one);
    }
    if let Some(additional) = value.get("additionalProperties") {
        out.message(21, wrap(1, schema(additional)));
    }
    if value["type"].is_string() {
        let mut types = Message::default();
        types.text(1, &value["type"]);
        out.message(22, types);
    }
    if let Some(items) = value.get("items") {
        out.message(23, wrap(1, schema(items)));
    }
    let mut properties = Message::default();
    for (name, property) in fields(&value["properties"]) {
        properties.message(1, named(name, schema(property)));
    }
    if !properties.0.is_empty() {
        out.message(25, properties);
    }
    out.extensions(31, value);
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn messages_are_nested_as_the_proto_file_says() {
        // Definitions(9) { NamedSchema(1) { name "A", Schema(2) { type(22) { "object" } } } }
        let bytes = document(&json!({"swagger": "2.0", "definitions": {"A": {"type": "object"}}}));
        let tail = [
            9 << 3 | 2,
            18,
            1 << 3 | 2,
            16,
            1 << 3 | 2,
            1,
            b'A',
            2 << 3 | 2,
            11,
            0xb2,
            0x01,
            8,
            1 << 3 | 2,
            6,
            b'o',
            b'b',
            b'j',
            b'e',
            b'c',
            b't',
        ];
        assert!(bytes.starts_with(b"\x0a\x032.0"), "{bytes:?}");
        assert!(bytes.ends_with(&tail), "{bytes:?}");
    }

    #[test]
    fn parameters_say_where_they_are() {
        let query = parameter(&json!({"in": "query", "name": "q", "type": "string"}));
        assert_eq!(query.0[0], 2 << 3 | 2);
        assert_eq!(query.0[2], 3 << 3 | 2);
        let body = parameter(&json!({"in": "body", "name": "body", "schema": {}}));
        assert_eq!(body.0[0], 1 << 3 | 2);
        let reference = item(&json!({"$ref": "#/parameters/p"}));
        assert_eq!(reference.0[0], 2 << 3 | 2);
    }
}
