//! Rules of custom resources: when a definition is written, and when an object is.
use serde_json::{Value, json};

use super::*;

/// The definition with rules on its spec.
fn with_rules(rules: Value) -> Value {
    let mut definition = definition();
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-validations"] =
        rules;
    definition
}

fn ruled(rules: Value) -> Kind {
    let mut definition = admitted(with_rules(rules)).expect("valid");
    definition["status"]["acceptedNames"] = settle_names(&definition, std::iter::empty()).accepted;
    definition["status"]["conditions"] = json!([{"type": "Established", "status": "True"}]);
    kinds(&definition).remove(0)
}

#[test]
fn rules_judge_objects_in_upstreams_words() {
    for (rule, spec, want) in [
        (
            json!({"rule": "self.replicas <= 3"}),
            json!({"cronSpec": "1", "replicas": 4}),
            "spec: Invalid value: failed rule: self.replicas <= 3",
        ),
        (
            json!({"rule": "self.replicas <= 3", "message": "too many"}),
            json!({"cronSpec": "1", "replicas": 4}),
            "spec: Invalid value: too many",
        ),
        (
            json!({"rule": "self.replicas <= 3", "messageExpression": "string(self.replicas)"}),
            json!({"cronSpec": "1", "replicas": 4}),
            "spec: Invalid value: 4",
        ),
        (
            json!({"rule": "self.replicas <= 3", "message": "no", "reason": "FieldValueForbidden", "fieldPath": ".replicas"}),
            json!({"cronSpec": "1", "replicas": 4}),
            "spec.replicas: Forbidden: no",
        ),
        (
            json!({"rule": "self.replicas <= 3", "message": "no", "fieldPath": "['replicas']"}),
            json!({"cronSpec": "1", "replicas": 4}),
            "spec.replicas: Invalid value: no",
        ),
        (
            json!({"rule": "self.replicas <= 3", "message": "no", "fieldPath": ".labels['b.c']"}),
            json!({"cronSpec": "1", "replicas": 4}),
            "spec.labels[b.c]: Invalid value: no",
        ),
        (
            json!({"rule": "self.labels['x'] == 'y'"}),
            json!({"cronSpec": "1", "labels": {}}),
            "spec: Invalid value: \"object\": no such key: x evaluating rule: self.labels['x'] == 'y'",
        ),
        (
            json!({"rule": "!has(self.tags) || self.tags.all(t, t.startsWith('a'))"}),
            json!({"cronSpec": "1", "tags": ["b"]}),
            "spec: Invalid value: failed rule: !has(self.tags) || self.tags.all(t, t.startsWith('a'))",
        ),
    ] {
        let (kind, mut object) = (ruled(json!([rule])), object(spec));
        kind.default(&mut object);
        assert_eq!(join(&kind.validate_create(&object)), want);
    }
}

#[test]
fn transition_rules_run_on_updates() {
    let kind = ruled(json!([{"rule": "self.replicas >= oldSelf.replicas", "message": "only up"}]));
    let (old, new) = (
        object(json!({"cronSpec": "1", "replicas": 3})),
        object(json!({"cronSpec": "1", "replicas": 2})),
    );
    assert!(kind.validate_create(&new).is_empty());
    let errors = kind.validate_update(None, &new, &old);
    assert!(
        errors
            .iter()
            .any(|e| e.to_string() == "spec: Invalid value: only up"),
        "{errors:?}"
    );
    let kind = ruled(json!([{"rule": "oldSelf.hasValue() || self.replicas == 1", "optionalOldSelf": true}]));
    assert_eq!(kind.validate_create(&new).len(), 1);
    assert!(kind.validate_update(None, &new, &old).is_empty());
}

#[test]
fn rules_that_do_not_compile_or_cost_too_much_are_refused() {
    for (rule, want) in [
        (
            "self.nope == 1",
            "spec.validation.openAPIV3Schema.properties[spec].x-kubernetes-validations[0].rule: Invalid value: ",
        ),
        (
            "self.nope == 1",
            "compilation failed: ERROR: <input>:1:5: undefined field 'nope'",
        ),
        // What nothing is said of is nothing to a rule.
        ("self.any.l == 1", "undefined field 'l'"),
        ("self.replicas", "cel expression must evaluate to a bool"),
        // What may be null is of its type all the same.
        (
            "self.nothing == null",
            "found no matching overload for '_==_' applied to '(string, null)'",
        ),
        (
            "self.tags.transformList(i, i, i).size() > 0",
            "duplicate variable name: i",
        ),
        (
            "self.tags.transformMapEntry(i, v, v).size() > 0",
            "found no matching overload for 'cel.@mapInsert' applied to '(map(dyn, dyn), string)'",
        ),
        (
            "",
            "x-kubernetes-validations[0].rule: Required value: rule is not specified",
        ),
        (
            "self.parts.all(a, self.parts.all(b, self.parts.all(c, a.name != b.name && b.name != c.name)))",
            "rule: Forbidden: estimated rule cost exceeds budget by factor of more than 100x",
        ),
        (
            "string(self.replicas) + 'x' == '1'",
            "rule: Forbidden: estimated rule cost exceeds budget by factor of more than 100x",
        ),
        (
            "self.tags.map(t, t).isSorted()",
            "rule: Forbidden: estimated rule cost exceeds budget by factor of more than 100x",
        ),
        (
            "self.cronSpec.split(',').all(x, x.startsWith('a'))",
            "rule: Forbidden: estimated rule cost exceeds budget by factor of 1.6x",
        ),
    ] {
        let error = admitted(with_rules(json!([{"rule": rule}]))).expect_err(rule);
        assert!(error.contains(want), "{error}");
    }
}

