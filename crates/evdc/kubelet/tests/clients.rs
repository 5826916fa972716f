//! Real clients through a real API server to this node's pods, which only pretend: a command is one of this machine, a port one of its loopback.
//! kubectl speaks WebSocket from 1.31 on, and SPDY before that or when it is told to; `KUBECTL` names another one.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::PathBuf,
    process::{Output, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use atoll_apiserver::{ApiServer, Config, MASTERS, NodeProxy, NodeStream, User};
use atoll_kubelet::{Command, CommandIo, Kubelet, LogWish, Pods, Refusal};
use atoll_kv::{Embedded, EmbeddedConfig};
use bytes::Bytes;
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _, future::BoxFuture, stream, stream::BoxStream};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{AttachParams, LogParams, PostParams},
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Notify,
};
use tokio_util::sync::CancellationToken;

/// What kubectl is told, and so speaks.
const SPOKEN: [(&str, [(&str, &str); 2]); 2] = [
    ("WebSocket", [("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "true"), ("KUBECTL_PORT_FORWARD_WEBSOCKETS", "true")]),
    ("SPDY", [("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false"), ("KUBECTL_PORT_FORWARD_WEBSOCKETS", "false")]),
];

#[derive(Default)]
struct Pretended {
    sizes: Mutex<Vec<(u16, u16)>>,
    /// Told when a command was given up.
    dropped: Arc<Notify>,
}

struct TellDrop(Arc<Notify>);

impl Drop for TellDrop {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl Pods for Pretended {
    fn logs(&self, wish: LogWish) -> BoxFuture<'_, Result<BoxStream<'static, Result<Bytes, Refusal>>, Refusal>> {
        async move {
            if wish.previous {
                return Err(Refusal::Invalid("previous terminated container \"c\" in pod \"p\" not found".to_owned()));
            }
            let lines = (0..10).skip(wish.tail.map_or(0, |tail| 10 - tail)).map(|number| format!("line {number}\n"));
            let lines = stream::iter(lines.collect::<Vec<_>>()).map(|line| Ok(Bytes::from(line)));
            let guard = TellDrop(self.dropped.clone());
            // Nothing more comes; it is noticed when nobody waits for it any longer.
            let rest = stream::pending::<Result<Bytes, Refusal>>().inspect(move |_| {
                let _held = &guard;
            });
            Ok(if wish.follow { lines.chain(rest).boxed() } else { lines.boxed() })
        }
        .boxed()
    }

    fn exec(&self, command: Command, mut io: CommandIo) -> BoxFuture<'_, Result<i32, Refusal>> {
        async move {
            assert_eq!((command.namespace.as_str(), command.container.as_str()), ("default", "c"));
            if command.args[0] == "size" {
                let size = io.sizes.recv().await.unwrap();
                self.sizes.lock().unwrap().push((size.width, size.height));
                return Ok(0);
            }
            let _guard = TellDrop(self.dropped.clone());
            let mut child = tokio::process::Command::new(&command.args[0])
                .args(&command.args[1..])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .map_err(|error| Refusal::Invalid(error.to_string()))?;
            let (mut stdin, mut out, mut err) =
                (child.stdin.take().unwrap(), child.stdout.take().unwrap(), child.stderr.take().unwrap());
            let inward = async {
                if let Some(mut from) = io.stdin.take() {
                    let _ = tokio::io::copy(&mut from, &mut stdin).await;
                }
                drop(stdin);
                std::future::pending::<()>().await;
            };
            let outward = async {
                let out = async { tokio::io::copy(&mut out, io.stdout.as_mut().unwrap()).await };
                let err = async {
                    match &mut io.stderr {
                        Some(to) => tokio::io::copy(&mut err, to).await,
                        None => Ok(0),
                    }
                };
                let _ = tokio::join!(out, err);
            };
            tokio::select! { () = inward => {}, () = outward => {} }
            Ok(child.wait().await.unwrap().code().unwrap_or(-1))
        }
        .boxed()
    }

    fn dial<'a>(&'a self, _: &'a str, pod: &'a str, port: u16) -> BoxFuture<'a, Result<TcpStream, Refusal>> {
        async move {
            assert_eq!(pod, "p");
            let dialled = TcpStream::connect(("127.0.0.1", port)).await;
            dialled.map_err(|error| Refusal::Failed(error.to_string()))
        }
        .boxed()
    }
}

struct ToNode(Kubelet);

impl NodeProxy for ToNode {
    fn open(&self, node: &str) -> BoxFuture<'_, Result<Box<dyn NodeStream>, String>> {
        assert_eq!(node, "n1");
        async move {
            let (ours, theirs) = tokio::io::duplex(64 << 10);
            let kubelet = self.0.clone();
            tokio::spawn(async move { kubelet.serve(theirs, CancellationToken::new()).await });
            Ok(Box::new(ours) as Box<dyn NodeStream>)
        }
        .boxed()
    }
}

