//! Tables over `config.json`.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::resources::CgroupFacts;
use super::*;

fn build(pod: Value, container: Value, image: Value, wasm: bool) -> Value {
    build_with(None, pod, container, image, wasm)
}

fn build_with(users: Option<IdRange>, pod: Value, container: Value, image: Value, wasm: bool) -> Value {
    let runtime = match wasm {
        true => guest(false),
        false => Runtime::Native,
    };
    build_on(runtime, users, pod, container, image)
}

fn guest(has_root: bool) -> Runtime<'static> {
    Runtime::Wasm {
        module: Some((Path::new("/m.wasm"), "sha256:0")),
        cache: Path::new("/cache"),
        has_root,
    }
}

fn build_on(
    runtime: Runtime<'_>,
    users: Option<IdRange>,
    pod: Value,
    container: Value,
    image: Value,
) -> Value {
    let mut spec = pod;
    let mut container = container;
    container["name"] = json!("c");
    spec["containers"] = json!([container]);
    let metadata = json!({"name": "p", "namespace": "n", "uid": "u"});
    let object: Pod = serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap();
    let view = PodView::new(&object).unwrap();
    let mut environment = Environment::default();
    environment.set("GREETING", "hello");
    environment.set("PATH", "/mine");
    let namespaces = Namespaces {
        net: Some("/ns/net".into()),
        ipc: Some("/ns/ipc".into()),
        uts: Some("/ns/uts".into()),
        pid: None,
        host_pid: false,
        user: users.map(|ids| ("/ns/user".into(), ids)),
    };
    let image: ImageConfig = serde_json::from_value(image).unwrap();
    json!(spec_of(&Parts {
        pod: view,
        container: &view.spec.containers[0],
        id: "id",
        cluster: "amphipod-0",
        image: &image,
        environment: &environment,
        identity: &Identity {
            uid: 5,
            gid: 6,
            additional_gids: vec![7],
            home: None
        },
        runtime,
        files: &[
            Bind::new("/pod/hosts", "/etc/hosts", false),
            Bind::new("/pod/shm", "/dev/shm", false),
            Bind::new("/pod/words", "/data/end", false),
        ],
        volumes: &[Bind::new("/v", "/data", true)],
        message: Some(Path::new("/dev")),
        namespaces: &namespaces,
        handler: view.spec.runtime_class_name.as_deref().unwrap_or_default(),
        hostname: "p",
        memory_capacity: 1 << 30,
        cgroups: CgroupFacts::default(),
        devices: &[oci_spec::runtime::LinuxDevice::default()],
        claimed_devices: &[],
        seccomp: Some(&LinuxSeccomp::default()),
        apparmor: Some("strict"),
        attach: Path::new("/run/a/id.sock"),
        rules: &NetworkRules {
            ingress: None,
            egress: Some(Vec::new()),
        },
    }))
}

use super::spec as spec_of;

fn native(container: Value, image: Value) -> Value {
    build(json!({}), container, image, false)
}

#[test]
fn words_of_the_process() {
    let image = json!({"Entrypoint": ["/e"], "Cmd": ["d"]});
    for (container, image, expected) in [
        (json!({}), image.clone(), json!(["/e", "d"])),
        (json!({"command": ["x"]}), image.clone(), json!(["x"])),
        (json!({"args": ["y"]}), image.clone(), json!(["/e", "y"])),
        (
            json!({"command": ["x"], "args": ["$(GREETING) $(NO) $$(GREETING)"]}),
            image.clone(),
            json!(["x", "hello $(NO) $(GREETING)"]),
        ),
        (json!({"args": ["y"]}), json!({"Cmd": ["d"]}), json!(["y"])),
    ] {
        assert_eq!(
            native(container.clone(), image)["process"]["args"],
            expected,
            "{container}"
        );
    }
    let guest = build(json!({}), json!({"args": ["y"]}), json!({}), true);
    assert_eq!(
        guest["process"]["args"],
        json!(["c", "y"]),
        "a guest's argv[0] is its container"
    );
}

#[test]
fn environment_directory_and_user() {
    let made = native(
        json!({}),
        json!({"Env": ["PATH=/image", "LANG=C"], "WorkingDir": "/w"}),
    );
    let process = &made["process"];
    assert_eq!(
        process["env"],
        json!(["PATH=/mine", "HOSTNAME=p", "HOME=/", "LANG=C", "GREETING=hello"])
    );
    assert_eq!(process["cwd"], "/w");
    assert_eq!(
        process["user"],
        json!({"uid": 5, "gid": 6, "additionalGids": [7]})
    );
    assert_eq!(
        native(json!({"workingDir": "/x"}), json!({"WorkingDir": "/w"}))["process"]["cwd"],
        "/x"
    );
}

