//! The pod network in the kernel: hosts that are network namespaces, pods in them, real connections between them. Needs root,
//! `apt-get install nftables iproute2 util-linux`; makes only namespaces of its own.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "namespaces/policies.rs"]
mod policies;
#[path = "namespaces/world.rs"]
mod world;

use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use atoll_podnet::{
    Affinity, Attachment, Backends, Config, NodeService, PodNet, PodNetError, PodPolicy, Policies, Protocol,
    ServicePort, Services,
};
use world::{Host, Server, connect, inside, talk};

const SERVICE: &str = "fd00:1:2:ffff::9";

fn config(host: &Host, tag: &str, evdc: &str) -> Config {
    Config {
        tag: tag.parse().unwrap(),
        run_dir: host.dir().join(tag),
        evdc: format!("{evdc}::/48").parse().unwrap(),
        node: format!("{evdc}:3::/64").parse().unwrap(),
        services: format!("{evdc}:ffff::/112").parse().unwrap(),
        planetary: None,
        mtu: None,
        node_services: Vec::new(),
    }
}

/// Attached, and no policy speaks of any pod here.
async fn attach(net: &PodNet, pod: &str) -> Attachment {
    let attachment = net.attach(&pod.parse().unwrap()).await.unwrap();
    let pods = net.attachments().into_keys().map(|pod| (pod, PodPolicy::default())).collect();
    net.set_policies(&Policies { pods, ..Policies::default() }).await.unwrap();
    attachment
}

fn service(protocol: Protocol, endpoints: &[(Ipv6Addr, u16)], affinity: Affinity) -> Services {
    let port = ServicePort { address: SERVICE.parse().unwrap(), protocol, port: 80 };
    Services::from([(port, Backends { endpoints: endpoints.to_vec(), affinity })])
}

#[test]
fn pods_reach_each_other_and_nothing_of_the_node() {
    let host = Host::new();
    host.run(async {
        host.ip("address add fd77::1/128 dev lo nodad");
        let net = PodNet::open(config(&host, "x", "fd00:1:2")).await.unwrap();
        let (one, two) = (attach(&net, "one").await, attach(&net, "two").await);
        let server = Server::start(&two.namespace, two.address, "two");
        let node_all = Server::start(&host.path(), Ipv6Addr::UNSPECIFIED, "node");

        assert_eq!(talk(&one.namespace, server.at()).unwrap(), format!("two {}", one.address));
        assert_eq!(talk(&host.path(), server.at()).unwrap(), format!("two {}", net.config().node_address()));
        for address in [net.config().node_address(), "fd77::1".parse().unwrap(), one.address] {
            let at = SocketAddr::from((address, node_all.at().port()));
            let answer = connect(&one.namespace, at);
            // Its own address is its own, where nothing listens; all others are the node's.
            assert!(answer.is_err(), "the pod reached {address}: {answer:?}");
        }
        net.tear_down().await.unwrap();
    });
}

#[test]
fn a_pod_sends_only_as_itself() {
    let host = Host::new();
    host.run(async {
        let net = PodNet::open(config(&host, "x", "fd00:1:2")).await.unwrap();
        let (one, two, third) = (attach(&net, "one").await, attach(&net, "two").await, attach(&net, "three").await);
        let receiver = inside(&two.namespace, || UdpSocket::bind((two.address, 0)).unwrap());
        receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let at = receiver.local_addr().unwrap();
        inside(&one.namespace, || {
            world::ip(&format!("address add {}/128 dev eth0 nodad", third.address));
            UdpSocket::bind((third.address, 0)).unwrap().send_to(b"forged", at).unwrap();
            UdpSocket::bind((one.address, 0)).unwrap().send_to(b"honest", at).unwrap();
        });
        let mut bytes = [0; 16];
        let (length, from) = receiver.recv_from(&mut bytes).unwrap();
        assert_eq!((&bytes[..length], from.ip()), (&b"honest"[..], one.address.into()));
        net.tear_down().await.unwrap();
    });
}

#[test]
fn evdcs_on_one_node_do_not_meet() {
    let host = Host::new();
    host.run(async {
        let first = PodNet::open(config(&host, "x", "fd00:1:2")).await.unwrap();
        let second = PodNet::open(config(&host, "y", "fd00:1:9")).await.unwrap();
        let (one, other) = (attach(&first, "one").await, attach(&second, "one").await);
        let server = Server::start(&other.namespace, other.address, "other");
        assert!(connect(&one.namespace, server.at()).is_err());
        assert!(talk(&host.path(), server.at()).is_ok());
        let stolen = service(Protocol::Tcp, &[(other.address, server.at().port())], Affinity::None);
        assert_eq!(first.set_services(&stolen).await.unwrap().refused.len(), 1);
        first.tear_down().await.unwrap();
        assert!(talk(&host.path(), server.at()).is_ok(), "one eVDC's end is not the other's");
        second.tear_down().await.unwrap();
    });
}