struct Fixture {
    pods: Arc<Pretended>,
    server: ApiServer,
    kubeconfig: PathBuf,
    _dir: tempfile::TempDir,
}

/// An API server at a loopback port with one pod that runs.
async fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let config = EmbeddedConfig { free_bytes_min: 0, ..EmbeddedConfig::watched() };
    let kv = Arc::new(Embedded::open(dir.path().join("kv"), config).unwrap());
    let server = ApiServer::open(kv, Config::new(dir.path().join("keys"))).await.unwrap();
    let pods = Arc::new(Pretended::default());
    server.set_node_proxy(Arc::new(ToNode(Kubelet::new(pods.clone()))));
    let client = Client::new(server.local_service(User::system("test")), "default");
    let api: Api<Pod> = Api::default_namespaced(client);
    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}});
    api.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    let status = json!({"status": {"phase": "Running"}});
    api.patch_status("p", &Default::default(), &kube::api::Patch::Merge(status)).await.unwrap();

    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let certificate = server.issue_client("admin", &[MASTERS], Duration::from_secs(3600)).unwrap();
    let kubeconfig = dir.path().join("kubeconfig");
    std::fs::write(&kubeconfig, server.kubeconfig("test", &url, &certificate)).unwrap();
    let serving = server.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let server = serving.clone();
            tokio::spawn(async move { server.serve(stream, CancellationToken::new()).await });
        }
    });
    Fixture { pods, server, kubeconfig, _dir: dir }
}

