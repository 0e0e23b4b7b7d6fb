//! The language as its users write it.
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;

fn run(source: &str, json: &Json) -> Result<Value<'static>, String> {
    // Leaked in tests only: values borrow from what they are made of.
    let json: &'static Json = Box::leak(Box::new(json.clone()));
    let program = Program::compile(source, &[("self", Type::Dyn)]).map_err(|e| e.to_string())?;
    let program: &'static Program = Box::leak(Box::new(program));
    let mut scope = Scope::default();
    scope.set("self", Value::of(json, &Type::Dyn));
    let mut budget = CALL_LIMIT;
    program.evaluate(&scope, &mut budget).map_err(|e| e.to_string())
}

/// Why it is refused, or fails.
fn refusal(source: &str) -> String {
    run(source, &json!({"m": {"x": 1}})).expect_err(source)
}

fn holds(source: &str) -> bool {
    let json = json!({"a": 1, "s": "hello", "l": [1, 2, 3], "m": {"x": 1, "y": {"z": "q"}}, "n": null, "f": 1.5, "b": true});
    match run(source, &json) {
        Ok(Value::Bool(b)) => b,
        other => panic!("{source}: {other:?}"),
    }
}

#[test]
fn expressions_that_hold() {
    for source in [
        "self.a == 1 && self.s.startsWith('he')",
        "self.l.all(x, x > 0) && self.l.exists(x, x == 2) && self.l.exists_one(x, x == 3)",
        "self.l.map(x, x * 2) == [2, 4, 6] && self.l.filter(x, x > 1).size() == 2 && self.l.map(x, x > 1, x + 1) == [3, 4]",
        "has(self.m.x) && !has(self.m.nope) && has(self.m.y.z)",
        "self.m.exists(k, k == 'x') && 'x' in self.m && 2 in self.l && !(9 in self.l)",
        "self.m.y.z == \"q\" && self['s'] == 'hello' && self.l[0] == 1",
        "self.n == null && type(self.a) == int && type('') == string",
        "1 + 2 * 3 - 4 / 2 == 5 && -7 % 3 == -1 && 7u / 2u == 3u && 0x10 == 16",
        "true ? self.b : false",
        "self.nope == 1 || self.a == 1",
        "!(self.a == 2 && self.nope == 1)",
        "'abc'.matches('^a.c$') && 'a,b'.split(',') == ['a', 'b'] && ['a', 'b'].join('-') == 'a-b'",
        "'hello'.substring(1, 3) == 'el' && 'hello'.indexOf('l') == 2 && 'hello'.lastIndexOf('l') == 3",
        "'Hi'.lowerAscii() == 'hi' && ' x '.trim() == 'x' && 'aXbX'.replace('X', '-', 1) == 'a-bX'",
        "'%s is %d, %.2f, %x'.format(['a', 3, 1.5, 255]) == 'a is 3, 1.50, ff'",
        r#"'%s'.format([[1, 'a', true, null, 1.5]]) == '[1, "a", true, null, 1.500000]'"#,
        r#"'%s %s'.format([{'b': 1, 'a': [2]}, 'a']) == '{"a":[2], "b":1} a' && '%s'.format([1e21]) == '1e+21'"#,
        "string(1e6) == '1e+06' && string(1.0 / 0.0) == '+Inf' && !isIP('::ffff:1.2.3.4')",
        "'abc 123'.find('[0-9]+') == '123' && 'a1b2'.findAll('[0-9]') == ['1', '2']",
        "[1, 2, 2].isSorted() && [3, 1].min() == 1 && [1, 2].sum() == 3 && [1, 1, 2].distinct() == [1, 2]",
        "{'a': 1}.transformMapEntry(k, v, {v: k}) == {1: 'a'} && [1, 2].transformMapEntry(i, v, v > 1, {v: i}) == {2: 1}",
        "semver('1.2.3').isGreaterThan(semver('1.2.3-rc.1')) && semver('1.2.3-rc.2').isLessThan(semver('1.2.3-rc.10'))",
        "semver('1.10.0').compareTo(semver('1.9.9')) == 1 && semver('1.0.0+a') == semver('1.0.0+b')",
        "isSemver('1.0.0-alpha+001') && !isSemver('1.0') && !isSemver('v1.0.0') && !isSemver('01.1.1')",
        "semver('v1.02', true) == semver('1.2.0') && isSemver('v1', true) && !isSemver('1-a', true)",
        "semver('1.2.3').major() == 1 && semver('1.2.3').minor() == 2 && semver('1.2.3').patch() == 3",
        "quantity('1Gi').isGreaterThan(quantity('1G')) && isQuantity('5m') && !isQuantity('x') && quantity('1').add(quantity('500m')).compareTo(quantity('1500m')) == 0",
        "ip('10.0.0.1').family() == 4 && cidr('10.0.0.0/8').containsIP('10.1.2.3') && isIP('::1') && ip.isCanonical('::1')",
        "!isCIDR('::ffff:1.2.3.0/120') && !isCIDR('10.0.0.0/08') && isCIDR('::/0') && isCIDR('10.0.0.1/8')",
        "url('https://a.example:8080/p?q=1').getHost() == 'a.example:8080' && url('https://a/').getScheme() == 'https'",
        "timestamp('2024-01-02T03:04:05Z').getFullYear() == 2024 && duration('90m') == duration('1h30m')",
        "timestamp('2024-01-01T00:00:00Z') + duration('24h') == timestamp('2024-01-02T00:00:00Z')",
        "self.?nope.orValue(7) == 7 && self.?a.hasValue() && !self.?m.nope.hasValue() && optional.of(1).value() == 1",
        "self.?a.optMap(x, x + 1).orValue(0) == 2 && {'a': 1}[?'b'].orValue(3) == 3",
        "sets.contains([1, 2, 3], [2]) && sets.equivalent([1, 2], [2, 1])",
        "format.dns1123Label().validate('ok') == optional.none() && format.dns1123Label().validate('NO').hasValue()",
        "int('7') == 7 && string(7) == '7' && double(1) == 1.0 && dyn(1) == 1.0 && 1 < 1.5",
        "self.l.all(i, v, v == i + 1) && {'a': 1}.all(k, v, k == 'a' && v == 1)",
        "r'\\d' == '\\\\d' && '\\u00e9' == 'é' && b'a' == b'a'",
        "[3, 1, 2].sortBy(x, -x) == [3, 2, 1] && quantity('3').sub(1) == quantity('2') && sign(quantity('-1')) == -1",
        "string(timestamp('2020-01-01T00:00:00.5+02:00') + duration('1h')) == '2020-01-01T01:00:00.5+02:00'",
        "timestamp('2020-01-01T00:00:00+02:00') == timestamp('2019-12-31T22:00:00Z')",
        "timestamp('2020-01-01T00:00:00Z').getHours('-01:30') == 22",
        "int(duration('1s')) == 1000000000 && timestamp('2020-01-01T00:00:00Z').getHours('UTC') == 0",
    ] {
        assert!(holds(source), "{source}");
    }
}

