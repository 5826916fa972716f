//! Programs reach programs next to other nodes, and what lies behind them, without an interface: by curl through the proxy, and by `atoll net connect`. Needs curl.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};

use atoll_grid::NodeProcess;
use serde_json::Value;

use crate::common::{fail, lone_node, output, run, run_json};

/// Much more than all buffers on the way hold.
const BIG_BYTES: usize = 32 << 20;

/// Any user but root and the one who runs the tests.
const NOBODY: u32 = 65_534;

fn big() -> Vec<u8> {
    let mut content = vec![0; BIG_BYTES];
    blake3::Hasher::new().update(b"big").finalize_xof().fill(&mut content);
    content
}

/// Serves with a thread per connection for as long as the test runs; gives its port.
fn serve(ip: &str, each: fn(TcpStream) -> std::io::Result<()>) -> u16 {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || each(stream).ok());
        }
    });
    port
}

/// A web server with a small page, a big one, and the hash of what is put.
fn web(stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut first, mut line, mut length, mut waits) = (String::new(), String::new(), 0, false);
    reader.read_line(&mut first)?;
    while line != "\r\n" {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        waits |= lower.starts_with("expect:");
    }
    if waits {
        (&stream).write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let answer = match first.split(' ').nth(1) {
        Some("/big") => big(),
        Some("/put") => blake3::hash(&body).to_string().into_bytes(),
        _ => b"a small page\n".to_vec(),
    };
    write!(&stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", answer.len())?;
    (&stream).write_all(&answer)
}

/// Hears everything before it answers, as commands over ssh do.
fn counting(stream: TcpStream) -> std::io::Result<()> {
    let mut all = Vec::new();
    (&stream).read_to_end(&mut all)?;
    write!(&stream, "{} bytes, {}", all.len(), blake3::hash(&all))
}

/// Half an answer, and a reset.
fn breaking(stream: TcpStream) -> std::io::Result<()> {
    (&stream).write_all(b"half of an ans")?;
    (&stream).read_exact(&mut [0; 1])?;
    // Closing over what was not read is a reset.
    std::thread::sleep(std::time::Duration::from_millis(100));
    Ok(())
}

/// Two nodes that know each other; the second is called attic.
struct Two {
    here: PathBuf,
    there: NodeProcess,
    id: String,
    owner: String,
    proxy: String,
    _here: NodeProcess,
    folder: tempfile::TempDir,
}

impl Two {
    /// `settings` of the second are made from the first's owner.
    async fn start(settings: impl Fn(&str) -> Vec<String>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (here, attic) = (folder.path().join("here"), folder.path().join("attic"));
        let plain = ["storage.capacity=64M", "network.proxy=127.0.0.1:0"];
        let first = lone_node(&here, &plain).await.unwrap();
        let owner = run_json(&here, &["status"])["owner"].as_str().unwrap().to_owned();
        let settings = settings(&owner);
        let settings = ["storage.capacity=64M", "network.proxy=off", "node.name=attic"]
            .into_iter()
            .chain(settings.iter().map(String::as_str));
        let there = lone_node(&attic, &settings.collect::<Vec<_>>()).await.unwrap();
        let ticket = run(&attic, &["invite"], b"");
        run(&here, &["join", ticket.trim()], b"");
        let status = run_json(&attic, &["status"]);
        let text = |key: &str| status[key].as_str().unwrap().to_owned();
        let proxy = run_json(&here, &["net", "proxy"])["address"].as_str().unwrap().to_owned();
        let (id, owner) = (text("node"), text("owner"));
        let two = Self { here, there, id, owner, proxy, _here: first, folder };
        // The second has to have heard whose node the first is.
        crate::world::wait_until("the owner is known", || {
            run_json(two.there.data_dir(), &["status"])["peers"][0]["owner"].is_string()
        });
        two
    }

    fn curl(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("curl");
        command.args(["-sS", "--max-time", "60"]).args(arguments).env_remove("http_proxy").env_remove("ALL_PROXY");
        command.output().expect("curl is not installed: apt-get install curl")
    }

    fn socks(&self) -> [String; 2] {
        ["--socks5-hostname".into(), self.proxy.clone()]
    }

    fn counts(&self, side: &str) -> Value {
        let data_dir = if side == "peers" { self.there.data_dir() } else { &self.here };
        run_json(data_dir, &["net", "proxy"])[side].clone()
    }
}

fn page(ran: &Output) -> String {
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout.clone()).unwrap()
}

#[tokio::test]
async fn curl_reaches_what_a_rule_names_and_nothing_else() {
    let (open, shut) = (serve("127.0.0.1", web), serve("127.0.0.1", web));
    let two = Two::start(|owner| vec![format!("network.allow=owner:{owner} tcp/{open}")]).await;
    let [flag, proxy] = &two.socks();
    let name = format!("attic.{}.atoll", two.owner);
    for host in [&two.id, &format!("{}.atoll", two.id), &name] {
        let url = format!("http://{host}:{open}/");
        assert_eq!(page(&two.curl(&[flag, proxy, &url])), "a small page\n", "{url}");
        assert_eq!(page(&two.curl(&["-x", &format!("http://{proxy}"), &url])), "a small page\n", "{url}");
        assert_eq!(page(&two.curl(&["-p", "-x", &format!("http://{proxy}"), &url])), "a small page\n", "{url}");
    }
    let socket = format!("socks5h://localhost{}", two.here.join("proxy.sock").display());
    assert_eq!(page(&two.curl(&["-x", &socket, &format!("http://{}:{open}/", two.id)])), "a small page\n");

    let url = format!("http://{}:{shut}/", two.id);
    let refused = two.curl(&[flag, proxy, &url]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("(2)"), "not allowed by the ruleset: {refused:?}");
    let told = page(&two.curl(&["-x", &format!("http://{proxy}"), "-w", "%{http_code}", &url]));
    assert!(told.contains("no rule there lets this node reach it") && told.ends_with("403"), "{told}");
    assert!(two.counts("peers")["connected"].as_u64().unwrap() >= 10);
    assert_eq!(two.counts("peers")["denied"], 2);
    other_users(&two, open);
}

