//! Tests of Services as maps and as variables.

#![allow(clippy::unwrap_used, reason = "tests")]

use serde_json::{Value, json};

use super::*;

fn service(spec: Value) -> Service {
    serde_json::from_value(json!({"metadata": {"name": "my-web", "namespace": "d"}, "spec": spec})).unwrap()
}

fn slice(endpoints: Value) -> EndpointSlice {
    serde_json::from_value(json!({
        "metadata": {"name": "web-1", "namespace": "d", "labels": {"kubernetes.io/service-name": "my-web"}},
        "addressType": "IPv6", "ports": [{"name": "http", "port": 8080}, {"name": "dns", "port": 53, "protocol": "UDP"}],
        "endpoints": endpoints
    }))
    .unwrap()
}

fn web() -> Service {
    service(
        json!({"clusterIP": "fd00::9", "ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]}),
    )
}

fn endpoints_of(endpoints: Value) -> Vec<(String, u16)> {
    let picture = picture([&web()], [&slice(endpoints)], None);
    let key = atoll_podnet::ServicePort { address: "fd00::9".parse().unwrap(), protocol: Protocol::Tcp, port: 80 };
    assert_eq!(picture.services.len(), 2, "both ports");
    picture.services[&key].endpoints.iter().map(|(ip, port)| (ip.to_string(), *port)).collect()
}

#[test]
fn ready_endpoints_serve() {
    let check = |endpoints: Value, expected: &[&str]| {
        let expected: Vec<_> = expected.iter().map(|ip| ((*ip).to_owned(), 8080)).collect();
        assert_eq!(endpoints_of(endpoints.clone()), expected, "{endpoints}");
    };
    let end = |ip: &str, conditions: Value| json!({"addresses": [ip], "conditions": conditions});
    check(json!([end("fd00::a", json!({})), end("fd00::b", json!({"ready": true}))]), &["fd00::a", "fd00::b"]);
    check(json!([end("fd00::a", json!({"ready": false})), end("fd00::b", json!({"ready": true}))]), &["fd00::b"]);
    let ending = json!({"ready": false, "serving": true, "terminating": true});
    check(json!([end("fd00::a", ending.clone())]), &["fd00::a"]);
    check(json!([end("fd00::a", ending), end("fd00::b", json!({"ready": true}))]), &["fd00::b"]);
    check(json!([end("10.0.0.1", json!({"ready": true}))]), &[]);
}

#[test]
fn what_has_no_address_is_not_programmed() {
    let check = |spec: Value, services: usize, left_out: usize| {
        let picture = picture([&service(spec.clone())], [], None);
        assert_eq!((picture.services.len(), picture.left_out.len()), (services, left_out), "{spec}");
    };
    check(json!({"clusterIP": "None", "ports": [{"port": 80}]}), 0, 0);
    check(json!({"type": "ExternalName", "externalName": "example.com"}), 0, 0);
    check(json!({"clusterIP": "10.0.0.9", "ports": [{"port": 80}]}), 0, 1);
    check(json!({"type": "NodePort", "clusterIP": "fd00::9", "ports": [{"port": 80}]}), 1, 1);
    check(json!({"clusterIP": "fd00::9", "ports": [{"port": 80, "protocol": "SCTP"}]}), 0, 1);
}

#[test]
fn variables_are_those_that_kubernetes_documents() {
    let variables = variables([&web()], "d", true);
    let check = |name: &str, value: &str| assert_eq!(variables.get(name).map(String::as_str), Some(value), "{name}");
    check("MY_WEB_SERVICE_HOST", "fd00::9");
    check("MY_WEB_SERVICE_PORT", "80");
    check("MY_WEB_SERVICE_PORT_HTTP", "80");
    check("MY_WEB_PORT", "tcp://[fd00::9]:80");
    check("MY_WEB_PORT_80_TCP", "tcp://[fd00::9]:80");
    check("MY_WEB_PORT_80_TCP_PROTO", "tcp");
    check("MY_WEB_PORT_53_UDP_ADDR", "fd00::9");
    assert!(super::variables([&web()], "other", true).is_empty());
    assert!(super::variables([&web()], "d", false).is_empty());
}

#[test]
fn the_api_is_found_on_the_node_itself() {
    let api: std::net::SocketAddrV6 = "[fd00::7]:6443".parse().unwrap();
    let mut kubernetes = service(json!({"clusterIP": "fd00::1:1", "ports": [{"name": "https", "port": 443}]}));
    kubernetes.metadata.name = Some("kubernetes".to_owned());
    kubernetes.metadata.namespace = Some("default".to_owned());
    let found = picture([&kubernetes], [], Some(api));
    let endpoints: Vec<_> = found.services.values().flat_map(|backends| backends.endpoints.clone()).collect();
    assert_eq!(endpoints, [(*api.ip(), 6443)]);
    kubernetes.metadata.namespace = Some("other".to_owned());
    assert!(picture([&kubernetes], [], Some(api)).services.values().all(|backends| backends.endpoints.is_empty()));
}
