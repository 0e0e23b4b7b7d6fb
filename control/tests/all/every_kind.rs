//! What holds for every kind that is served, by one loop over discovery: nothing of one kind is written here but a sample.
use super::plane::Plane;
use http::{Method, Request};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Has a sample of most kinds ("base" lines).
const SAMPLES: &str = include_str!("../../src/kinds/data/judgements.jsonl");
/// Labels are desired state of these.
const COUNTS_LABELS: &str = "endpointslices";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
const PARTIAL: &str = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json";

/// A kind as discovery names it.
struct Served {
    group: String,
    version: String,
    plural: String,
    namespaced: bool,
    has_status: bool,
}

impl Served {
    fn group_resource(&self) -> String {
        match self.group.as_str() {
            "" => self.plural.clone(),
            group => format!("{}.{group}", self.plural),
        }
    }

    fn path(&self) -> String {
        let root = match self.group.as_str() {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        };
        match self.namespaced {
            true => format!("{root}/namespaces/default/{}", self.plural),
            false => format!("{root}/{}", self.plural),
        }
    }
}

fn texts(list: &Value) -> BTreeSet<&str> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

/// All that can be created, listed and deleted.
async fn served(plane: &Plane) -> Vec<Served> {
    let mut versions = vec![(String::new(), "v1".to_owned(), "/api/v1".to_owned())];
    let (_, groups) = plane.get("/apis").await;
    for group in groups["groups"].as_array().unwrap() {
        for version in group["versions"].as_array().unwrap() {
            let (name, both) = (
                group["name"].as_str().unwrap(),
                version["groupVersion"].as_str().unwrap(),
            );
            let version = version["version"].as_str().unwrap();
            versions.push((name.to_owned(), version.to_owned(), format!("/apis/{both}")));
        }
    }
    let mut found = Vec::new();
    for (group, version, path) in versions {
        let (_, list) = plane.get(&path).await;
        let resources = list["resources"].as_array().unwrap();
        let named = |name: &str| resources.iter().any(|r| r["name"] == name);
        let whole =
            |r: &&Value| texts(&r["verbs"]).is_superset(&["create", "list", "delete", "patch"].into());
        for resource in resources.iter().filter(whole) {
            let plural = resource["name"].as_str().unwrap();
            found.push(Served {
                group: group.clone(),
                version: version.clone(),
                plural: plural.to_owned(),
                namespaced: resource["namespaced"] == true,
                has_status: named(&format!("{plural}/status")),
            });
        }
    }
    found
}

/// Samples by group, version and plural.
fn samples() -> BTreeMap<(String, String, String), Value> {
    let lines = SAMPLES
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut samples = BTreeMap::new();
    for line in lines.filter(|line| line["base"].is_string()).chain(others()) {
        let text = |key: &str| line[key].as_str().unwrap().to_owned();
        let key = (text("group"), text("version"), text("plural"));
        samples.entry(key).or_insert_with(|| line["object"].clone());
    }
    samples
}

