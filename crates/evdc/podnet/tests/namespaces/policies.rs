//! Policies in the kernel, with real connections: who is let in and out, by group, block and port, and what becomes of connections when that changes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use atoll_podnet::{
    Affinity, Allow, Attachment, Config, Group, Peers, PodNet, PodPolicy, Policies, Ports, Protocol, RULE_PARTS_MAX,
};

use super::world::{Host, Server, connect, inside, talk};
use super::{SERVICE, config, service};

/// A closed door drops packets, so this is how long it takes to see one.
const SILENCE: Duration = Duration::from_millis(700);

/// An open one answers at once, also on a busy machine.
const ANSWER: Duration = Duration::from_secs(10);

/// Attached, and nothing said of what it may.
async fn attach(net: &PodNet, pod: &str) -> Attachment {
    net.attach(&pod.parse().unwrap()).await.unwrap()
}

fn policies<'a>(pods: impl IntoIterator<Item = (&'a str, PodPolicy)>) -> Policies {
    let pods = pods.into_iter().map(|(pod, policy)| (pod.parse().unwrap(), policy)).collect();
    Policies { pods, ..Policies::default() }
}

fn open() -> PodPolicy {
    PodPolicy::default()
}

fn ingress(rules: Vec<Allow>) -> PodPolicy {
    PodPolicy { ingress: Some(rules), egress: None }
}

fn egress(rules: Vec<Allow>) -> PodPolicy {
    PodPolicy { ingress: None, egress: Some(rules) }
}

fn of(group: &Group) -> Peers {
    Peers::Of { group: Some(group.clone()), blocks: Vec::new() }
}

fn ports(tcp: &[(u16, u16)], udp: &[(u16, u16)]) -> Ports {
    Ports::Of { tcp: tcp.to_vec(), udp: udp.to_vec(), named: BTreeSet::new() }
}

/// Sends back what comes.
struct Echo {
    at: SocketAddr,
    _thread: std::thread::JoinHandle<()>,
}

impl Echo {
    fn start(pod: &Attachment) -> Self {
        let socket = inside(&pod.namespace, || UdpSocket::bind((pod.address, 0)).unwrap());
        let at = socket.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let mut bytes = [0; 64];
            while let Ok((length, from)) = socket.recv_from(&mut bytes) {
                if &bytes[..length] == b"end" {
                    return;
                }
                let _ = socket.send_to(&bytes[..length], from);
            }
        });
        Self { at, _thread: thread }
    }
}

fn udp(from: &Attachment) -> UdpSocket {
    inside(&from.namespace, || UdpSocket::bind((from.address, 0)).unwrap())
}

fn answers(socket: &UdpSocket, to: SocketAddr, patience: Duration) -> bool {
    socket.set_read_timeout(Some(patience)).unwrap();
    let mut bytes = [0; 64];
    socket.send_to(b"hello", to).is_ok() && socket.recv_from(&mut bytes).is_ok()
}

fn is_closed(from: &Path, to: SocketAddr) -> bool {
    connect(from, to).is_err()
}

/// Whether a connection that was made before still carries a question and its answer.
fn lives(mut stream: TcpStream, patience: Duration) -> bool {
    stream.set_read_timeout(Some(patience)).unwrap();
    let mut answer = String::new();
    stream.write_all(b"?").is_ok() && stream.read_to_string(&mut answer).is_ok_and(|length| length > 0)
}

#[test]
fn a_pod_is_closed_until_it_is_known_what_it_may() {
    let host = Host::new();
    host.run(async {
        let net = PodNet::open(config(&host, "x", "fd00:1:2")).await.unwrap();
        let (one, two) = (attach(&net, "one").await, attach(&net, "two").await);
        assert!(!net.is_known(&"two".parse().unwrap()).await);
        net.set_policies(&policies([("one", open())])).await.unwrap();
        let (first, second) =
            (Server::start(&one.namespace, one.address, "one"), Server::start(&two.namespace, two.address, "two"));
        assert!(is_closed(&one.namespace, second.at()), "nobody gets in");
        assert!(is_closed(&two.namespace, first.at()), "and it gets nowhere");
        assert!(talk(&host.path(), second.at()).is_ok(), "its own node reaches it in any case");

        let known = policies([("one", open()), ("two", open()), ("three", ingress(Vec::new()))]);
        net.set_policies(&known).await.unwrap();
        assert!(net.is_known(&"two".parse().unwrap()).await);
        assert!(talk(&one.namespace, second.at()).is_ok());
        let three = attach(&net, "three").await;
        let third = Server::start(&three.namespace, three.address, "three");
        assert!(is_closed(&one.namespace, third.at()), "attached under the policy that was there before it");
        assert!(talk(&three.namespace, first.at()).is_ok());

        drop(net);
        let net = PodNet::open(config(&host, "x", "fd00:1:2")).await.unwrap();
        assert!(is_closed(&one.namespace, third.at()), "a later process begins with what was in force");
        assert!(talk(&one.namespace, second.at()).is_ok());
        assert_eq!(net.set_policies(&known).await.unwrap().changed, 0);
        net.tear_down().await.unwrap();
    });
}