impl Fixture {
    fn kubectl(&self, spoken: &[(&str, &str)], arguments: &[&str]) -> std::process::Command {
        let program = std::env::var("KUBECTL").unwrap_or_else(|_| "kubectl".to_owned());
        let mut command = std::process::Command::new(program);
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(arguments).envs(spoken.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    async fn run(&self, spoken: &[(&str, &str)], arguments: &[&str], input: &[u8]) -> Output {
        let mut child = self
            .kubectl(spoken, arguments)
            .spawn()
            .expect("kubectl is not installed: apt-get install kubernetes-client");
        let input = input.to_vec();
        let ran = tokio::task::spawn_blocking(move || {
            let mut stdin = child.stdin.take().unwrap();
            let feeder = std::thread::spawn(move || stdin.write_all(&input).ok());
            let output = child.wait_with_output().unwrap();
            feeder.join().unwrap();
            output
        });
        tokio::time::timeout(Duration::from_secs(60), ran).await.expect("kubectl ends").unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_reads_logs() {
    let fixture = fixture().await;
    let said = fixture.run(&[], &["logs", "p"], b"").await;
    assert_eq!(String::from_utf8_lossy(&said.stdout).lines().count(), 10, "{said:?}");
    let said = fixture.run(&[], &["logs", "p", "-c", "c", "--tail=2", "--limit-bytes=10"], b"").await;
    assert_eq!(said.stdout, b"line 8\nlin", "{said:?}");
    let refused = fixture.run(&[], &["logs", "p", "--previous"], b"").await;
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(why.contains("(BadRequest): previous terminated container \"c\" in pod \"p\" not found"), "{why}");

    // Whoever follows gets what is there at once, and is missed when gone.
    let mut following = fixture.kubectl(&[], &["logs", "-f", "p"]).spawn().unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    let first = tokio::task::spawn_blocking(move || lines.next().unwrap().unwrap()).await.unwrap();
    assert_eq!(first, "line 0");
    following.kill().unwrap();
    following.wait().unwrap();
    let dropped = fixture.pods.dropped.notified();
    tokio::time::timeout(Duration::from_secs(20), dropped).await.expect("the log is not read for nobody");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_runs_commands() {
    let fixture = fixture().await;
    // More than any buffer on the way holds.
    let large: Vec<u8> = (0..3_000_000_u32).flat_map(|number| number.to_le_bytes()).collect();
    for (name, spoken) in SPOKEN {
        let said = fixture.run(&spoken, &["exec", "p", "--", "sh", "-c", "echo out; echo err >&2; exit 7"], b"").await;
        assert_eq!((said.stdout.as_slice(), said.status.code()), (&b"out\n"[..], Some(7)), "{name}: {said:?}");
        assert!(said.stderr.starts_with(b"err\n"), "{name}: {said:?}");
        let echoed = fixture.run(&spoken, &["exec", "-i", "p", "--", "cat"], &large).await;
        assert!(
            echoed.stdout == large && echoed.status.success(),
            "{name}: {} bytes of {}",
            echoed.stdout.len(),
            large.len()
        );
        let refused = fixture.run(&spoken, &["exec", "p", "--", "/no/such/program"], b"").await;
        let why = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && why.contains("No such file or directory"), "{name}: {why}");

        // A client that is gone takes its command along.
        while fixture.pods.dropped.notified().now_or_never().is_some() {}
        let mut leaving =
            fixture.kubectl(&spoken, &["exec", "p", "--", "sh", "-c", "echo up; sleep 600"]).spawn().unwrap();
        let mut out = leaving.stdout.take().unwrap();
        let up = tokio::task::spawn_blocking(move || {
            let mut up = [0; 3];
            out.read_exact(&mut up).map(|()| up)
        });
        assert_eq!(&up.await.unwrap().unwrap(), b"up\n");
        leaving.kill().unwrap();
        leaving.wait().unwrap();
        let dropped = fixture.pods.dropped.notified();
        tokio::time::timeout(Duration::from_secs(20), dropped).await.expect("the command ends with its client");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_forwards_ports() {
    let fixture = fixture().await;
    let echo = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = echo.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = echo.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = stream.split();
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
            });
        }
    });
    // A port at which nobody listens: it was free a moment ago.
    let closed = TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap().port();
    for (name, spoken) in SPOKEN {
        let ports = [format!(":{port}"), format!(":{closed}")];
        let arguments = ["port-forward", "--address", "127.0.0.1", "pod/p", &ports[0], &ports[1]];
        let mut forwarding = fixture.kubectl(&spoken, &arguments).spawn().unwrap();
        let mut lines = BufReader::new(forwarding.stdout.take().unwrap()).lines();
        let local = tokio::task::spawn_blocking(move || {
            // Forwarding from 127.0.0.1:41234 -> 8080
            let mut local = || lines.next().unwrap().unwrap().split([':', ' ']).nth(3).unwrap().parse::<u16>().unwrap();
            let ports = [local(), local()];
            (ports, lines)
        });
        // It tells of each connection: that must be heard, or it ends.
        let ([open, shut], _lines) = local.await.unwrap();
        let large: Vec<u8> = (0..500_000_u32).flat_map(|number| number.to_le_bytes()).collect();
        let connections = (0..3).map(async |_| {
            let mut stream = TcpStream::connect(("127.0.0.1", open)).await.unwrap();
            let (mut reader, mut writer) = stream.split();
            let mut back = Vec::new();
            let writing = async {
                writer.write_all(&large).await.unwrap();
                writer.shutdown().await.unwrap();
            };
            let (_, read) = tokio::join!(writing, reader.read_to_end(&mut back));
            read.unwrap_or_else(|error| panic!("{name}: {error} after {} bytes", back.len()));
            assert!(back == large, "{name}: {} bytes of {}", back.len(), large.len());
        });
        let all = futures_util::future::join_all(connections);
        tokio::time::timeout(Duration::from_secs(60), all).await.expect("connections end");
        let mut refused = TcpStream::connect(("127.0.0.1", shut)).await.unwrap();
        let mut nothing = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(20), refused.read_to_end(&mut nothing)).await;
        assert!(read.expect("it is closed").is_err() || nothing.is_empty(), "{name}");
        forwarding.kill().unwrap();
        let mut told = String::new();
        forwarding.stderr.take().unwrap().read_to_string(&mut told).unwrap();
        forwarding.wait().unwrap();
        assert!(told.contains("Connection refused"), "{name}: {told}");
    }
}