#[test]
fn expressions_that_fail_say_why() {
    for (source, want) in [
        ("self.nope", "no such key: nope"),
        ("self.l[9]", "index out of bounds: 9"),
        ("self.a / 0", "division by zero"),
        ("9223372036854775807 + self.a", "integer overflow"),
        ("self.s + self.a", "no such overload"),
        (
            "cidr('::/0').containsIP('::ffff:1.2.3.4')",
            "IPv4-mapped IPv6 address",
        ),
        (
            "cidr('::/0').containsCIDR('::ffff:1.2.3.4/128')",
            "IPv4-mapped IPv6 address",
        ),
        (
            "cidr('::ffff:1.2.3.4/128').prefixLength() == 1",
            "IPv4-mapped IPv6 address",
        ),
        ("'x'.matches(dyn('(')) || self.b == 1", "error parsing regexp"),
    ] {
        let json = json!({"a": 1, "s": "x", "l": [], "b": true});
        let found = run(source, &json);
        let text = format!("{found:?}");
        assert!(text.contains(want), "{source}: {text}");
    }
}

#[test]
fn types_are_checked_before_anything_runs() {
    let structure = Structure {
        name: "Spec".into(),
        fields: [("x".to_owned(), Type::Int), ("s".to_owned(), Type::String)].into(),
    };
    let own = Type::Object(Arc::new(structure));
    for (source, want) in [
        ("self.y == 1", "undefined field 'y'"),
        (
            "self.x == 'a'",
            "found no matching overload for '_==_' applied to '(int, string)'",
        ),
        (
            "self.x.startsWith('a')",
            "found no matching overload for 'startsWith' applied to 'int.(string)'",
        ),
        ("other == 1", "undeclared reference to 'other' (in container '')"),
        (
            "self.x +",
            "1:9: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', \
             'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}",
        ),
        (
            "self.x == == 1",
            "1:11: Syntax error: extraneous input '==' expecting {'[', ",
        ),
        (
            "self.x == 1)",
            "Syntax error: extraneous input ')' expecting <EOF>",
        ),
        ("self.x 1 2", "Syntax error: mismatched input '1' expecting <EOF>"),
        (
            "self.x ? 1",
            "Syntax error: mismatched input '<EOF>' expecting ':'",
        ),
        ("self.", "1:6: Syntax error: no viable alternative at input '.'"),
    ] {
        let error = Program::compile(source, &[("self", own.clone())]).expect_err(source);
        assert!(error.0.contains(want), "{source}: {error}");
        assert!(error.0.starts_with("ERROR: <input>:1:"), "{error}");
    }
    let good = Program::compile("self.x > 1 && self.s.size() < 5", &[("self", own)]).expect("compiles");
    assert_eq!(good.ty, Type::Bool);
    assert!(good.uses("self") && !good.uses("oldSelf"));
}

