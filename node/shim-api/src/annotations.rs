//! Bundle annotations that mean something to a shim. Owns the names; refuses to know who sets them.

/// The Pod sandbox a container belongs to; linux-shim serves one sandbox per process (containerd CRI).
pub const SANDBOX_ID: &str = "io.kubernetes.cri.sandbox-id";
/// The Kubernetes namespace of the Pod; wasm-shim serves one namespace per process (containerd CRI).
pub const SANDBOX_NAMESPACE: &str = "io.kubernetes.cri.sandbox-namespace";
/// The Pod's name (containerd CRI).
pub const SANDBOX_NAME: &str = "io.kubernetes.cri.sandbox-name";
/// The Pod's UID (containerd CRI).
pub const SANDBOX_UID: &str = "io.kubernetes.cri.sandbox-uid";
/// Bytes of memory that all containers of the Pod may use together; 0 for any number. Update gives another (containerd CRI,
/// which says it of the sandbox).
pub const SANDBOX_MEMORY: &str = "io.kubernetes.cri.sandbox-memory";
/// Microseconds of CPU time that all containers of the Pod may use together in each period; 0 for any number. Update gives
/// another (containerd CRI, which says it of the sandbox).
pub const SANDBOX_CPU_QUOTA: &str = "io.kubernetes.cri.sandbox-cpu-quota";
/// That period in microseconds; 100,000 without it (containerd CRI).
pub const SANDBOX_CPU_PERIOD: &str = "io.kubernetes.cri.sandbox-cpu-period";
/// The container's name within its Pod (containerd CRI).
pub const CONTAINER_NAME: &str = "io.kubernetes.cri.container-name";
/// `sandbox` or `container` (containerd CRI).
pub const CONTAINER_TYPE: &str = "io.kubernetes.cri.container-type";
/// The reference the image was asked for by (containerd CRI).
pub const IMAGE_NAME: &str = "io.kubernetes.cri.image-name";

/// Path of the Wasm module or component in the content store.
pub const WASM_MODULE: &str = "dev.amphipod.wasm/module";
/// `sha256:…` of that module.
pub const WASM_DIGEST: &str = "dev.amphipod.wasm/digest";
/// Directory of code compiled ahead of time.
pub const WASM_CACHE: &str = "dev.amphipod.wasm/cache";
/// Port a component exporting `wasi:http/incoming-handler` listens on, in the Pod's network.
pub const WASM_HTTP_PORT: &str = "dev.amphipod.wasm/http-port";
/// Where an `incoming-handler` listens when no port is given.
pub const WASM_HTTP_PORT_DEFAULT: u16 = 8080;

/// Requests one instance of an `incoming-handler` answers, one after the other, before it is thrown away; 1 without it.
pub const WASM_INSTANCE_REUSE: &str = "dev.amphipod.wasm/instance-reuse";
/// Requests in the guests of a container at once.
pub const WASM_CONCURRENCY: &str = "dev.amphipod.wasm/concurrency";
/// Seconds a guest has for answering with a head.
pub const WASM_REQUEST_TIMEOUT: &str = "dev.amphipod.wasm/request-timeout";
/// The function of a core module to run in the place of `_start` (a reactor has none).
pub const WASM_INVOKE: &str = "dev.amphipod.wasm/invoke";
/// The same for whoever has such a function: without it a module runs its `_start`, and a component what it says itself.
pub const WASM_INVOKE_IF_EXPORTED: &str = "dev.amphipod.wasm/invoke-if-exported";
/// The mount (its path in the container) whose directories are the buckets of `wasi:keyvalue`.
pub const WASM_KEYVALUE: &str = "dev.amphipod.wasm/keyvalue";
/// The mount (its path in the container) whose directories are the containers of `wasi:blobstore`.
pub const WASM_BLOBSTORE: &str = "dev.amphipod.wasm/blobstore";
/// The mount (its path in the container) where core dumps of guests that trap go; without it there are none.
pub const WASM_CORE_DUMPS: &str = "dev.amphipod.wasm/core-dumps";
/// The mount (its path in the container) where a profile of the container goes when it ends; without it there is none.
pub const WASM_PROFILE: &str = "dev.amphipod.wasm/profile";
/// The mount (its path in the container) in which a command may leave its last words, and nothing else is; a container that
/// serves HTTP goes without it.
pub const WASM_MESSAGE: &str = "dev.amphipod.wasm/termination-message";
/// How many Pods share a process: one, with the value [`WASM_ISOLATION_POD`]; else those of a Kubernetes namespace.
pub const WASM_ISOLATION: &str = "dev.amphipod.wasm/isolation";
/// A process of the Pod's own.
pub const WASM_ISOLATION_POD: &str = "pod";
/// Whom the container may meet, as JSON of [`crate::network::NetworkRules`]; without it everybody. Update gives others.
pub const WASM_NETWORK: &str = "dev.amphipod.wasm/network";
/// Annotations of a Pod that the agent hands on to the bundles of its Wasm containers. With `.CONTAINER` at the end of its
/// name one is for that container alone, and goes before the one for all.
pub const WASM_FROM_POD: &[&str] = &[
    WASM_INSTANCE_REUSE,
    WASM_CONCURRENCY,
    WASM_REQUEST_TIMEOUT,
    WASM_INVOKE,
    WASM_KEYVALUE,
    WASM_BLOBSTORE,
    WASM_CORE_DUMPS,
    WASM_PROFILE,
];

/// The seccomp profile of a native container whose `config.json` carries none.
pub const SECCOMP: &str = "dev.amphipod.linux/seccomp";
/// linux-shim's own default profile.
pub const SECCOMP_RUNTIME_DEFAULT: &str = "RuntimeDefault";
/// No filter; as without the annotation (a bundle without a profile has none, says the runtime specification).
pub const SECCOMP_UNCONFINED: &str = "Unconfined";

/// Path of a Unix socket at which a container's shim tells its output as it comes (see [`crate::attach`]).
pub const ATTACH: &str = "dev.amphipod.linux/attach";

/// Whose processes a native container sees: with the value [`PROCESSES_OF_SANDBOX`] those of all containers of its sandbox
/// that say so too, in one PID namespace; without it those of the namespaces in its `config.json`.
pub const PROCESSES: &str = "dev.amphipod.linux/processes";
/// One PID namespace for the sandbox.
pub const PROCESSES_OF_SANDBOX: &str = "sandbox";