#[test]
fn who_is_of_the_group_is_let_in() {
    let host = Host::new();
    host.run(async {
        let before = host.traces();
        let net = PodNet::open(config(&host, "x", "fd00:1:2")).await.unwrap();
        let (db, web, other) = (attach(&net, "db").await, attach(&net, "web").await, attach(&net, "other").await);
        let (server, echo) = (Server::start(&db.namespace, db.address, "db"), Echo::start(&db));
        let group = Group::of("app=web");
        let with = |members: &[Ipv6Addr]| {
            let rule = Allow { peers: of(&group), ports: Ports::All };
            let mut wanted = policies([("db", ingress(vec![rule])), ("web", open()), ("other", open())]);
            wanted.groups = BTreeMap::from([(group.clone(), members.iter().copied().collect())]);
            wanted
        };
        net.set_policies(&with(&[web.address])).await.unwrap();
        assert!(talk(&web.namespace, server.at()).is_ok());
        assert!(is_closed(&other.namespace, server.at()));
        let (near, far) = (udp(&web), udp(&other));
        assert!(answers(&near, echo.at, ANSWER));
        assert!(!answers(&far, echo.at, SILENCE));
        let own_answer = Server::start(&other.namespace, other.address, "other");
        assert!(talk(&db.namespace, own_answer.at()).is_ok(), "answers to what it asked itself are let in");

        // A server answers one connection after the other, so each has its own.
        let second = Server::start(&db.namespace, db.address, "db");
        let (held, cut) =
            (connect(&web.namespace, server.at()).unwrap(), connect(&web.namespace, second.at()).unwrap());
        assert_eq!(net.set_policies(&with(&[web.address, other.address])).await.unwrap().changed, 1);
        assert!(lives(held, ANSWER), "a connection that is allowed before and after lives on");
        assert!(talk(&other.namespace, server.at()).is_ok() && answers(&far, echo.at, ANSWER));
        assert_eq!(net.set_policies(&with(&[other.address])).await.unwrap().changed, 1);
        assert!(!lives(cut, SILENCE), "one that is not any more ends");
        assert!(!answers(&near, echo.at, SILENCE));

        net.set_policies(&policies([("db", open()), ("web", open()), ("other", open())])).await.unwrap();
        assert!(talk(&web.namespace, server.at()).is_ok(), "without a policy it is open again");
        assert!(answers(&near, echo.at, ANSWER));
        // It waits for the connection that was cut: what was sent on it meanwhile is sent again, and now arrives.
        drop(second);
        inside(&db.namespace, || UdpSocket::bind((db.address, 0)).unwrap().send_to(b"end", echo.at).unwrap());
        net.tear_down().await.unwrap();
        assert_eq!(host.traces(), before, "nothing is left");
    });
}

#[test]
fn what_a_pod_says_is_judged_by_where_it_ends() {
    let host = Host::new();
    host.run(async {
        let net = PodNet::open(config(&host, "x", "fd00:1:2")).await.unwrap();
        let (client, one, two) = (attach(&net, "client").await, attach(&net, "one").await, attach(&net, "two").await);
        let servers =
            [Server::start(&one.namespace, one.address, "one"), Server::start(&two.namespace, two.address, "two")];
        let at = SocketAddr::from((SERVICE.parse::<Ipv6Addr>().unwrap(), 80));
        let (group, names) = (Group::of("app=one"), Group::of("http"));
        let with = |rules: Vec<Allow>| {
            let mut wanted = policies([("client", egress(rules)), ("one", open()), ("two", open())]);
            wanted.groups = BTreeMap::from([(group.clone(), BTreeSet::from([one.address]))]);
            // Each destination has another number under the name; the second's is not where it listens.
            let numbers = [(one.address, servers[0].at().port()), (two.address, 1)];
            wanted.named_ports = BTreeMap::from([(names.clone(), BTreeSet::from(numbers))]);
            wanted
        };
        net.set_policies(&with(vec![Allow { peers: of(&group), ports: Ports::All }])).await.unwrap();
        assert!(talk(&client.namespace, servers[0].at()).is_ok());
        assert!(is_closed(&client.namespace, servers[1].at()));
        assert!(talk(&one.namespace, servers[1].at()).is_ok(), "others are not concerned");
        for (server, good) in [(&servers[0], true), (&servers[1], false)] {
            let endpoint = [(server.address(), server.at().port())];
            net.set_services(&service(Protocol::Tcp, &endpoint, Affinity::None)).await.unwrap();
            assert_eq!(!is_closed(&client.namespace, at), good, "the Service's endpoint counts, not its address");
        }
        let named =
            Ports::Of { tcp: Vec::new(), udp: Vec::new(), named: BTreeSet::from([(Protocol::Tcp, names.clone())]) };
        net.set_policies(&with(vec![Allow { peers: Peers::All, ports: named }])).await.unwrap();
        assert!(talk(&client.namespace, servers[0].at()).is_ok(), "the port that is called so there");
        assert!(is_closed(&client.namespace, servers[1].at()), "is another here");
        net.set_policies(&with(Vec::new())).await.unwrap();
        assert!(is_closed(&client.namespace, servers[0].at()), "no rules, nothing");
        let own = Server::start(&client.namespace, client.address, "client");
        assert!(talk(&one.namespace, own.at()).is_ok(), "its answers pass");
        let itself = [(own.address(), own.at().port())];
        net.set_services(&service(Protocol::Tcp, &itself, Affinity::None)).await.unwrap();
        assert!(talk(&client.namespace, at).is_ok(), "a pod reaches itself by its Service, whatever it may");
        net.tear_down().await.unwrap();
    });
}