/// Samples of what is judged elsewhere.
fn others() -> Vec<Value> {
    let of = |group: &str, version: &str, plural: &str, kind: &str, name: &str, body: Value| {
        let api_version = format!("{group}/{version}");
        let mut object = json!({"apiVersion": api_version.trim_start_matches('/'), "kind": kind, "metadata": {"name": name}});
        json_patch::merge(&mut object, &body);
        json!({"group": group, "version": version, "plural": plural, "object": object})
    };
    let admission = "admissionregistration.k8s.io";
    let schema = json!({"openAPIV3Schema": {"type": "object"}});
    vec![
        of(
            "",
            "v1",
            "pods",
            "Pod",
            "x",
            json!({"spec": {"containers": [{"name": "c", "image": "i"}]}}),
        ),
        of(
            "",
            "v1",
            "services",
            "Service",
            "x",
            json!({"spec": {"ports": [{"port": 80}]}}),
        ),
        of("", "v1", "nodes", "Node", "x", json!({})),
        of("", "v1", "namespaces", "Namespace", "x", json!({})),
        of(
            admission,
            "v1",
            "validatingadmissionpolicybindings",
            "ValidatingAdmissionPolicyBinding",
            "x",
            json!({"spec": {"policyName": "none", "validationActions": ["Audit"]}}),
        ),
        of(
            admission,
            "v1",
            "mutatingadmissionpolicybindings",
            "MutatingAdmissionPolicyBinding",
            "x",
            json!({"spec": {"policyName": "none"}}),
        ),
        of(
            "apiextensions.k8s.io",
            "v1",
            "customresourcedefinitions",
            "CustomResourceDefinition",
            "ys.example.com",
            json!({"spec": {"group": "example.com", "scope": "Cluster", "names": {"plural": "ys", "kind": "Y"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}]}}),
        ),
        of(
            "apiregistration.k8s.io",
            "v1",
            "apiservices",
            "APIService",
            "v1.y.example.com",
            json!({"spec": {"group": "y.example.com", "version": "v1", "groupPriorityMinimum": 10, "versionPriority": 10,
                "insecureSkipTLSVerify": true, "service": {"name": "none", "namespace": "default"}}}),
        ),
    ]
}

/// A sample for the namespace `default`, that calls nobody.
fn prepared(kind: &Served, mut object: Value) -> Value {
    object.as_object_mut().unwrap().remove("status");
    if kind.namespaced {
        object["metadata"]["namespace"] = "default".into();
    }
    for about in ["involvedObject", "regarding"] {
        if object[about].is_object() {
            object[about]["namespace"] = "default".into();
        }
    }
    if object["webhooks"].is_array() {
        object["webhooks"] = json!([]);
    }
    object
}

/// The checks of one kind, and what failed of them.
struct Trial<'a> {
    plane: &'a Plane,
    kind: &'a Served,
    sample: Value,
    name: String,
    failures: Vec<String>,
}

