//! Bodies that are no objects of the kind that their path is of: what is posted below an object, and options. Each is
//! decoded as what it should be before anything of it is obeyed.
use super::decode::Decoded;
use super::query::FieldValidation;
use super::status::{ApiError, Result};
use super::{Call, decode, negotiate, strictness, write};
use crate::admission::{Action, Claims, Notes, Review};
use crate::kinds::schema::Schemas;
use crate::kinds::view::View;
use crate::kinds::{self, FieldIssue, Kind, Registry};
use serde_json::Value;
use std::sync::LazyLock;

/// What knows the built-in kinds, in upstream's words.
pub const SCHEME: &str = "pkg/api/legacyscheme/scheme.go:30";

/// Whether something can be done with what was posted: told between what may change it and what judges it.
pub type Fit<'f> = dyn Fn(&Value) -> Result<()> + Send + Sync + 'f;

/// What a body is to be.
pub struct Form {
    pub kind: &'static LazyLock<Kind>,
    /// The versions it may come in; the first is its kind's, and that of a body that says none.
    pub versions: &'static [&'static str],
    /// What upstream's decoder makes of every version of it.
    pub hub: &'static str,
}

impl Form {
    /// The body of the request, and what to warn of in it.
    pub fn read(&self, call: &Call) -> Result<(Value, Vec<String>)> {
        let validation = call.query.field_validation("CreateOptions")?;
        let body = decode::object(&self.kind.kind, negotiate::body(&call.headers)?, &call.body)?;
        self.judged(call, validation, body)
    }

    /// What a body is that was read, and what to warn of in it.
    pub fn judged(
        &self,
        call: &Call,
        validation: FieldValidation,
        body: Decoded,
    ) -> Result<(Value, Vec<String>)> {
        let (version, kind) = self.said(&body.value);
        let (value, mut issues) = self.decode(body.value)?;
        call.told.object(&value);
        issues.extend(body.issues);
        let warnings = strictness::judged(validation, strictness::in_order(call, issues));
        let warnings =
            warnings.map_err(|issues| self.refusal(&kind, &version, &strictness::told(&issues)))?;
        call.told.sent(|| value.clone());
        Ok((value, warnings))
    }

    /// Admission of what was posted for the object of that name, and what that made of it, which must be fit for what
    /// it asks. With what to warn of.
    pub async fn admit(
        &self,
        call: &Call,
        name: &str,
        (posted, warnings): (Value, Vec<String>),
        fit: &Fit<'_>,
    ) -> Result<(Value, Vec<String>)> {
        let dry_run = write::Options::of(&call.query, "CreateOptions")?.dry_run;
        let review = write::review(call, dry_run, name, self.action());
        let mut notes = Notes {
            warnings,
            ..Notes::default()
        };
        match self.admitted(call, &review, posted, fit, &mut notes).await {
            Ok(posted) => Ok((posted, notes.warnings)),
            Err(error) => Err(error.after(notes.warnings)),
        }
    }

    async fn admitted(
        &self,
        call: &Call,
        review: &Review<'_>,
        posted: Value,
        fit: &Fit<'_>,
        notes: &mut Notes,
    ) -> Result<Value> {
        let posted = self.mutated(call, review, posted, notes).await?;
        fit(&posted)?;
        write::judge(call, review, &posted, &mut Claims::default(), notes).await?;
        Ok(posted)
    }

    /// The first half of admission: what may be changed of what was posted.
    pub async fn mutated(
        &self,
        call: &Call,
        review: &Review<'_>,
        mut posted: Value,
        notes: &mut Notes,
    ) -> Result<Value> {
        write::mutate(call, review, &mut posted, notes).await?;
        self.decode(posted).map(|(posted, _)| posted)
    }