#[test]
fn blocks_and_ranges_have_ends() {
    let host = Host::new();
    host.run(async {
        let net = PodNet::open(config(&host, "x", "fd00:1:2")).await.unwrap();
        let (db, web, other) = (attach(&net, "db").await, attach(&net, "web").await, attach(&net, "other").await);
        let server = Server::start(&db.namespace, db.address, "db");
        let (port, echo) = (server.at().port(), Echo::start(&db));
        let check = |rule: Allow| {
            let net = net.clone();
            async move {
                let wanted = policies([("db", ingress(vec![rule])), ("web", open()), ("other", open())]);
                net.set_policies(&wanted).await.unwrap();
            }
        };
        // All of the node's subnet but one address.
        let step = |address: Ipv6Addr, by: i128| Ipv6Addr::from_bits(address.to_bits().wrapping_add_signed(by));
        let (first, last) = ("fd00:1:2:3::".parse().unwrap(), "fd00:1:2:3:ffff:ffff:ffff:ffff".parse().unwrap());
        let blocks = vec![(first, step(other.address, -1)), (step(other.address, 1), last)];
        check(Allow { peers: Peers::Of { group: None, blocks }, ports: Ports::All }).await;
        assert!(talk(&web.namespace, server.at()).is_ok());
        assert!(is_closed(&other.namespace, server.at()), "the one that is excepted");

        check(Allow { peers: Peers::All, ports: ports(&[(port, port)], &[]) }).await;
        assert!(talk(&web.namespace, server.at()).is_ok());
        let socket = udp(&web);
        assert!(!answers(&socket, echo.at, SILENCE), "TCP alone");
        check(Allow { peers: Peers::All, ports: ports(&[(port - 1, port + 1)], &[(0, u16::MAX)]) }).await;
        assert!(talk(&web.namespace, server.at()).is_ok() && answers(&socket, echo.at, ANSWER));
        check(Allow { peers: Peers::All, ports: ports(&[(1, port - 1), (port + 1, u16::MAX)], &[]) }).await;
        assert!(is_closed(&web.namespace, server.at()), "just outside of both ranges");
        check(Allow { peers: Peers::All, ports: Ports::All }).await;
        assert!(talk(&web.namespace, server.at()).is_ok() && answers(&socket, echo.at, ANSWER));
        net.tear_down().await.unwrap();
    });
}

