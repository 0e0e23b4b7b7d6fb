//! `AdmissionReview` as a webhook answers with it: the types of its fields, which the API has no path for and no OpenAPI.
use std::sync::LazyLock;

use super::error::DecodeError;
use super::schema::Schemas;
use serde_json::Value;

/// In the format of the table (`data/extract.py`); what the answer repeats of the question counts for nothing.
const FIELDS: &str = r##"
{"n":"io.k8s.api.admission.V.AdmissionReview","p":[["kind","s","z"],["apiVersion","s","z"],["response","#io.k8s.api.admission.V.AdmissionResponse","k"]]}
{"n":"io.k8s.api.admission.V.AdmissionResponse","p":[["uid","s","z",{"g":"types.UID"}],["allowed","b","a"],["status","#io.k8s.apimachinery.pkg.apis.meta.v1.Status","k"],["patch","y","z"],["patchType","s","k",{"g":"V.PatchType"}],["auditAnnotations","{s","z"],["warnings","[s","z"]]}
"##;

static SCHEMAS: LazyLock<Schemas> = LazyLock::new(|| {
    let of = |version: &str| Schemas::parse(&FIELDS.replace("V.", &format!("{version}.")));
    let own = ["v1", "v1beta1"].map(of);
    let own = own.iter().flat_map(Schemas::iter).cloned();
    Schemas::extending(Schemas::builtin(), own.collect())
});

/// Drops what an answer of this version (`v1`, `v1beta1`) has no field for.
///
/// # Errors
/// A field is of another type, in the words of upstream's decoder.
pub fn admission(version: &str, answer: &mut Value) -> Result<(), DecodeError> {
    let name = format!("io.k8s.api.admission.{version}.AdmissionReview");
    let found = SCHEMAS.get(&name);
    let definition = found.ok_or_else(|| DecodeError::new(format!("the schemas lack {name}")))?;
    super::decode(&SCHEMAS, definition, answer).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_are_of_their_types() {
        let of = |structure: &str, path: &str, ty: &str| {
            format!("Go struct field {structure}.response{path} of type {ty}")
        };
        for (response, word, field) in [
            (
                json!([]),
                "array",
                of("AdmissionReview", "", "v1.AdmissionResponse"),
            ),
            (
                json!({"uid": 5}),
                "number",
                of("AdmissionResponse", ".uid", "types.UID"),
            ),
            (
                json!({"allowed": "yes"}),
                "string",
                of("AdmissionResponse", ".allowed", "bool"),
            ),
            (
                json!({"patch": 5}),
                "number",
                of("AdmissionResponse", ".patch", "[]uint8"),
            ),
            (
                json!({"patchType": 5}),
                "number",
                of("AdmissionResponse", ".patchType", "v1.PatchType"),
            ),
            (
                json!({"warnings": "x"}),
                "string",
                of("AdmissionResponse", ".warnings", "[]string"),
            ),
            (
                json!({"warnings": [1]}),
                "number",
                of("AdmissionResponse", ".warnings", "string"),
            ),
            (
                json!({"auditAnnotations": {"a": 1}}),
                "number",
                of("AdmissionResponse", ".auditAnnotations", "string"),
            ),
            (
                json!({"auditAnnotations": []}),
                "array",
                of("AdmissionResponse", ".auditAnnotations", "map[string]string"),
            ),
            (
                json!({"status": "no"}),
                "string",
                of("AdmissionResponse", ".status", "v1.Status"),
            ),
            (
                json!({"status": {"code": 99_999_999_999_u64}}),
                "number 99999999999",
                of("Status", ".status.code", "int32"),
            ),
            (
                json!({"status": {"details": {"causes": [{"field": 1}]}}}),
                "number",
                of("StatusCause", ".status.details.causes.field", "string"),
            ),
        ] {
            let mut answer = json!({"response": response});
            let told = admission("v1", &mut answer).expect_err("does not fit");
            assert_eq!(
                told.to_string(),
                format!("json: cannot unmarshal {word} into {field}")
            );
        }
        let mut answer = json!({"response": {"warnings": ["a", null], "Allowed": true}, "request": 5});
        assert_eq!(admission("v1beta1", &mut answer), Ok(()));
        assert_eq!(answer, json!({"response": {"warnings": ["a", ""]}}));
    }
}
