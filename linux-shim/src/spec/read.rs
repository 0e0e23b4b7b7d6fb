//! From a bundle's file to a [`Spec`]. What is right is read once; only what is not is taken apart and mended.

use std::fs;
use std::io;
use std::path::Path;

use oci_spec::runtime::Spec;
use serde_json::Value;

use super::{SpecError, lenient};

/// config.json as large as this is no config.json.
const CONFIG_LIMIT: u64 = 8 << 20;

/// A bundle's `config.json`.
#[derive(Debug)]
pub struct Config {
    /// The file, with what was put right.
    pub bytes: Vec<u8>,
    pub spec: Spec,
    /// What that was.
    pub said: Vec<String>,
}

/// Reads `config.json` of a bundle.
pub fn load(bundle: &Path) -> Result<Spec, SpecError> {
    Ok(read(bundle)?.spec)
}

/// The same with its bytes, and what was put right in them.
pub fn read(bundle: &Path) -> Result<Config, SpecError> {
    let path = bundle.join("config.json");
    let bytes = bytes(&path).map_err(|source| SpecError::Read {
        path: path.clone(),
        source,
    })?;
    parse(bytes).map_err(|source| SpecError::Parse { path, source })
}

fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    if fs::metadata(path)?.len() > CONFIG_LIMIT {
        return Err(io::Error::other(format!("larger than {CONFIG_LIMIT} bytes")));
    }
    fs::read(path)
}

fn parse(bytes: Vec<u8>) -> serde_json::Result<Config> {
    let spec = serde_json::from_slice::<Spec>(&bytes);
    if spec.as_ref().is_ok_and(|spec| !lenient::is_to_be_mended(spec)) {
        return spec.map(|spec| Config {
            bytes,
            spec,
            said: Vec::new(),
        });
    }
    let given: Value = serde_json::from_slice(&bytes)?;
    let mut config = given.clone();
    let said = lenient::mend(&mut config);
    if config == given {
        return spec.map(|spec| Config { bytes, spec, said });
    }
    Ok(Config {
        bytes: config.to_string().into_bytes(),
        spec: serde_json::from_value(config)?,
        said,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(rest: &str) -> String {
        format!(r#"{{"ociVersion":"1.0.2","root":{{"path":"rootfs"}},{rest}}}"#)
    }

    #[test]
    fn what_is_right_stays_as_it_is_written() {
        let text = with(r#""mounts": [{"destination":"/a"}]"#);
        let config = parse(text.clone().into_bytes()).unwrap();
        assert_eq!(
            (config.bytes, config.said),
            (text.into_bytes(), Vec::<String>::new())
        );
    }

    #[test]
    fn what_can_be_mended_is_and_the_rest_refused() {
        let process = |caps: &str| {
            with(&format!(
                r#""process":{{"cwd":"/","user":{{"uid":0,"gid":0}},"capabilities":{{"bounding":[{caps}]}}}}"#
            ))
        };
        let mended = [
            with(r#""mounts":[{"destination":"a"}]"#),
            process(r#""CAP_CHOWN","CAP_FOO""#),
        ];
        for text in mended {
            let config = parse(text.into_bytes()).unwrap();
            assert_eq!(config.said.len(), 1);
            assert_eq!(
                serde_json::from_slice::<Spec>(&config.bytes).unwrap(),
                config.spec
            );
        }
        for bad in ["".to_owned(), "{".into(), with(r#""mounts":7"#), process("7")] {
            assert!(parse(bad.clone().into_bytes()).is_err(), "{bad}");
        }
    }
}
