//! Pods: made, found again, replaced, removed; clusters beside each other.

use super::*;

#[test]
fn pods_have_names_addresses_and_reach_each_other_under_their_own() {
    Host::run(|host| async move {
        let network = host.network("a").await;
        assert_eq!(network.limits(), &[] as &[String]);
        let (one, two) = (pod(&network, "one").await, pod(&network, "two").await);
        assert_eq!(one.origin, Origin::Created);
        assert_eq!(one.ip.to_string(), "10.201.1.2");
        let name = within(&one.uts_path, || nix::unistd::gethostname().unwrap());
        assert_eq!(name, "one");
        let port = within(&one.net_path, || {
            std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap()
        });
        assert_eq!(port.trim(), "0");
        serve(&two, 8080, "two");
        let to = format!("{}:8080", two.ip);
        assert_eq!(
            ask(Some(&one.net_path), &to).await.unwrap(),
            format!("two {}", one.ip)
        );
        assert_eq!(ask(None, &to).await.unwrap(), "two 10.201.1.1");
        serve(&one, 8080, "one");
        assert_eq!(
            ask(Some(&one.net_path), "127.0.0.1:8080").await.unwrap(),
            "one 127.0.0.1"
        );
        serve_on(std::net::TcpListener::bind("0.0.0.0:9999").unwrap(), "host");
        assert_eq!(
            ask(Some(&one.net_path), "10.201.1.1:9999").await.unwrap(),
            format!("host {}", one.ip)
        );
    });
}

#[test]
fn a_restarted_agent_takes_sandboxes_back_and_replaces_broken_ones() {
    Host::run(|host| async move {
        let first = host.network("a").await;
        let (one, two) = (pod(&first, "one").await, pod(&first, "two").await);
        assert_eq!(pod(&first, "one").await.origin, Origin::Adopted);
        drop(first);
        let again = host.network("a").await;
        assert_eq!(
            again.list().unwrap(),
            BTreeSet::from(["one".to_owned(), "two".to_owned()])
        );
        assert_eq!(
            pod(&again, "one").await,
            PodSandbox {
                origin: Origin::Adopted,
                ..one.clone()
            }
        );
        crate::mounts::release(&two.net_path).unwrap();
        let rebuilt = pod(&again, "two").await;
        assert_eq!(
            rebuilt,
            PodSandbox {
                origin: Origin::Rebuilt,
                ..two
            }
        );
        serve(&rebuilt, 8080, "two");
        let to = format!("{}:8080", rebuilt.ip);
        assert_eq!(
            ask(Some(&one.net_path), &to).await.unwrap(),
            format!("two {}", one.ip)
        );
    });
}

#[test]
fn pods_start_and_end_side_by_side() {
    Host::run(|host| async move {
        let network = host.network("a").await;
        let uids: Vec<String> = (0..20).map(|n| format!("pod-{n}")).collect();
        let started = std::time::Instant::now();
        let pods = futures::future::join_all(uids.iter().map(|uid| pod(&network, uid))).await;
        let up = started.elapsed();
        let addresses: BTreeSet<Ipv4Addr> = pods.iter().map(|pod| pod.ip).collect();
        assert_eq!(addresses.len(), uids.len());
        serve(&pods[0], 8080, "first");
        let answer = ask(Some(&pods[19].net_path), &format!("{}:8080", pods[0].ip)).await;
        assert_eq!(answer.unwrap(), format!("first {}", pods[19].ip));
        let started = std::time::Instant::now();
        for result in futures::future::join_all(uids.iter().map(|uid| network.teardown_pod(uid))).await {
            result.unwrap();
        }
        eprintln!("20 Pods up in {up:?}, down in {:?}", started.elapsed());
        assert!(network.list().unwrap().is_empty());
    });
}

#[test]
fn a_pod_torn_down_leaves_nothing() {
    Host::run(|host| async move {
        let network = host.network("a").await;
        let one = pod(&network, "one").await;
        let asked = BTreeMap::from([("net.ipv4.tcp_syncookies".to_owned(), "0".to_owned())]);
        network.setup_pod("two", "two", &asked, None).await.unwrap();
        network.teardown_pod("one").await.unwrap();
        network.teardown_pod("one").await.unwrap();
        assert!(!one.net_path.exists());
        assert_eq!(network.list().unwrap(), BTreeSet::from(["two".to_owned()]));
        assert!(
            network
                .links
                .find(&network.names.veth(one.ip))
                .await
                .unwrap()
                .is_none()
        );
        assert!(matches!(
            network.teardown_pod("../x").await,
            Err(TeardownError::Uid(_))
        ));
        let forbidden = BTreeMap::from([("vm.swappiness".to_owned(), "1".to_owned())]);
        let refused = network.setup_pod("three", "three", &forbidden, None).await;
        assert!(matches!(
            refused,
            Err(SetupError::Sysctl(SysctlError::Forbidden { .. }))
        ));
    });
}