    /// What is being done.
    pub fn action(&self) -> Action<'static> {
        Action::Post { kind: self.kind }
    }

    /// The object, complete, and the fields that it should not have: they are passed over.
    pub fn decode(&self, mut body: Value) -> Result<(Value, Vec<FieldIssue>)> {
        let (version, kind) = self.said(&body);
        let decoded = match kind == self.kind.kind && self.versions.contains(&version.as_str()) {
            true => self.kind.prune(&mut body).map_err(|error| error.to_string()),
            false => Err(self.another(&kind, &version)),
        };
        let issues = decoded.map_err(|why| self.refusal(&kind, &version, &why))?;
        self.kind.default(&mut body);
        self.kind.normalise(&mut body);
        Ok((body, issues))
    }

    /// The version and the kind that a body says to be of, or is without saying it.
    fn said(&self, body: &Value) -> (String, String) {
        let said = |key: &str, own: &str| match body.text(key) {
            "" => own.to_owned(),
            said => said.to_owned(),
        };
        (
            said("apiVersion", self.versions[0]),
            said("kind", &self.kind.kind),
        )
    }

    /// The refusal of a body that says to be of this kind and version.
    fn refusal(&self, kind: &str, version: &str, why: &str) -> ApiError {
        ApiError::bad_request(format!(
            "{kind} in version {:?} cannot be handled as a {}: {why}",
            short(version),
            self.kind.kind
        ))
    }

    /// Why an object of another kind is not this.
    fn another(&self, kind: &str, version: &str) -> String {
        match Registry::builtin().object(version, kind) {
            Some(_) => format!(
                "converting ({}.{kind}) to ({}): unknown conversion",
                short(version),
                self.hub
            ),
            None => unregistered(kind, version, SCHEME),
        }
    }
}

/// `v1` of `apps/v1`.
fn short(version: &str) -> &str {
    version.rsplit('/').next().unwrap_or_default()
}

/// What upstream's `scheme` says of a kind that it does not know.
pub fn unregistered(kind: &str, version: &str, scheme: &str) -> String {
    format!("no kind {kind:?} is registered for version {version:?} in scheme {scheme:?}")
}

/// Decodes by the schema of that name: fields must be of the types that they have. Answers with those that it does not have.
pub fn as_defined(definition: &str, body: &mut Value) -> std::result::Result<Vec<FieldIssue>, String> {
    let schemas = Schemas::builtin();
    let found = schemas
        .get(definition)
        .ok_or_else(|| format!("the schemas lack {definition}"))?;
    kinds::decode(schemas, found, body).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const EVICTION: Form = Form {
        kind: &kinds::posted::EVICTION,
        versions: &["policy/v1", "policy/v1beta1"],
        hub: "policy.Eviction",
    };

    #[test]
    fn a_body_is_of_its_kind_and_its_fields_of_their_types() {
        let start = |kind: &str| format!("{kind} in version \"v1\" cannot be handled as a Eviction: ");
        for (body, why) in [
            (json!({}), String::new()),
            (
                json!({"kind": "Eviction", "apiVersion": "policy/v1"}),
                String::new(),
            ),
            (
                json!({"kind": "Eviction", "apiVersion": "policy/v1beta1"}),
                String::new(),
            ),
            (
                json!({"kind": "ConfigMap", "apiVersion": "v1"}),
                start("ConfigMap") + "converting (v1.ConfigMap) to (policy.Eviction): unknown conversion",
            ),
            (
                json!({"kind": "Foo"}),
                start("Foo")
                    + "no kind \"Foo\" is registered for version \"policy/v1\" in scheme \"pkg/api/legacyscheme/\
                 scheme.go:30\"",
            ),
            (
                json!({"metadata": 5}),
                start("Eviction")
                    + "json: cannot unmarshal number into Go struct field Eviction.metadata of type v1.ObjectMeta",
            ),
            (
                json!({"deleteOptions": {"preconditions": {"resourceVersion": 7}}}),
                start("Eviction")
                    + "json: cannot unmarshal number into Go struct field \
                 Preconditions.deleteOptions.preconditions.resourceVersion of type string",
            ),
        ] {
            let told = EVICTION
                .decode(body.clone())
                .err()
                .map(|error| error.message().to_owned());
            assert_eq!(told.unwrap_or_default(), why, "{body}");
        }
    }
}
