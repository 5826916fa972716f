//! The proxy as HTTP clients use it.

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{Node, OTHER, PATIENCE, asks, echo, pair, program};

/// A server that answers with the head it got, and the body behind it.
async fn mirror() -> u16 {
    program(|stream| async move {
        let mut stream = BufReader::new(stream);
        let (mut head, mut length) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            let from = head.len();
            if stream.read_line(&mut head).await.unwrap() == 0 {
                return;
            }
            if let Some(value) = head[from..].to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        let told = [head.as_bytes(), &body].concat();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nX-Mirror: Yes\r\n\r\n", told.len());
        stream.write_all(&[answer.as_bytes(), &told].concat()).await.unwrap();
    })
    .await
}

/// Status, head and body of the next answer.
async fn answer(stream: &mut BufReader<TcpStream>) -> (u16, String, String) {
    let reading = async {
        let (mut head, mut length) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            let from = head.len();
            assert!(stream.read_line(&mut head).await.unwrap() > 0, "the connection ended: {head}");
            if let Some(value) = head[from..].to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head, String::from_utf8(body).unwrap())
    };
    timeout(PATIENCE, reading).await.unwrap()
}

async fn proxy(node: &Node) -> BufReader<TcpStream> {
    BufReader::new(TcpStream::connect(node.proxy).await.unwrap())
}

#[tokio::test]
async fn requests_that_name_a_whole_address_are_passed_on() {
    let (one, other) = pair().await;
    let port = mirror().await;
    other.allow(port);
    let mut stream = proxy(&one).await;
    // Two on one connection.
    for path in ["/page?x=1", "/other"] {
        let request = format!(
            "POST http://user:secret@{OTHER}:{port}{path} HTTP/1.1\r\nHost: wrong\r\nX-Case: Kept\r\nProxy-Connection: keep-alive\r\n\
             Connection: x-private\r\nX-Private: 1\r\nContent-Length: 4\r\n\r\nbody"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let (status, head, told) = answer(&mut stream).await;
        assert_eq!(status, 200);
        assert!(head.contains("X-Mirror: Yes"), "{head}");
        assert!(told.starts_with(&format!("POST {path} HTTP/1.1\r\n")), "{told}");
        assert!(told.contains(&format!("{OTHER}:{port}\r\n")) && told.contains("X-Case: Kept\r\n"), "{told}");
        assert!(told.contains("1.1 atoll\r\n") && told.ends_with("\r\n\r\nbody"), "{told}");
        let lower = told.to_ascii_lowercase();
        for gone in ["wrong", "secret", "private", "proxy-connection"] {
            assert!(!lower.contains(gone), "{told}");
        }
    }
}

#[tokio::test]
async fn a_tunnel_carries_anything() {
    let (one, other) = pair().await;
    let port = echo().await;
    other.allow(port);
    let mut stream = proxy(&one).await;
    // What comes right behind the head is the tunnel's.
    let request = format!("CONNECT {OTHER}:{port} HTTP/1.1\r\nHost: {OTHER}:{port}\r\n\r\nearly");
    stream.write_all(request.as_bytes()).await.unwrap();
    let (status, head, _) = answer(&mut stream).await;
    assert_eq!(status, 200);
    assert!(!head.to_ascii_lowercase().contains("transfer-encoding"), "{head}");
    let mut early = [0; 5];
    stream.read_exact(&mut early).await.unwrap();
    assert_eq!(&early, b"early");
    asks(stream.get_mut()).await;
    stream.write_all(b"last").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut last = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut last)).await.unwrap().unwrap();
    assert_eq!(last, "last");
}

#[tokio::test]
async fn what_is_not_reached_is_told_in_words() {
    let (one, other) = pair().await;
    let (port, closed) = (echo().await, 1);
    other.allow(closed);
    let check = async |line: String, status: u16, words: &str| {
        let mut stream = proxy(&one).await;
        stream.write_all(format!("{line} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        let (found, _, told) = answer(&mut stream).await;
        assert_eq!(found, status, "{line}: {told}");
        assert!(told.contains(words), "{line}: {told}");
    };
    check(format!("CONNECT {OTHER}:{port}"), 403, "no rule there lets this node").await;
    check(format!("GET http://{OTHER}:{port}/"), 403, "network.allow").await;
    check(format!("GET http://{OTHER}:{closed}/"), 502, "nothing listens there").await;
    check("GET http://nobody.atoll/".into(), 502, "no node known here is called nobody.atoll").await;
    check("GET http://example.com/".into(), 403, "no exit is set for it").await;
    check("CONNECT 10.0.0.1:22".into(), 403, "lies outside the planetary network").await;
    check("CONNECT example.com".into(), 400, "no port").await;
    check("GET /".into(), 400, "this is a proxy").await;
    check("GET https://example.com/".into(), 400, "by CONNECT").await;
}