#[test]
fn clusters_side_by_side_do_not_touch_each_other_and_down_removes_one() {
    Host::run(|host| async move {
        let (a, b) = (host.network("a").await, host.network("b").await);
        let (server, other) = (pod(&a, "server").await, pod(&b, "other").await);
        serve(&server, 8080, "server");
        apply(&a, json!({}), &[&server]);
        b.apply_services(&services::Ruleset::default(), None).unwrap();
        assert!(ask(None, "127.0.0.1:30080").await.is_ok());
        drop(b);
        down("aaaaaaa2", &host.config("b").run_dir).await.unwrap();
        assert!(!other.net_path.exists());
        assert!(ask(None, "127.0.0.1:30080").await.is_ok());
        assert_eq!(a.links.find("apaaaaaaa2").await.unwrap().map(|l| l.name), None);
        assert_eq!(
            nft::existing("amphipod-aaaaaaa2").unwrap(),
            nft::Existing::default()
        );
        assert!(!nft::existing("amphipod-aaaaaaa1").unwrap().chains.is_empty());
        down("aaaaaaa2", &host.config("b").run_dir).await.unwrap();
        // Half of it is gone already.
        a.links
            .remove(&a.links.get("apaaaaaaa1").await.unwrap())
            .await
            .unwrap();
        down("aaaaaaa1", &host.config("a").run_dir).await.unwrap();
        let left: Vec<String> = a
            .links
            .all()
            .await
            .unwrap()
            .into_iter()
            .map(|link| link.name)
            .collect();
        assert!(!left.iter().any(|name| a.names.owns_link(name)), "{left:?}");
    });
}

#[test]
fn a_range_in_use_is_refused_by_name_and_nothing_is_left() {
    Host::run(|host| async move {
        let a = host.network("a").await;
        let taken = NetworkConfig {
            pod_cidr: "10.201.0.0/16".parse().unwrap(),
            ..host.config("b")
        };
        let error = Network::open(taken).await.err().unwrap();
        assert_eq!(
            error.to_string(),
            "10.201.0.0/16 is used by link apaaaaaaa1: choose another --pod-cidr"
        );
        let taken = NetworkConfig {
            service_cidr: "10.202.0.0/16".parse().unwrap(),
            ..host.config("b")
        };
        let error = Network::open(taken).await.err().unwrap();
        assert_eq!(
            error.to_string(),
            "10.202.0.0/16 is used by link apaaaaaaa1: choose another --service-cidr"
        );
        let links = a.links.all().await.unwrap();
        let names = Names::new(&host.config("b").cluster_id).unwrap();
        assert!(links.iter().all(|link| !names.owns_link(&link.name)), "{links:?}");
        assert!(!host.config("b").run_dir.exists());
        host.network("b").await;
        // What one has itself is no obstacle.
        host.network("b").await;
    });
}

#[test]
fn a_pod_with_users_of_its_own_has_its_namespaces_pinned_with_them() {
    Host::run(|host| async move {
        let network = host.network("a").await;
        let users = |first| Some(IdRange { first });
        let none = BTreeMap::new();
        let made = |first| network.setup_pod("one", "one", &none, users(first));
        let one = made(131_072).await.unwrap();
        assert_eq!(one.origin, Origin::Created);
        let pin = nix::sys::statfs::statfs(one.user_path.as_ref().unwrap()).unwrap();
        assert_eq!(pin.filesystem_type(), nix::sys::statfs::NSFS_MAGIC);
        assert_eq!(made(131_072).await.unwrap().origin, Origin::Adopted);
        assert_eq!(
            made(196_608).await.unwrap().origin,
            Origin::Rebuilt,
            "other ids are another sandbox"
        );
        let plain = network.setup_pod("one", "one", &none, None).await.unwrap();
        assert_eq!((plain.origin, plain.user_path), (Origin::Rebuilt, None));
        let settings = || std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
        let two = network
            .setup_pod("two", "two", &none, users(65_536))
            .await
            .unwrap();
        assert_eq!(within(&two.net_path, settings).trim(), "0");
        serve(&two, 8080, "two");
        let answer = ask(Some(&plain.net_path), &format!("{}:8080", two.ip)).await;
        assert_eq!(answer.unwrap(), format!("two {}", plain.ip));
        network.teardown_pod("two").await.unwrap();
        assert!(!two.user_path.unwrap().exists());
    });
}
