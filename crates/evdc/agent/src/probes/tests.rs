//! Tests of probes: thresholds, ports, requests, verdicts.

#![allow(clippy::unwrap_used, reason = "tests")]

use serde_json::json;
use tokio::net::TcpListener;

use super::*;

#[test]
fn thresholds_decide() {
    let probe: Probe = serde_json::from_value(json!({"successThreshold": 2, "failureThreshold": 3})).unwrap();
    let check = |results: &str, expected: &str| {
        let mut tally = Tally::new(&probe);
        let verdicts = results.chars().map(|it| match tally.count(it == '+') {
            Some(true) => '+',
            Some(false) => '-',
            None => '.',
        });
        assert_eq!(verdicts.collect::<String>(), expected, "{results}");
    };
    check("++", ".+");
    check("--", "..");
    check("----", "..--");
    check("+-+-", "....");
    check("++--+++", ".+...++");
}

#[test]
fn ports_are_found_by_name() {
    let container: Container =
        serde_json::from_value(json!({"name": "c", "ports": [{"name": "web", "containerPort": 8080}]})).unwrap();
    let check = |port: IntOrString, expected: Option<u16>| assert_eq!(port_of(&container, &port).ok(), expected);
    check(IntOrString::Int(80), Some(80));
    check(IntOrString::String("web".to_owned()), Some(8080));
    check(IntOrString::String("other".to_owned()), None);
    check(IntOrString::Int(0), None);
    check(IntOrString::Int(70_000), None);
}

#[test]
fn nothing_is_smuggled_into_a_request() {
    let check = |get: serde_json::Value, good: bool| {
        let get: HTTPGetAction = serde_json::from_value(get).unwrap();
        assert_eq!(request(Ipv6Addr::LOCALHOST, 80, &get).is_ok(), good, "{get:?}");
    };
    check(json!({"port": 80, "path": "/healthz?a=b"}), true);
    check(json!({"port": 80, "path": "/a b"}), false);
    check(json!({"port": 80, "path": "/a\r\nX: y"}), false);
    check(json!({"port": 80, "httpHeaders": [{"name": "X", "value": "a b"}]}), true);
    check(json!({"port": 80, "httpHeaders": [{"name": "X", "value": "a\r\nb"}]}), false);
    check(json!({"port": 80, "httpHeaders": [{"name": "X: y\r\n", "value": "a"}]}), false);
}

#[tokio::test]
async fn answers_are_judged_by_their_status() {
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let answers =
        ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 399 Odd\r\n\r\n", "HTTP/1.1 404 No\r\n\r\n", "nonsense\r\n", ""];
    let server = tokio::spawn(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut bytes = [0; 1_024];
            let _ = stream.read(&mut bytes).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let get: HTTPGetAction = serde_json::from_value(json!({"port": port})).unwrap();
    let mut verdicts = Vec::new();
    for _ in answers {
        verdicts.push(http(Ipv6Addr::LOCALHOST, port, &get, Duration::from_secs(5)).await);
    }
    server.await.unwrap();
    assert_eq!(verdicts[0], Ok(()));
    assert_eq!(verdicts[1], Ok(()));
    assert_eq!(verdicts[2], Err("HTTP probe failed with statuscode: 404".to_owned()));
    assert!(verdicts[3].is_err() && verdicts[4].is_err());
    assert!(tcp(Ipv6Addr::LOCALHOST, port, Duration::from_secs(5)).await.is_err(), "nobody listens any more");
}
