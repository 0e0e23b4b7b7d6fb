//! Expressions that select devices: what they may say, and cost.
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use serde_json::Value;

use super::{ITEMS, each};
use crate::cel::{CALL_LIMIT, Extent, Program, Structure, Type};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::view::View;

/// Bytes of an expression.
const LENGTH: usize = 10 * 1024;
/// Characters of a driver's name, of a domain and of an identifier; attributes of a device.
const DRIVER: u64 = 63;
const DOMAIN: u64 = 63;
const IDENTIFIER: u64 = 32;
const ATTRIBUTES: u64 = 32;
/// Characters of an attribute's value.
const VALUE: u64 = 64;

pub(super) fn selectors(selectors: &[Value], path: &str) -> FieldErrors {
    each(selectors, ITEMS, path, |selector, at| match selector.has("cel") {
        true => expression(selector.text("cel.expression"), &format!("{at}.cel.expression"))
            .into_iter()
            .collect(),
        false => vec![FieldError::required(format!("{at}.cel"), "")],
    })
}

fn expression(source: &str, path: &str) -> Option<FieldError> {
    if source.len() > LENGTH {
        return Some(FieldError::too_long(path, LENGTH));
    }
    let program = match Program::compile_binding(source, &[("device", device().clone())], extent()) {
        Ok(program) => program,
        Err(why) => {
            return Some(FieldError::invalid(
                path,
                source,
                format!("compilation failed: {why}"),
            ));
        }
    };
    let constants = match &program.ty {
        Type::Bool | Type::Dyn => program.constants(),
        _ => Ok(()),
    };
    if let Err(why) = constants {
        return Some(FieldError::internal(
            path,
            format!("program instantiation failed: {why}"),
        ));
    }
    match &program.ty {
        Type::Bool | Type::Dyn if program.cost > CALL_LIMIT => {
            Some(FieldError::forbidden(path, "too complex, exceeds cost limit"))
        }
        Type::Bool | Type::Dyn => None,
        other => {
            let why = format!("must evaluate to bool or the unknown type, not {other}");
            Some(FieldError::invalid(path, source, why))
        }
    }
}

/// The variable `device`.
fn device() -> &'static Type {
    static DEVICE: OnceLock<Type> = OnceLock::new();
    let named = |value: Type| Type::map(Type::String, Type::map(Type::String, value));
    DEVICE.get_or_init(|| {
        let fields = [
            ("driver", Type::String),
            ("allowMultipleAllocations", Type::Bool),
            ("attributes", named(Type::Dyn)),
            ("capacity", named(Type::Quantity)),
        ];
        let fields: BTreeMap<String, Type> = fields.map(|(name, ty)| (name.to_owned(), ty)).into();
        let name = "kubernetes.DRADevice".to_owned();
        Type::Object(Arc::new(Structure { name, fields }))
    })
}

/// How large a device is.
fn extent() -> &'static Arc<Extent> {
    static EXTENT: OnceLock<Arc<Extent>> = OnceLock::new();
    EXTENT.get_or_init(|| {
        let value = Arc::new(Extent::of(VALUE));
        let attributes = named(value.clone(), Some(value));
        let capacity = named(Arc::default(), None);
        let fields = [
            ("driver", Extent::of(DRIVER)),
            ("allowMultipleAllocations", Extent::default()),
            ("attributes", attributes),
            ("capacity", capacity),
        ];
        Arc::new(Extent {
            fields: fields
                .map(|(name, extent)| (name.to_owned(), Arc::new(extent)))
                .into(),
            ..Extent::default()
        })
    })
}

/// A value for each identifier of each domain; `others` is that of an identifier that is written as a field.
fn named(value: Arc<Extent>, others: Option<Arc<Extent>>) -> Extent {
    let map = |key: u64, items: Arc<Extent>, others: Option<Arc<Extent>>| Extent {
        most: ATTRIBUTES,
        keys: Some(Arc::new(Extent::of(key))),
        items: Some(items),
        others,
        ..Extent::default()
    };
    map(DOMAIN, Arc::new(map(IDENTIFIER, value, others)), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_compiled_for_a_device() {
        for good in [
            "true",
            "device.driver == 'gpu.example.com' && device.allowMultipleAllocations",
            "device.attributes['gpu.example.com'].model == 'a100'",
            "device.attributes['d.e'].healthy",
            "device.attributes['d.e'].version.compareTo(semver('1.2.3')) >= 0",
            "device.capacity['d.e'].memory.compareTo(quantity('40Gi')) >= 0",
            "cel.bind(dra, device.attributes['d.e'], dra.oneBool && dra.anotherBool)",
            "'model' in device.attributes['d.e']",
        ] {
            assert_eq!(expression(good, "p").map(|e| e.to_string()), None, "{good}");
        }
        let told = |source: &str| expression(source, "p").expect("refused").to_string();
        assert!(
            told("device.nope").contains("compilation failed: ERROR: <input>:1:7: undefined field 'nope'")
        );
        assert!(told("device.driver").ends_with("must evaluate to bool or the unknown type, not string"));
        let dear = "device.attributes.all(a, device.attributes.all(b, device.attributes.all(c, \
                    device.attributes.all(d, device.attributes[a] == device.attributes[d]))))";
        assert_eq!(told(dear), "p: Forbidden: too complex, exceeds cost limit");
    }

    /// As upstream 1.36.2 estimates them.
    #[test]
    fn expressions_cost_what_upstream_estimates() {
        for (source, want) in [
            (
                "device.driver == 'gpu.example.com' && device.allowMultipleAllocations",
                6,
            ),
            (
                "device.attributes['d.e'].version.compareTo(semver('1.2.3')) >= 0",
                7,
            ),
            ("device.capacity['d.e'].memory == quantity('1Gi')", 6),
            (
                "cel.bind(m, device.attributes['d.e'].model, m == 'a' || m == device.driver)",
                26,
            ),
            ("'model' in device.attributes['d.e']", 4),
            ("device.attributes.all(a, a == device.driver)", 419),
            ("device.attributes.exists(a, device.attributes[a].x == 'y')", 323),
            ("['abc', 'd'].exists(x, x == device.driver)", 27),
            ("device.attributes['d.e'].model.lowerAscii() == 'a100'", 12),
            ("device.attributes['d.e'].model.matches('^a[0-9]+$')", 25),
            ("{'a': device.driver}.a == device.driver", 42),
            ("device.attributes[?'d.e'].?model.orValue('x') == 'a100'", 6),
            ("has(device.attributes['d.e'].model)", 3),
            ("dyn([device.driver])[0] == device.driver", 23),
        ] {
            let program = Program::compile_binding(source, &[("device", device().clone())], extent());
            assert_eq!(program.map(|p| p.cost), Ok(want), "{source}");
        }
    }
}