/// The API over TLS for kube's client, a connection for each request, so that its protocol can be changed.
#[derive(Clone)]
struct Dialled {
    server: ApiServer,
    tls: Arc<rustls::ClientConfig>,
}

impl tower_service::Service<http::Request<kube::client::Body>> for Dialled {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<kube::client::Body>) -> Self::Future {
        let Self { server, tls } = self.clone();
        async move {
            let (ours, theirs) = tokio::io::duplex(64 << 10);
            tokio::spawn(async move { server.serve(theirs, CancellationToken::new()).await });
            let name = "localhost".try_into().unwrap();
            let stream = tokio_rustls::TlsConnector::from(tls).connect(name, ours).await?;
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection.with_upgrades());
            request.headers_mut().insert("host", http::HeaderValue::from_static("localhost"));
            Ok(sender.send_request(request).await?)
        }
        .boxed()
    }
}

impl Fixture {
    fn rust_client(&self) -> Client {
        let issued = self.server.issue_client("admin", &[MASTERS], Duration::from_secs(3600)).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.server.authority_pem().as_bytes()).unwrap()).unwrap();
        let chain = vec![CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config =
            rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(roots).with_client_auth_cert(chain, key).unwrap();
        Client::new(Dialled { server: self.server.clone(), tls: Arc::new(config) }, "default")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rust_client_runs_commands_and_reads_logs() {
    let fixture = fixture().await;
    let api: Api<Pod> = Api::default_namespaced(fixture.rust_client());
    let lines = api.logs("p", &LogParams { tail_lines: Some(1), ..LogParams::default() }).await.unwrap();
    assert_eq!(lines, "line 9\n");

    let both = AttachParams::default().stdin(true).stderr(false);
    let mut cat = api.exec("p", ["cat"], &both).await.unwrap();
    let status = cat.take_status().unwrap();
    let (mut stdin, mut stdout) = (cat.stdin().unwrap(), cat.stdout().unwrap());
    stdin.write_all(b"by websocket").await.unwrap();
    stdin.shutdown().await.unwrap();
    drop(stdin);
    let mut back = String::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stdout.read_to_string(&mut back)).await;
    read.expect("closing the input ends the command").unwrap();
    assert_eq!((back.as_str(), status.await.unwrap().status.as_deref()), ("by websocket", Some("Success")));

    let mut failing = api.exec("p", ["sh", "-c", "exit 3"], &AttachParams::default()).await.unwrap();
    let status = failing.take_status().unwrap().await.unwrap();
    assert_eq!(status.reason.as_deref(), Some("NonZeroExitCode"));
    let causes = status.details.unwrap().causes.unwrap();
    assert_eq!(causes[0].message.as_deref(), Some("3"));

    let mut sized = api.exec("p", ["size"], &AttachParams::interactive_tty()).await.unwrap();
    let status = sized.take_status().unwrap();
    let size = kube::api::TerminalSize { width: 132, height: 43 };
    sized.terminal_size().unwrap().send(size).await.unwrap();
    assert_eq!(status.await.unwrap().status.as_deref(), Some("Success"));
    assert_eq!(*fixture.pods.sizes.lock().unwrap(), [(132, 43)]);
}

#[tokio::test]
async fn what_is_not_offered_is_refused_in_words() {
    let fixture = fixture().await;
    let refused = fixture.run(&[], &["attach", "p"], b"").await;
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(why.contains("use kubectl exec, or kubectl logs -f"), "{why}");
}
