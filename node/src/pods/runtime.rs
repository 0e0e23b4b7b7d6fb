//! Which runtime a container gets: its artifact decides, unless the handler of its Pod's RuntimeClass says otherwise. Pure.
//!
//! Under a Wasm handler a file of a Linux image that is WebAssembly is run by wasm-shim, and what is native stays so: one Pod holds
//! both kinds, as with containerd's Wasm shims. Refuses to know how a program is found in an image.

use super::handler::{Rule, WASM};
use crate::images::ImageKind;

/// Why a container has no runtime.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuntimeError {
    #[error(
        "image {image:?} is WebAssembly, and handler {handler:?} of the Pod's RuntimeClass runs native programs only: leave \
         runtimeClassName out, or name a class whose handler is {WASM:?}"
    )]
    NativeOnly { image: String, handler: String },
}

/// What is taken of an image whose index has entries for both: the node's own platform, unless the class is for Wasm, as where
/// containerd's `runtime_platforms` gives a handler a platform (KEP-4216).
pub fn wanted(handler: &str) -> ImageKind {
    match Rule::of(handler) {
        Rule::Wasm => ImageKind::Wasm,
        Rule::Artifact | Rule::Native => ImageKind::Native,
    }
}

/// What a container of an image of that kind is run as.
pub fn decide(
    handler: &str,
    image: (&str, ImageKind),
    program_is_wasm: impl FnOnce() -> bool,
) -> Result<ImageKind, RuntimeError> {
    let (name, kind) = image;
    match (Rule::of(handler), kind) {
        (Rule::Native, ImageKind::Wasm) => Err(RuntimeError::NativeOnly {
            image: name.to_owned(),
            handler: handler.to_owned(),
        }),
        (Rule::Wasm, ImageKind::Native) if program_is_wasm() => Ok(ImageKind::Wasm),
        (_, kind) => Ok(kind),
    }
}

/// What else may be done about a native program that did not start and is WebAssembly.
pub fn advice(handler: &str) -> String {
    let instead = match Rule::of(handler) {
        Rule::Native => format!(" instead of {handler:?}"),
        Rule::Artifact | Rule::Wasm => String::new(),
    };
    format!("; a RuntimeClass with handler {WASM:?}{instead} runs such files of any image")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::handler::{DEFAULT, NATIVE, WASM_ISOLATED};

    #[test]
    fn the_artifact_decides_and_a_class_overrides() {
        use ImageKind::{Native, Wasm};
        let refused = |handler: &str| {
            Err(RuntimeError::NativeOnly {
                image: "i".into(),
                handler: handler.into(),
            })
        };
        for (handlers, kind, is_wasm, expected) in [
            (&[DEFAULT, "amphipod"][..], Native, false, Ok(Native)),
            (&[DEFAULT, "amphipod"], Native, true, Ok(Native)),
            (&[DEFAULT, "amphipod"], Wasm, false, Ok(Wasm)),
            (
                &[WASM, WASM_ISOLATED, "wasmtime", "crun"],
                Native,
                false,
                Ok(Native),
            ),
            (&[WASM, WASM_ISOLATED, "wasmtime", "crun"], Native, true, Ok(Wasm)),
            (&[WASM, WASM_ISOLATED, "wasmtime", "crun"], Wasm, false, Ok(Wasm)),
            (&[NATIVE], Native, false, Ok(Native)),
            (&[NATIVE], Native, true, Ok(Native)),
            (&[NATIVE], Wasm, false, refused(NATIVE)),
            (&["runc"], Wasm, false, refused("runc")),
        ] {
            for handler in handlers {
                let decided = decide(handler, ("i", kind), || is_wasm);
                assert_eq!(decided, expected, "{handler:?} {kind:?} {is_wasm}");
            }
        }
    }

    #[test]
    fn only_a_wasm_class_takes_the_wasm_of_an_image_for_both() {
        for (handlers, expected) in [
            (&[DEFAULT, "amphipod", NATIVE, "runc"][..], ImageKind::Native),
            (&[WASM, WASM_ISOLATED, "wasmtime", "crun"], ImageKind::Wasm),
        ] {
            assert!(handlers.iter().all(|handler| wanted(handler) == expected));
        }
    }

    #[test]
    fn refusals_say_what_to_do() {
        let refused = decide("linux", ("r/i:v1", ImageKind::Wasm), || false).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "image \"r/i:v1\" is WebAssembly, and handler \"linux\" of the Pod's RuntimeClass runs native programs only: leave \
             runtimeClassName out, or name a class whose handler is \"wasm\""
        );
        assert_eq!(
            advice(DEFAULT),
            "; a RuntimeClass with handler \"wasm\" runs such files of any image"
        );
        assert!(advice(NATIVE).contains("\"wasm\" instead of \"linux\""));
    }
}