fn bounding(container: Value) -> std::collections::BTreeSet<String> {
    let made = native(container, json!({}));
    let list = made["process"]["capabilities"]["bounding"]
        .as_array()
        .unwrap()
        .clone();
    list.iter().map(|c| c.as_str().unwrap().to_owned()).collect()
}

#[test]
fn capabilities_are_added_and_dropped() {
    let with = |capabilities: Value| bounding(json!({"securityContext": {"capabilities": capabilities}}));
    assert_eq!(with(json!({})).len(), 14);
    assert!(with(json!({"add": ["NET_ADMIN"]})).contains("CAP_NET_ADMIN"));
    assert!(!with(json!({"drop": ["CAP_CHOWN"]})).contains("CAP_CHOWN"));
    assert_eq!(with(json!({"drop": ["ALL"]})).len(), 0);
    let only = with(json!({"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}));
    assert_eq!(only, ["CAP_NET_BIND_SERVICE".to_owned()].into());
    assert_eq!(with(json!({"add": ["ALL"]})).len(), 41);
    assert_eq!(
        bounding(json!({"securityContext": {"privileged": true}})).len(),
        41
    );
}

#[test]
fn the_place_of_the_container() {
    let made = native(
        json!({"resources": {"limits": {"memory": "64Mi", "cpu": "500m"}}}),
        json!({}),
    );
    assert_eq!(made["linux"]["cgroupsPath"], "/amphipod-0/podu/id");
    assert_eq!(made["linux"]["resources"]["memory"]["limit"], 64 << 20);
    assert_eq!(
        made["linux"]["resources"]["cpu"],
        json!({"shares": 512, "quota": 50_000, "period": 100_000})
    );
    let namespaces = made["linux"]["namespaces"].as_array().unwrap();
    let net = namespaces.iter().find(|n| n["type"] == "network").unwrap();
    assert_eq!(net["path"], "/ns/net");
    assert!(
        namespaces
            .iter()
            .any(|n| n["type"] == "pid" && n.get("path").is_none())
    );
    assert_eq!(made["process"]["oomScoreAdj"], -997, "guaranteed by its limits");
    assert!(!made["linux"]["maskedPaths"].as_array().unwrap().is_empty());
    let privileged = native(json!({"securityContext": {"privileged": true}}), json!({}));
    assert!(privileged["linux"].get("maskedPaths").is_none());
    assert_eq!(privileged["linux"]["devices"].as_array().unwrap().len(), 1);
    assert!(made["linux"].get("devices").is_none());
}

#[test]
fn switches_of_the_security_context() {
    for (context, pointer, expected) in [
        (json!({}), "/process/noNewPrivileges", json!(true)),
        (
            json!({"allowPrivilegeEscalation": true}),
            "/process/noNewPrivileges",
            json!(false),
        ),
        (
            json!({"privileged": true}),
            "/process/noNewPrivileges",
            json!(false),
        ),
        (
            json!({"allowPrivilegeEscalation": false}),
            "/process/noNewPrivileges",
            json!(true),
        ),
        (
            json!({"readOnlyRootFilesystem": true}),
            "/root/readonly",
            json!(true),
        ),
        (json!({}), "/root/readonly", json!(false)),
        (
            json!({}),
            "/annotations/dev.amphipod.linux~1seccomp",
            json!("RuntimeDefault"),
        ),
        (
            json!({"seccompProfile": {"type": "Unconfined"}}),
            "/annotations/dev.amphipod.linux~1seccomp",
            json!("Unconfined"),
        ),
    ] {
        let made = native(json!({"securityContext": context}), json!({}));
        assert_eq!(made.pointer(pointer), Some(&expected), "{context} {pointer}");
    }
}

#[test]
fn a_guest_gets_its_module_its_names_and_no_kernel() {
    let made = build(
        json!({}),
        json!({"ports": [{"containerPort": 9000}]}),
        json!({}),
        true,
    );
    let notes = &made["annotations"];
    assert_eq!(notes["dev.amphipod.wasm/module"], "/m.wasm");
    assert_eq!(notes["dev.amphipod.wasm/digest"], "sha256:0");
    assert_eq!(notes["dev.amphipod.wasm/cache"], "/cache");
    assert_eq!(notes["dev.amphipod.wasm/http-port"], "9000");
    assert_eq!(notes["dev.amphipod.wasm/network"], r#"{"egress":[]}"#);
    assert_eq!(notes["io.kubernetes.cri.sandbox-namespace"], "n");
    let mounts = made["mounts"].as_array().unwrap();
    let at: Vec<_> = mounts.iter().map(|mount| &mount["destination"]).collect();
    assert_eq!(at, ["/data", "/etc/hosts"], "by which it knows others");
    let without = build(json!({}), json!({}), json!({}), true);
    assert!(
        without["annotations"]
            .get("dev.amphipod.wasm/http-port")
            .is_none(),
        "the shim knows its default"
    );
    let isolation = |made: &Value| made["annotations"]["dev.amphipod.wasm/isolation"].clone();
    assert_eq!(isolation(&without), Value::Null);
    let alone = build(
        json!({"runtimeClassName": "wasm-isolated"}),
        json!({}),
        json!({}),
        true,
    );
    assert_eq!(isolation(&alone), "pod");
}

#[test]
fn guests_are_told_what_their_pod_may_use() {
    let limits = json!({"limits": {"cpu": "200m", "memory": "8Mi"}});
    for (pod, container, expected) in [
        (json!({}), json!({}), ["0", "0"]),
        (json!({}), limits.clone(), ["8388608", "20000"]),
        (
            json!({"limits": {"memory": "48Mi"}}),
            json!({}),
            ["50331648", "0"],
        ),
        (
            json!({"limits": {"cpu": "500m", "memory": "48Mi"}}),
            limits.clone(),
            ["50331648", "50000"],
        ),
    ] {
        let of = |wasm| {
            let (pod, container) = (json!({"resources": pod}), json!({"resources": container}));
            let made = build(pod, container, json!({}), wasm);
            let names = [
                annotations::SANDBOX_MEMORY,
                annotations::SANDBOX_CPU_QUOTA,
                annotations::SANDBOX_CPU_PERIOD,
            ];
            names.map(|name| made["annotations"][name].clone())
        };
        let [memory, quota] = expected;
        assert_eq!(of(true), [memory, quota, "100000"], "{pod} {container}");
        assert_eq!(
            of(false),
            [(); 3].map(|()| Value::Null),
            "it is in the Pod's cgroup"
        );
    }
}

#[test]
fn a_guest_of_an_image_of_layers_gets_all_mounts_and_may_run_another_module() {
    let image = json!({"Entrypoint": ["/app.wasm"], "Cmd": ["x"]});
    let built = |container: Value| build_on(guest(true), None, json!({}), container, image.clone());
    let own = built(json!({}));
    let mounts = own["mounts"].as_array().unwrap();
    let at: Vec<_> = mounts.iter().map(|mount| &mount["destination"]).collect();
    assert_eq!(at, ["/data", "/etc/hosts", "/data/end"]);
    for (command, is_own) in [
        (json!(null), true),
        (json!(["/app.wasm", "y"]), true),
        (json!(["/other.wasm"]), false),
    ] {
        let made = built(json!({"command": command}));
        let notes = made["annotations"].as_object().unwrap();
        assert_eq!(
            notes.contains_key("dev.amphipod.wasm/module"),
            is_own,
            "{command}"
        );
        assert_eq!(notes["dev.amphipod.wasm/cache"], "/cache");
    }
}

#[test]
fn a_guest_is_told_the_words_that_were_said() {
    let artifacts = || guest(true);
    let of_files = || Runtime::Wasm {
        module: None,
        cache: Path::new("/cache"),
        has_root: true,
    };
    let (entrypoint, command) = (
        json!({"Entrypoint": ["/app.wasm"]}),
        json!({"Cmd": ["/app.wasm", "x"]}),
    );
    for (runtime, container, image, expected) in [
        (artifacts(), json!({}), &entrypoint, json!(["/app.wasm"])),
        (artifacts(), json!({}), &command, json!(["/app.wasm", "x"])),
        (artifacts(), json!({"args": ["y"]}), &command, json!(["c", "y"])),
        (of_files(), json!({}), &command, json!(["/app.wasm", "x"])),
        (
            of_files(),
            json!({"args": ["/b.wasm"]}),
            &command,
            json!(["/b.wasm"]),
        ),
        (
            of_files(),
            json!({"command": ["/b.wasm"]}),
            &entrypoint,
            json!(["/b.wasm"]),
        ),
    ] {
        let has_module = matches!(runtime, Runtime::Wasm { module: Some(_), .. });
        let made = build_on(runtime, None, json!({}), container.clone(), image.clone());
        assert_eq!(made["process"]["args"], expected, "{container} {image}");
        let notes = made["annotations"].as_object().unwrap();
        assert_eq!(notes.contains_key("dev.amphipod.wasm/module"), has_module);
        assert_eq!(notes["dev.amphipod.wasm/cache"], "/cache");
    }
}

#[test]
fn the_program_is_looked_for_where_the_pod_and_the_image_say() {
    let places = |container: Value, image: Value, path: Option<&str>| {
        let container: Container = serde_json::from_value(container).unwrap();
        let image: ImageConfig = serde_json::from_value(image).unwrap();
        let mut environment = Environment::default();
        path.into_iter().for_each(|path| environment.set("PATH", path));
        let places = process::program(&container, &image, &environment);
        places
            .iter()
            .map(|place| place.display().to_string())
            .collect::<Vec<_>>()
    };
    let image = json!({"Entrypoint": ["app"], "WorkingDir": "/w", "Env": ["PATH=/bin"]});
    let mine = json!({"name": "c", "command": ["$(PATH)"], "workingDir": "/mine"});
    assert_eq!(
        places(json!({"name": "c"}), image.clone(), None),
        ["/bin/app", "/w/app", "/app"]
    );
    assert_eq!(
        places(json!({"name": "c"}), image.clone(), Some("/my")),
        ["/my/app", "/w/app", "/app"]
    );
    assert_eq!(places(mine, image, Some("x")), ["/mine/x", "/x"]);
    assert!(places(json!({"name": "c"}), json!({}), None).is_empty());
}

#[test]
fn profiles_of_the_node_are_passed_on() {
    let made = native(json!({}), json!({}));
    assert_eq!(made["linux"]["seccomp"], json!(LinuxSeccomp::default()));
    assert_eq!(made["process"]["apparmorProfile"], "strict");
}

#[test]
fn natives_get_the_kernel_and_the_pods_files() {
    let made = native(json!({}), json!({}));
    let at: Vec<&str> = made["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["destination"].as_str().unwrap())
        .collect();
    let expected = [
        "/proc",
        "/dev",
        "/dev/pts",
        "/dev/mqueue",
        "/sys",
        "/sys/fs/cgroup",
        "/data",
        "/etc/hosts",
        "/dev/shm",
        "/data/end",
    ];
    assert_eq!(at, expected);
}

#[test]
fn a_pod_with_users_of_its_own() {
    let pod = json!({"hostUsers": false, "securityContext": {"sysctls": [
        {"name": "kernel.shm_rmid_forced", "value": "1"}, {"name": "net.ipv4.tcp_syncookies", "value": "0"}]}});
    let ids = Some(IdRange { first: 131_072 });
    let made = build_with(ids, pod.clone(), json!({}), json!({}), false);
    let map = json!([{"containerID": 0, "hostID": 131_072, "size": 65_536}]);
    let linux = &made["linux"];
    assert_eq!((&linux["uidMappings"], &linux["gidMappings"]), (&map, &map));
    assert_eq!(
        linux["sysctl"],
        json!({"kernel.shm_rmid_forced": "1"}),
        "the network's are set already"
    );
    let user = json!({"type": "user", "path": "/ns/user"});
    assert!(linux["namespaces"].as_array().unwrap().contains(&user), "{linux}");
    let is_mapped = |mount: &Value| mount["options"].as_array().unwrap().contains(&json!("idmap"));
    for mount in made["mounts"].as_array().unwrap() {
        assert_eq!(is_mapped(mount), mount["type"] == "bind", "{mount}");
    }
    let guest = build_with(ids, pod, json!({}), json!({}), true);
    assert!(
        guest["linux"].get("uidMappings").is_none_or(Value::is_null),
        "{guest}"
    );
    assert!(
        !guest["mounts"].as_array().unwrap().iter().any(is_mapped),
        "{guest}"
    );
}

#[test]
fn a_pod_that_shares_its_processes() {
    let name = annotations::PROCESSES;
    let share = json!({"shareProcessNamespace": true});
    let note = |pod: Value, wasm| build(pod, json!({}), json!({}), wasm)["annotations"][name].clone();
    assert_eq!(note(share.clone(), false), "sandbox");
    assert_eq!(note(share, true), Value::Null, "a guest has none");
    assert_eq!(note(json!({}), false), Value::Null);
}