impl Trial<'_> {
    fn check(&mut self, good: bool, what: &str, shown: &Value) {
        if !good {
            let resource = self.kind.group_resource();
            self.failures
                .push(format!("{resource}/{}: {what}: {shown}", self.kind.version));
        }
    }

    fn at(&self, rest: &str) -> String {
        format!("{}/{}{rest}", self.kind.path(), self.name)
    }

    async fn patch(&self, rest: &str, body: Value) -> (u16, Value) {
        let merge = "application/merge-patch+json";
        let (code, answer) = self
            .plane
            .send(Method::PATCH, &self.at(rest), merge, body.to_string())
            .await;
        (code.as_u16(), answer)
    }

    async fn rendition(&self, accept: &str) -> Value {
        let request = Request::get(self.kind.path()).header("accept", accept);
        let request = request.body(Vec::new().into()).unwrap();
        let response = self.plane.client().send(request).await.unwrap();
        let body = http_body_util::BodyExt::collect(response.into_body())
            .await
            .unwrap();
        serde_json::from_slice(&body.to_bytes()).unwrap()
    }

    async fn dry_runs_store_nothing(&mut self) {
        let path = format!("{}?dryRun=All", self.kind.path());
        let (code, answer) = self.plane.call(Method::POST, &path, self.sample.clone()).await;
        self.check(code == 201, "dry run of a creation", &answer);
        let (code, answer) = self.plane.get(&self.at("")).await;
        self.check(code == 404, "was stored by a dry run", &answer);
    }

    async fn is_created(&mut self) {
        let (code, made) = self
            .plane
            .call(Method::POST, &self.kind.path(), self.sample.clone())
            .await;
        self.check(
            code == 201 && made["metadata"]["uid"].is_string(),
            "creation",
            &made,
        );
    }

    async fn counts_generations(&mut self) {
        if self.kind.plural != COUNTS_LABELS {
            let labels = json!({"metadata": {"labels": {"trial": "yes"}}});
            let (before, code, after) = self.patch_alone("", labels).await;
            let same = after["metadata"]["generation"] == before["metadata"]["generation"];
            self.check(code == 200 && same, "a label changed the generation", &after);
        }
    }

    /// What there was and what a patch made of it, with no write of a controller in between.
    async fn patch_alone(&self, rest: &str, body: Value) -> (Value, u16, Value) {
        loop {
            let (_, before) = self.plane.get(&self.at("")).await;
            let mut only = body.clone();
            only["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"].clone();
            let (code, after) = self.patch(rest, only).await;
            if code != 409 {
                return (before, code, after);
            }
        }
    }

    async fn keeps_status_and_spec_apart(&mut self) {
        let (code, after) = self
            .patch("", json!({"status": {"observedGeneration": 4711}}))
            .await;
        let written = after["status"]["observedGeneration"] == 4711;
        self.check(
            code == 200 && !written,
            "status written through the object",
            &after,
        );
        let (before, code, after) = self.patch_alone("/status", json!({"spec": null})).await;
        let same = after["spec"] == before["spec"]
            && after["metadata"]["generation"] == before["metadata"]["generation"];
        self.check(code == 200 && same, "spec written through the status", &after);
    }

    async fn minds_preconditions(&mut self) {
        let (_, now) = self.plane.get(&self.at("")).await;
        let (uid, version) = (&now["metadata"]["uid"], &now["metadata"]["resourceVersion"]);
        let [uid, version] = [uid, version].map(|is| is.as_str().unwrap_or_default());
        let (kind, group) = (now["kind"].as_str().unwrap(), self.kind.group.as_str());
        // Two kinds look for themselves, and name the resource.
        let by_itself = ["Namespace", "CustomResourceDefinition"].contains(&kind);
        let named = if by_itself {
            self.kind.plural.as_str()
        } else {
            kind
        };
        let named = format!("{named}.{group}");
        let start = format!(
            "Operation cannot be fulfilled on {} \"{}\": ",
            named.trim_end_matches('.'),
            self.name
        );
        let why = |what: &str, said: &str, is: &str, since: &str| match by_itself {
            true => {
                format!(
                    "{start}Precondition failed: {what} in precondition: {said}, {what} in object meta: {is}"
                )
            }
            false => format!(
                "{start}the {what} in the precondition ({said}) does not match the {what} in record ({is}). The object \
                 might have been {since}"
            ),
        };
        let cases = [
            (
                json!({"uid": "other"}),
                why("UID", "other", uid, "deleted and then recreated"),
            ),
            (
                json!({"resourceVersion": "1"}),
                why("ResourceVersion", "1", version, "modified"),
            ),
        ];
        for (conditions, message) in cases {
            let body = json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": conditions});
            let (code, answer) = self.plane.call(Method::DELETE, &self.at(""), body).await;
            // Controllers may have written meanwhile: the version shown is then a later one.
            let text = answer["message"].as_str().unwrap_or_default();
            let later = conditions["uid"].is_null()
                && text.starts_with(&start)
                && text.contains("ResourceVersion in");
            let same = text == message || later;
            self.check(
                code == 409 && answer["reason"] == "Conflict" && same,
                "deletion with preconditions",
                &answer,
            );
        }
    }

    async fn lists_in_pages(&mut self) {
        let mut second = self.sample.clone();
        second["metadata"]["name"] = format!("{}2", self.name).into();
        let named_freely =
            self.name == "x" && self.plane.call(Method::POST, &self.kind.path(), second).await.0 == 201;
        let (mut seen, mut token) = (Vec::new(), String::new());
        loop {
            let path = format!("{}?limit=1&continue={token}", self.kind.path());
            let (code, page) = self.plane.get(&path).await;
            let items = page["items"].as_array().cloned().unwrap_or_default();
            self.check(code == 200 && items.len() <= 1, "a page of one", &page);
            seen.extend(
                items
                    .iter()
                    .map(|item| item["metadata"]["name"].as_str().unwrap_or_default().to_owned()),
            );
            match page["metadata"]["continue"]
                .as_str()
                .filter(|next| !next.is_empty())
            {
                Some(next) => token = next.to_owned(),
                None => break,
            }
        }
        let own = |name: &str| seen.iter().filter(|seen| *seen == name).count();
        let wanted = usize::from(named_freely);
        let good = own(&self.name) == 1 && own(&format!("{}2", self.name)) == wanted;
        self.check(
            good && seen.is_sorted(),
            "pages have each object once",
            &json!(seen),
        );
        if named_freely {
            let path = format!("{}2", self.at(""));
            self.plane
                .call(Method::DELETE, &path, json!({"gracePeriodSeconds": 0}))
                .await;
        }
    }

    async fn has_renditions(&mut self) {
        let table = self.rendition(TABLE).await;
        let columns = table["columnDefinitions"].as_array().map_or(0, Vec::len);
        let rows = table["rows"].as_array().cloned().unwrap_or_default();
        let whole = |row: &Value| {
            row["cells"]
                .as_array()
                .is_some_and(|cells| cells.len() == columns)
                && row["object"]["kind"] == "PartialObjectMetadata"
        };
        let good = table["kind"] == "Table" && columns > 0 && !rows.is_empty() && rows.iter().all(whole);
        self.check(good, "table", &table);
        let partial = self.rendition(PARTIAL).await;
        let items = partial["items"].as_array().cloned().unwrap_or_default();
        let bare = |item: &Value| item["metadata"].is_object() && item.get("spec").is_none();
        let good = partial["kind"] == "PartialObjectMetadataList" && items.iter().all(bare);
        self.check(good && !items.is_empty(), "metadata only", &partial);
    }

    async fn is_deleted(&mut self) {
        let path = self.at("?dryRun=All");
        let (code, answer) = self.plane.call(Method::DELETE, &path, Value::Null).await;
        self.check(code == 200, "dry run of a deletion", &answer);
        let (code, answer) = self.plane.get(&self.at("")).await;
        let marked = answer["metadata"]["deletionTimestamp"].is_string();
        self.check(code == 200 && !marked, "was deleted by a dry run", &answer);
        let now = json!({"gracePeriodSeconds": 0});
        let (code, answer) = self.plane.call(Method::DELETE, &self.at(""), now).await;
        self.check(matches!(code.as_u16(), 200 | 202), "deletion", &answer);
    }
}