#[test]
fn bombs_are_stopped_by_their_cost() {
    let numbers: Vec<i64> = (0..2000).collect();
    let json = json!({"l": numbers, "s": "a".repeat(100_000)});
    for source in [
        "self.l.all(a, self.l.all(b, self.l.all(c, a + b + c >= 0)))",
        "self.l.map(a, self.s + self.s).size() > 0",
        "self.s.replace('a', self.s).size() > 0",
        "self.l.map(a, self.l).map(a, self.l) == self.l.map(a, self.l).map(a, self.l)",
        "self.l.all(x, self.s.matches('(a+)+$'))",
        "self.l.sort().size() > 0",
        "self.l.sortBy(x, -x).size() > 0",
    ] {
        let error = run(source, &json).expect_err(source);
        assert_eq!(
            error, "operation cancelled: actual cost limit exceeded",
            "{source}"
        );
    }
}

#[test]
fn deep_and_long_sources_are_refused() {
    for source in [
        "(".repeat(10_000),
        "-".repeat(100_000),
        "[".repeat(5_000),
        vec!["1"; 10_000].join("+"),
        "a.".repeat(20_000),
    ] {
        assert!(Program::compile(&source, &[("a", Type::Dyn)]).is_err());
    }
    let long = vec!["true"; 2_000].join(" && ");
    assert!(
        Program::compile(&long, &[]).is_ok(),
        "long conjunctions are not deep"
    );
}

/// Grows a source until it is refused, running each that is not; why the last was refused or failed.
fn grown(begin: &str, grow: impl Fn(String) -> String) -> String {
    let mut source = begin.to_owned();
    for _ in 0..1000 {
        source = grow(source);
        if let Err(why) = run(&source, &json!([[]])) {
            return why;
        }
    }
    panic!("nothing stops {begin} from growing");
}

#[test]
fn depth_is_bounded_however_it_is_made() {
    let ends: [(&str, fn(String) -> String); 13] = [
        ("1", |s| s + " + 1"),
        ("1", |s| format!("({s}{})", " + 1".repeat(20))),
        ("1", |s| format!("({s}{}{})", " * 1".repeat(9), " + 1".repeat(9))),
        ("true", |s| format!("({s}{})", " == true".repeat(9))),
        ("1", |s| format!("int({s} + 1 + 1 + 1)")),
        ("1", |s| format!("(true ? {s} : 1) + 1 + 1")),
        ("[1]", |s| s + ".reverse()"),
        ("[1]", |s| s + ".map(x, x)"),
        ("1", |s| format!("[1].map(x, {s})[0] + 1 + 1")),
        ("optional.of(1)", |s| s + ".optMap(x, x)"),
        ("self", |s| s + "[?0]"),
        ("[1]", |s| s + ".map(x, [[[x]]])"),
        ("[dyn(1)]", |s| s + ".map(x, dyn([[[x]]]))"),
    ];
    for (begin, grow) in ends {
        let why = grown(begin, grow);
        assert!(
            why.contains("expression recursion limit exceeded"),
            "{begin}: {why}"
        );
    }
    let groups = (0..5).fold("1".to_owned(), |s, _| format!("({s}{})", " + 1".repeat(127)));
    assert!(refusal(&groups).contains("expression recursion limit exceeded"));
}

#[test]
fn keys_that_are_none_do_not_double_types() {
    for levels in [2, 10, 55] {
        let begin: String = (0..levels)
            .map(|i| format!("[{{x{i}: x{i}}}].exists(x{}, ", i + 1))
            .collect();
        let source = format!(
            "[{{1: 1}}].exists(x0, {begin}x{levels} == x{levels}{}",
            ")".repeat(levels + 1)
        );
        let compiled = Program::compile(&source, &[]);
        assert!(compiled.is_ok(), "{levels}: {compiled:?}");
        assert!(refusal(&source).contains("unsupported key type"), "{levels}");
    }
}