#[test]
fn both_ends_have_to_allow_and_each_is_on_its_own_node() {
    let (here, there) = (Host::new(), Host::new());
    here.join(&there, "atoll0");
    let with_planetary = |config: Config| Config { planetary: Some("atoll0".to_owned()), ..config };
    let far = Config { node: "fd00:1:2:4::/64".parse().unwrap(), ..config(&there, "x", "fd00:1:2") };
    let (far_net, far_pod, server, echo) = there.run(async {
        let net = PodNet::open(with_planetary(far)).await.unwrap();
        let pod = attach(&net, "far").await;
        let server = Server::start(&pod.namespace, pod.address, "far");
        let echo = Echo::start(&pod);
        (net, pod, server, echo)
    });
    here.run(async {
        let net = PodNet::open(with_planetary(config(&here, "x", "fd00:1:2"))).await.unwrap();
        let (near, other) = (attach(&net, "near").await, attach(&net, "other").await);
        let (group, far_group) = (Group::of("near"), Group::of("far"));
        let hears = |address: Ipv6Addr| {
            let mut wanted = policies([("far", ingress(vec![Allow { peers: of(&group), ports: Ports::All }]))]);
            wanted.groups = BTreeMap::from([(group.clone(), BTreeSet::from([address]))]);
            wanted
        };
        let says = |address: Ipv6Addr| {
            let rule = Allow { peers: of(&far_group), ports: Ports::All };
            let mut wanted = policies([("near", egress(vec![rule])), ("other", open())]);
            wanted.groups = BTreeMap::from([(far_group.clone(), BTreeSet::from([address]))]);
            wanted
        };
        net.set_policies(&says(far_pod.address)).await.unwrap();
        assert!(is_closed(&near.namespace, server.at()), "nothing is known of the other end yet");
        there.run(async { far_net.set_policies(&hears(near.address)).await.unwrap() });
        let socket = udp(&near);
        assert!(talk(&near.namespace, server.at()).is_ok() && answers(&socket, echo.at, ANSWER));
        assert!(is_closed(&other.namespace, server.at()), "whom its node lets out is not let in");
        assert!(is_closed(&here.path(), server.at()), "another node is no exception, only a pod's own is");
        assert!(there.run(async { talk(&there.path(), server.at()).is_ok() }));
        net.set_policies(&says(near.address)).await.unwrap();
        assert!(is_closed(&near.namespace, server.at()), "nor is let out who would be let in");
        assert!(!answers(&socket, echo.at, SILENCE));
        net.tear_down().await.unwrap();
    });
    there.run(async { far_net.tear_down().await.unwrap() });
}

/// How long a hundred groups of a thousand take, and one member more: printed with `--nocapture`.
#[test]
fn large_groups_are_programmed_quickly() {
    let host = Host::new();
    host.run(async {
        let net = PodNet::open(config(&host, "x", "fd00:1:2")).await.unwrap();
        let (db, web) = (attach(&net, "db").await, attach(&net, "web").await);
        let server = Server::start(&db.namespace, db.address, "db");
        let groups: Vec<Group> = (0..100).map(|n| Group::of(&format!("{n}"))).collect();
        let rules = groups.iter().map(|group| Allow { peers: of(group), ports: Ports::All }).collect();
        let mut wanted = policies([("db", ingress(rules)), ("web", open())]);
        let member = |n: u16, m: u16| Ipv6Addr::new(0xfd00, 1, 2, 7, 0, 1, n, m);
        let members = |n: usize| (0..999).map(|m| member(u16::try_from(n).unwrap(), m)).collect();
        wanted.groups = groups.iter().enumerate().map(|(n, group)| (group.clone(), members(n))).collect();
        let started = Instant::now();
        assert!(net.set_policies(&wanted).await.unwrap().refused.is_empty());
        let all = started.elapsed();
        assert!(is_closed(&web.namespace, server.at()));
        wanted.groups.get_mut(&groups[99]).unwrap().insert(web.address);
        let started = Instant::now();
        assert_eq!(net.set_policies(&wanted).await.unwrap().changed, 1);
        let one = started.elapsed();
        eprintln!("100 groups of 999 in {all:?}, one member more in {one:?}");
        assert!(one < Duration::from_secs(2), "one change among many took {one:?}");
        assert!(talk(&web.namespace, server.at()).is_ok());
        net.tear_down().await.unwrap();
    });
}

/// What is admitted is also taken by the kernel, in less time than a tool is given; printed with `--nocapture`.
#[test]
fn the_limits_can_be_reached() {
    let host = Host::new();
    host.run(async {
        let net = PodNet::open(config(&host, "x", "fd00:1:2")).await.unwrap();
        let (db, web) = (attach(&net, "db").await, attach(&net, "web").await);
        let server = Server::start(&db.namespace, db.address, "db");
        let rule = |n: u16| {
            let block = (Ipv6Addr::new(0xfd00, 1, 2, 8, n, 0, 0, 0), Ipv6Addr::new(0xfd00, 1, 2, 8, n, 0, 0, 9));
            let peers = Peers::Of { group: None, blocks: vec![block] };
            Allow { peers, ports: ports(&[(n, n)], &[(n, n)]) }
        };
        let count = u16::try_from(RULE_PARTS_MAX / 4 - 1).unwrap();
        let mut rules: Vec<Allow> = (0..count).map(rule).collect();
        rules.push(Allow { peers: Peers::All, ports: Ports::All });
        let wanted = policies([("db", ingress(rules)), ("web", open())]);
        let started = Instant::now();
        assert!(net.set_policies(&wanted).await.unwrap().refused.is_empty());
        eprintln!("{count} rules of four parts in {:?}", started.elapsed());
        assert!(talk(&web.namespace, server.at()).is_ok(), "the last rule of many");
        let started = Instant::now();
        drop(net);
        let net = PodNet::open(config(&host, "x", "fd00:1:2")).await.unwrap();
        eprintln!("and again for a later process in {:?}", started.elapsed());
        net.tear_down().await.unwrap();
    });
}