#[tokio::test]
async fn every_kind_behaves_alike() {
    let plane = Plane::start().await;
    let (kinds, samples) = (served(&plane).await, samples());
    let mut failures = Vec::new();
    assert!(kinds.len() > 50, "{}", kinds.len());
    for kind in &kinds {
        let key = (kind.group.clone(), kind.version.clone(), kind.plural.clone());
        let Some(sample) = samples.get(&key) else {
            failures.push(format!("no sample of {key:?}"));
            continue;
        };
        let sample = prepared(kind, sample.clone());
        let mut trial = Trial {
            plane: &plane,
            kind,
            name: sample["metadata"]["name"].as_str().unwrap().to_owned(),
            sample,
            failures: Vec::new(),
        };
        trial.dry_runs_store_nothing().await;
        trial.is_created().await;
        if trial.failures.is_empty() {
            trial.counts_generations().await;
            if kind.has_status {
                trial.keeps_status_and_spec_apart().await;
            }
            trial.minds_preconditions().await;
            trial.lists_in_pages().await;
            trial.has_renditions().await;
            trial.is_deleted().await;
        }
        failures.append(&mut trial.failures);
    }
    assert!(
        failures.is_empty(),
        "{} fail:\n{}",
        failures.len(),
        failures.join("\n")
    );
}