#[test]
fn only_lists_of_one_type_of_keys_are_sorted() {
    for (source, want) in [
        (
            "{'a': 1}.sortBy(k, k) == ['a']",
            "found no matching overload for '@sortByAssociatedKeys' applied to 'map(string, int).(list(string))'",
        ),
        ("self.m.sortBy(k, k) == ['x']", "no such overload"),
        (
            "[dyn(9007199254740993), dyn(9007199254740992.0), dyn(9007199254740992)].sort() == []",
            "list elements must have the same type",
        ),
        (
            "[1, 2].sortBy(x, x == 1 ? dyn('a') : dyn(1)) == []",
            "list elements must have the same type",
        ),
    ] {
        let why = refusal(source);
        assert!(why.contains(want), "{source}: {why}");
    }
}

#[test]
fn names_are_escaped_as_kubernetes_does() {
    for (name, want) in [
        ("a-b", "a__dash__b"),
        ("a.b", "a__dot__b"),
        ("a/b", "a__slash__b"),
        ("in", "__in__"),
        ("a__b", "a__underscores__b"),
        ("a_b", "a_b"),
    ] {
        assert_eq!(escape(name).as_deref(), Some(want));
        assert_eq!(types::unescape(want), name);
    }
    assert_eq!(escape("1a"), None);
}

proptest! {
    #[test]
    fn nothing_panics(source in r#"[a-c.()\[\]{}'"0-9+*/%<>=!&|?:, -]{0,40}"#) {
        if let Ok(program) = Program::compile(&source, &[("a", Type::Dyn), ("b", Type::list(Type::Int))]) {
            let json = json!({"a": 1, "b": [1, 2], "c": "x"});
            let mut scope = Scope::default();
            scope.set("a", Value::of(&json, &Type::Dyn));
            scope.set("b", Value::list(vec![Value::Int(1)]));
            let mut budget = 10_000;
            let _ = program.evaluate(&scope, &mut budget);
        }
    }

    #[test]
    fn arithmetic_is_rusts(a in any::<i32>(), b in 1..1000_i32) {
        let source = format!("{a} / {b} * {b} + {a} % {b} == {a}");
        prop_assert!(holds(&source));
    }
}

fn patch(source: &str) -> Result<Json, String> {
    let json = Json::Null;
    let program = Program::compile_patch(source, &[("self", Type::Dyn)]).map_err(|e| e.to_string())?;
    let mut scope = Scope::default();
    scope.set("self", Value::of(&json, &Type::Dyn));
    let value = program.evaluate(&scope, &mut CALL_LIMIT.clone());
    value.and_then(|v| v.to_json()).map_err(|e| e.to_string())
}

#[test]
fn patches_are_made() {
    let object = "Object{spec: Object.spec{replicas: 1 + 2, ?paused: optional.none(), parts: [Object.spec.parts{name: 'a'}]}}";
    let want = json!({"spec": {"replicas": 3, "parts": [{"name": "a"}]}});
    assert_eq!(patch(object), Ok(want));
    for (object, want) in [
        ("Object{?a: {'x': 1}.?a, b: 1}", json!({"b": 1})),
        ("Object{?a: optional.of(2), ?b: optional.none()}", json!({"a": 2})),
        (
            "Object{a: optional.none(), b: optional.of('x')}",
            json!({"a": null, "b": "x"}),
        ),
        ("[JSONPatch{?op: optional.of('add')}]", json!([{"op": "add"}])),
    ] {
        assert_eq!(patch(object), Ok(want), "{object}");
    }
    let list = "[JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('a/b~c'), value: {'x': [1, 2]}}]";
    let want = json!([{"op": "add", "path": "/metadata/labels/a~1b~0c", "value": {"x": [1, 2]}}]);
    assert_eq!(patch(list), Ok(want));
    for (source, why) in [
        (
            "Object{spec: Object.wrong{}}",
            "unexpected type name \"Object.wrong\"",
        ),
        ("JSONPatch{ops: 'add'}", "undefined field 'ops'"),
        ("JSONPatch{op: 1}", "expected type of field 'op' is 'string'"),
        ("Other{a: 1}", "undeclared reference to 'Other'"),
        (
            "Object{?a: 1}",
            "expected type 'optional_type(int)' but found 'int'",
        ),
        ("[JSONPatch{value: optional.none()}]", "cannot be written as JSON"),
    ] {
        let told = patch(source).expect_err("refused");
        assert!(told.contains(why), "{told}");
    }
    assert!(Program::compile("Object{}", &[]).is_err(), "only for patches");
}