#[test]
fn services_lead_to_their_endpoints() {
    let host = Host::new();
    host.run(async {
        let net = PodNet::open(config(&host, "x", "fd00:1:2")).await.unwrap();
        let (one, two, client) = (attach(&net, "one").await, attach(&net, "two").await, attach(&net, "client").await);
        let servers =
            [Server::start(&one.namespace, one.address, "one"), Server::start(&two.namespace, two.address, "two")];
        let endpoints = servers.each_ref().map(|server| (server.address(), server.at().port()));
        let at = SocketAddr::from((SERVICE.parse::<Ipv6Addr>().unwrap(), 80));

        let refused = connect(&client.namespace, at).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "a Service without endpoints");
        assert_eq!(connect(&host.path(), at).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);

        let both = service(Protocol::Tcp, &endpoints, Affinity::None);
        assert_eq!(net.set_services(&both).await.unwrap().changed, 1);
        assert_eq!(net.set_services(&both).await.unwrap().changed, 0, "nothing to do the second time");
        for from in [&client.namespace, &host.path(), &one.namespace] {
            let answers: std::collections::BTreeSet<String> =
                (0..40).map(|_| talk(from, at).unwrap()[..3].to_owned()).collect();
            assert_eq!(answers.len(), 2, "all endpoints are used from {}", from.display());
        }
        net.set_services(&service(Protocol::Tcp, &endpoints, Affinity::Client)).await.unwrap();
        let answers: std::collections::BTreeSet<String> =
            (0..20).map(|_| talk(&client.namespace, at).unwrap()).collect();
        assert_eq!(answers.len(), 1, "a client stays with its endpoint");

        net.set_services(&service(Protocol::Tcp, &endpoints[..1], Affinity::None)).await.unwrap();
        assert_eq!(talk(&client.namespace, at).unwrap(), format!("one {}", client.address));
        assert_eq!(net.set_services(&Services::new()).await.unwrap().removed, 1);
        assert!(connect(&client.namespace, at).is_err());
        net.tear_down().await.unwrap();
    });
}

#[test]
fn udp_services_and_open_ports_of_the_node() {
    let host = Host::new();
    host.run(async {
        let node = inside(&host.path(), || UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap());
        node.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let port = node.local_addr().unwrap().port();
        let open = vec![NodeService { protocol: Protocol::Udp, port }];
        let net = PodNet::open(Config { node_services: open, ..config(&host, "x", "fd00:1:2") }).await.unwrap();
        let one = attach(&net, "one").await;
        let names = service(Protocol::Udp, &[(net.config().node_address(), port)], Affinity::None);
        assert!(net.set_services(&names).await.unwrap().refused.is_empty());
        let client = inside(&one.namespace, || UdpSocket::bind((one.address, 0)).unwrap());
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut bytes = [0; 16];
        for to in [SERVICE.parse().unwrap(), net.config().node_address()] {
            let to = SocketAddr::from((to, if to == net.config().node_address() { port } else { 80 }));
            client.send_to(b"question", to).unwrap();
            let (length, from) = node.recv_from(&mut bytes).unwrap();
            assert_eq!((&bytes[..length], from.ip()), (&b"question"[..], one.address.into()));
            node.send_to(b"answer", from).unwrap();
            assert_eq!(client.recv_from(&mut bytes).unwrap(), (6, to), "the answer comes from whom was asked");
        }
        net.tear_down().await.unwrap();
    });
}

#[test]
fn a_later_process_takes_up_what_is_there() {
    let host = Host::new();
    host.run(async {
        let before = host.traces();
        let net = PodNet::open(config(&host, "x", "fd00:1:2")).await.unwrap();
        let (one, two) = (attach(&net, "one").await, attach(&net, "two").await);
        let server = Server::start(&two.namespace, two.address, "two");
        let services = service(Protocol::Tcp, &[(two.address, server.at().port())], Affinity::None);
        net.set_services(&services).await.unwrap();
        let at = SocketAddr::from((SERVICE.parse::<Ipv6Addr>().unwrap(), 80));
        let mut held = connect(&one.namespace, at).unwrap();
        drop(net);

        let net = PodNet::open(config(&host, "x", "fd00:1:2")).await.unwrap();
        assert_eq!(net.attachments().len(), 2);
        assert_eq!(attach(&net, "one").await, one, "attached stays attached");
        assert_eq!(net.set_services(&services).await.unwrap().changed, 0);
        held.write_all(b"?").unwrap();
        let mut answer = String::new();
        held.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, format!("two {}", one.address), "a connection lives through it");
        assert!(talk(&one.namespace, at).is_ok());

        net.detach(&"one".parse().unwrap()).await.unwrap();
        net.detach(&"one".parse().unwrap()).await.unwrap();
        assert!(!one.namespace.exists());
        net.tear_down().await.unwrap();
        assert_eq!(host.traces(), before, "nothing is left");
        assert!(!host.dir().join("x").exists());
    });
}

