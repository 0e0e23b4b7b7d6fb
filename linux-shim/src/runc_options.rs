//! containerd's options for runc, which is what it has for runtimes of containers: with Create, and on standard input of
//! `start`.
//!
//! `IoUid` and `IoGid` need nothing done: streams are given to the process's user, whoever that is. Of what is for runc's
//! own program and for CRIU there is nothing here.

use std::io::Read;

use amphipod_shim_api::TaskError;
use amphipod_shim_api::api::protobuf::well_known_types::any::Any;
use amphipod_shim_api::api::protobuf::{self, Message};
use amphipod_shim_api::api::{ProcessDetails, RuncOptions};

/// How their type ends.
const TYPE: &str = "containerd.runc.v1.Options";
const DETAILS: &str = "containerd.runc.v1.ProcessDetails";
/// No options are longer.
const LIMIT: u64 = 1 << 20;

/// Those of other kinds say nothing that is known here.
pub fn of(any: Option<&Any>) -> Result<RuncOptions, TaskError> {
    let Some(any) = any.filter(|any| any.type_url.ends_with(TYPE)) else {
        return Ok(RuncOptions::new());
    };
    let options = RuncOptions::parse_from_bytes(&any.value);
    options.map_err(|e| TaskError::InvalidArgument(format!("options: {e}")))
}

/// Those that `start` is given; nothing, and what is something else, is none.
pub fn read(input: impl Read) -> Result<RuncOptions, TaskError> {
    let mut bytes = Vec::new();
    let read = input.take(LIMIT).read_to_end(&mut bytes);
    read.map_err(|e| TaskError::internal("read the options", e))?;
    of(Any::parse_from_bytes(&bytes).ok().as_ref())
}

/// What of a process says that it is an exec, in the same family of messages.
pub fn process_details(exec: &str) -> Result<Any, protobuf::Error> {
    let details = ProcessDetails {
        exec_id: exec.to_owned(),
        ..ProcessDetails::default()
    };
    Ok(Any {
        type_url: DETAILS.into(),
        value: details.write_to_bytes()?,
        ..Any::default()
    })
}

/// Options as they are sent.
#[cfg(test)]
pub fn any(options: &RuncOptions) -> Any {
    Any {
        type_url: TYPE.into(),
        value: options.write_to_bytes().unwrap(),
        ..Any::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only options of runc's type are read: others' fields mean something else.
    #[test]
    fn containerd_says_by_options_that_systemd_is_to_manage_cgroups() {
        let asks = |type_url: &str, options: &RuncOptions| {
            let any = Any {
                type_url: type_url.into(),
                ..any(options)
            };
            of(Some(&any)).map(|options| options.systemd_cgroup)
        };
        let mut options = RuncOptions::new();
        assert_eq!(asks("containerd.runc.v1.Options", &options), Ok(false));
        options.systemd_cgroup = true;
        for type_url in [
            "containerd.runc.v1.Options",
            "type.googleapis.com/containerd.runc.v1.Options",
        ] {
            assert_eq!(asks(type_url, &options), Ok(true), "{type_url}");
        }
        assert_eq!(asks("runtimeoptions.v1.Options", &options), Ok(false));
        assert_eq!(of(None).map(|o| o.systemd_cgroup), Ok(false));
    }

    #[test]
    fn an_exec_is_named() {
        let any = process_details("e").unwrap();
        assert_eq!(any.type_url, "containerd.runc.v1.ProcessDetails");
        assert_eq!(ProcessDetails::parse_from_bytes(&any.value).unwrap().exec_id, "e");
    }

    #[test]
    fn start_is_given_them_on_standard_input() {
        let mut options = RuncOptions::new();
        options.shim_cgroup = "/shims".into();
        let bytes = any(&options).write_to_bytes().unwrap();
        assert_eq!(read(&bytes[..]).unwrap().shim_cgroup, "/shims");
        assert_eq!(read(&b""[..]).unwrap(), RuncOptions::new());
        assert_eq!(read(&b"{}"[..]).unwrap(), RuncOptions::new());
    }
}