#[test]
fn of_a_rule_that_does_not_compile_it_is_told_too_that_it_has_no_use_for_the_old() {
    let rules = json!([{"rule": "self.nope == oldSelf", "optionalOldSelf": true}]);
    let error = admitted(with_rules(rules)).expect_err("refused");
    for want in [
        "undefined field 'nope'",
        "[0].optionalOldSelf: Invalid value: true: may not be set if oldSelf is not used in rule",
    ] {
        assert!(error.contains(want), "{error}");
    }
}

#[test]
fn only_what_costs_much_is_blamed_for_the_sum() {
    let costly = "self.parts.all(a, self.parts.all(b, self.parts.all(c, a.name != b.name))) ? 'a' : 'b'";
    let rules = json!([{"rule": "self.replicas == 1", "messageExpression": costly}]);
    let error = admitted(with_rules(rules)).expect_err("refused");
    let blamed = "contributed to estimated rule cost total";
    assert!(
        error.contains(&format!("messageExpression: Forbidden: {blamed}")),
        "{error}"
    );
    assert!(!error.contains(&format!("rule: Forbidden: {blamed}")), "{error}");
}

#[test]
fn a_rule_that_costs_too_much_on_an_object_fails_it() {
    let mut definition = with_rules(json!([{"rule": "self.any.l.all(a, self.any.l.all(b, a + b >= 0))"}]));
    let numbers = json!({"type": "array", "items": {"type": "integer"}});
    let any = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/any";
    definition.pointer_mut(any).expect("its schema")["properties"] = json!({"l": numbers});
    definition["status"] = json!({"acceptedNames": {"plural": "crontabs", "kind": "CronTab", "listKind": "CronTabList", "singular": "crontab"},
        "conditions": [{"type": "Established", "status": "True"}]});
    let kind = kinds(&definition).remove(0);
    let numbers: Vec<u32> = (0..2000).collect();
    let errors = kind.validate_create(&object(json!({"cronSpec": "1", "any": {"l": numbers}})));
    assert!(
        join(&errors).contains("no further validation rules will be run due to call cost exceeds limit"),
        "{errors:?}"
    );
}

#[test]
fn rules_run_unless_what_they_rely_on_is_broken() {
    let kind = ruled(json!([{"rule": "self.replicas <= 3", "message": "too many"}]));
    for (spec, want) in [
        (json!({"cronSpec": "x", "replicas": 4}), Some(true)),
        (json!({"cronSpec": "1", "replicas": 40}), Some(true)),
        (json!({"cronSpec": "1", "replicas": 4, "image": "1"}), Some(true)),
        (
            json!({"cronSpec": "1", "replicas": 4, "tags": ["a", "a"]}),
            Some(true),
        ),
        (
            json!({"cronSpec": "1", "replicas": 4, "image": "123456"}),
            Some(false),
        ),
        (json!({"cronSpec": "1", "replicas": 4, "mode": "c"}), Some(false)),
        (json!({"cronSpec": 1, "replicas": 4}), Some(false)),
        (json!({"replicas": 4}), Some(false)),
        (json!({"cronSpec": "1", "replicas": 2}), None),
    ] {
        let lines: Vec<String> = kind
            .validate_create(&object(spec.clone()))
            .iter()
            .map(ToString::to_string)
            .collect();
        let says = |words: &str| lines.iter().any(|line| line.starts_with(words));
        let unchecked = "<nil>: Invalid value: null: some validation rules were not checked because the object was invalid;";
        assert_eq!(
            says("spec: Invalid value: too many"),
            want == Some(true),
            "{spec} {lines:?}"
        );
        assert_eq!(says(unchecked), want == Some(false), "{spec} {lines:?}");
    }
}