#[test]
fn what_an_interrupted_start_left_is_finished() {
    let host = Host::new();
    host.run(async {
        let net = PodNet::open(config(&host, "x", "fd00:1:2")).await.unwrap();
        let one = attach(&net, "one").await;
        // As after a restart of the machine's network, and as after a crash between two steps.
        host.ip(&format!("link del dev {}", one.interface));
        let again = attach(&net, "one").await;
        assert_eq!(again.address, one.address);
        let server = Server::start(&again.namespace, again.address, "one");
        assert!(talk(&host.path(), server.at()).is_ok());
        net.tear_down().await.unwrap();
    });
}

#[test]
fn two_nodes_and_closed_to_all_others() {
    let (here, there) = (Host::new(), Host::new());
    here.join(&there, "atoll0");
    let far = Config { node: "fd00:1:2:4::/64".parse().unwrap(), ..config(&there, "x", "fd00:1:2") };
    let with_planetary = |config: Config| Config { planetary: Some("atoll0".to_owned()), ..config };
    let (other, server) = there.run(async {
        let net = PodNet::open(with_planetary(far)).await.unwrap();
        let pod = attach(&net, "far").await;
        let server = Server::start(&pod.namespace, pod.address, "far");
        let exposed = Server::start(&there.path(), net.config().node_address(), "node");
        (exposed, server)
    });
    here.run(async {
        let net = PodNet::open(with_planetary(config(&here, "x", "fd00:1:2"))).await.unwrap();
        let near = attach(&net, "near").await;
        assert_eq!(talk(&near.namespace, server.at()).unwrap(), format!("far {}", near.address));
        assert_eq!(talk(&here.path(), server.at()).unwrap(), format!("far {}", net.config().node_address()));
        assert!(connect(&near.namespace, other.at()).is_err(), "another node's services are closed to pods");
        assert!(connect(&here.path(), other.at()).is_err(), "and to other nodes");
        let services = service(Protocol::Tcp, &[(server.address(), server.at().port())], Affinity::None);
        net.set_services(&services).await.unwrap();
        let at = SocketAddr::from((SERVICE.parse::<Ipv6Addr>().unwrap(), 80));
        assert_eq!(talk(&near.namespace, at).unwrap(), format!("far {}", near.address));
        // An address outside of the eVDC, routed to the planetary network.
        here.ip("address add fd55::1/128 dev lo nodad");
        let stranger = inside(&here.path(), || world::connect_from("fd55::1".parse().unwrap(), server.at()));
        assert!(stranger.is_err(), "who is not of the eVDC does not get in");
        net.tear_down().await.unwrap();
    });
}

#[test]
fn refusals_name_the_remedy() {
    let host = Host::new();
    host.run(async {
        let no_interface = Config { planetary: Some("atoll0".to_owned()), ..config(&host, "x", "fd00:1:2") };
        assert!(matches!(PodNet::open(no_interface).await, Err(PodNetError::NoPlanetary(name)) if name == "atoll0"));
        let strange = Config { run_dir: host.dir().join("a b"), ..config(&host, "x", "fd00:1:2") };
        assert!(matches!(PodNet::open(strange).await, Err(PodNetError::RunDir(_))));
        let wide = Config { evdc: "fd00::/40".parse().unwrap(), ..config(&host, "x", "fd00:1:2") };
        assert!(matches!(PodNet::open(wide).await, Err(PodNetError::Config(_))));
    });
}

/// How long a thousand Services with ten endpoints each take, and one change among them: printed with `--nocapture`.
#[test]
fn a_thousand_services_are_programmed_quickly() {
    let host = Host::new();
    host.run(async {
        let net = PodNet::open(config(&host, "x", "fd00:1:2")).await.unwrap();
        let one = attach(&net, "one").await;
        let server = Server::start(&one.namespace, one.address, "one");
        let mut services: Services = (0..1000_u16)
            .map(|n| {
                let address = Ipv6Addr::new(0xfd00, 1, 2, 0xffff, 0, 0, 0, n + 1);
                let endpoints = (0..10).map(|m| (Ipv6Addr::new(0xfd00, 1, 2, 7, 0, 1, n, m), 8080)).collect();
                let port = ServicePort { address, protocol: Protocol::Tcp, port: 80 };
                (port, Backends { endpoints, affinity: Affinity::None })
            })
            .collect();
        assert_eq!(net.set_services(&services).await.unwrap().changed, 1000);
        let port = ServicePort { address: SERVICE.parse().unwrap(), protocol: Protocol::Tcp, port: 80 };
        let backends = Backends { endpoints: vec![(one.address, server.at().port())], affinity: Affinity::None };
        services.insert(port, backends);
        let started = std::time::Instant::now();
        assert_eq!(net.set_services(&services).await.unwrap().changed, 1);
        let took = started.elapsed();
        assert!(took < Duration::from_secs(2), "one change among a thousand took {took:?}");
        assert!(talk(&host.path(), SocketAddr::from((port.address, 80))).is_ok());
        net.tear_down().await.unwrap();
    });
}