/// Takes root, to be somebody else.
fn other_users(two: &Two, open: u16) {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut command = Command::new("curl");
    command.args(["-sS", "--max-time", "60", "-w", "%{http_code}", "-x", &format!("http://{}", two.proxy)]);
    command.arg(format!("http://{}:{open}/", two.id)).uid(NOBODY).gid(NOBODY).current_dir("/");
    let told = page(&command.output().unwrap());
    assert!(told.contains("for the user who runs the node") && told.ends_with("403"), "{told}");
}

#[tokio::test]
async fn much_goes_there_and_comes_back_whole() {
    let port = serve("127.0.0.1", web);
    let two = Two::start(|owner| vec![format!("network.allow=owner:{owner} tcp/{port}")]).await;
    let [flag, proxy] = &two.socks();
    let file = two.folder.path().join("big");
    std::fs::write(&file, big()).unwrap();
    let (url, file) = (format!("http://{}:{port}", two.id), file.to_str().unwrap());
    let expect = blake3::hash(&big());
    let came = two.curl(&[flag, proxy, &format!("{url}/big")]);
    assert!(came.status.success() && blake3::hash(&came.stdout) == expect, "{} bytes came", came.stdout.len());
    assert_eq!(page(&two.curl(&[flag, proxy, "-T", file, &format!("{url}/put")])), expect.to_string());
    let plain = format!("http://{proxy}");
    let came = two.curl(&["-x", &plain, &format!("{url}/big")]);
    assert!(came.status.success() && blake3::hash(&came.stdout) == expect, "{} bytes came", came.stdout.len());
    assert_eq!(page(&two.curl(&["-x", &plain, "-T", file, &format!("{url}/put")])), expect.to_string());
}

#[tokio::test]
async fn standard_input_and_output_are_connected_to_a_port() {
    let (count, breaks, shut) = (serve("127.0.0.1", counting), serve("127.0.0.1", breaking), serve("127.0.0.1", web));
    let two =
        Two::start(|owner| vec![format!("network.allow=owner:{owner} tcp/{count},owner:{owner} tcp/{breaks}")]).await;
    let connect = |port: u16, input: &[u8]| output(&two.here, &["net", "connect", &two.id, &port.to_string()], input);
    let expect = |input: &[u8]| format!("{} bytes, {}", input.len(), blake3::hash(input));
    for input in [&b"a question"[..], b"", &big()] {
        assert_eq!(page(&connect(count, input)), expect(input));
    }
    let broken = connect(breaks, &[b'x'; 100_000]);
    assert!(!broken.status.success(), "half an answer looks whole: {}", String::from_utf8_lossy(&broken.stdout));

    let told = fail(&two.here, &["net", "connect", &two.id, &shut.to_string()]);
    assert!(told.contains("no rule there lets this node reach it") && told.contains("help:"), "{told}");
    let told = fail(&two.here, &["net", "connect", "nobody.atoll", "22"]);
    assert!(told.contains("no node known here is called nobody.atoll"), "{told}");
    let told = fail(&two.here, &["net", "connect", "example.com", "22"]);
    assert!(told.contains("no exit is set for it"), "{told}");
}

#[tokio::test]
async fn an_exit_leads_where_its_rules_say_and_never_to_the_exit_itself() {
    // Its own address on loopback, named to the last bit, stands for a machine behind the exit.
    let (behind, itself) = (serve("127.0.0.2", web), serve("127.0.0.1", web));
    let two = Two::start(|owner| {
        vec![format!(
            "network.exit=owner:{owner} 127.0.0.2/32 tcp/{behind},owner:{owner} internet,owner:{owner} 127.0.0.0/8"
        )]
    })
    .await;
    let [flag, proxy] = &two.socks();
    let url = format!("http://127.0.0.2:{behind}/");
    assert!(!two.curl(&[flag, proxy, &url]).status.success(), "no exit is chosen yet");
    let chosen = run(&two.here, &["net", "proxy", "--exit", &two.id], b"");
    assert!(chosen.contains(&two.id), "{chosen}");
    assert_eq!(page(&two.curl(&[flag, proxy, &url])), "a small page\n");
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "[::1]", "127.1", "2130706433"] {
        let told = two.curl(&["-x", &format!("http://{proxy}"), "--path-as-is", &format!("http://{host}:{itself}/")]);
        let told = String::from_utf8_lossy(&told.stdout).into_owned();
        assert!(told.contains("no rule there lets this node reach it"), "{host}: {told}");
    }
    let dashboard = run_json(two.there.data_dir(), &["status"])["dashboard"].as_str().unwrap().to_owned();
    assert!(!two.curl(&[flag, proxy, &dashboard]).status.success(), "the exit's own dashboard");
    let shown = run(two.there.data_dir(), &["net", "proxy"], b"");
    assert!(shown.contains("leads out") && shown.contains("internet tcp"), "{shown}");
    run(&two.here, &["net", "proxy", "--exit", "off"], b"");
    assert!(!two.curl(&[flag, proxy, &url]).status.success(), "no exit is chosen any more");
    let told = fail(&two.here, &["net", "proxy", "--exit", "somebody"]);
    assert!(told.contains("is no route to an exit"), "{told}");
}
