//! How fast one lane is over loopback, beside plain TCP moved the same way.
//!
//! Both ends run in this process on a runtime with two workers. Rounds of the two alternate, so that a noisy machine
//! disturbs both; CPU time is given too, which a busy machine disturbs less. Run with `cargo bench -p atoll-lane`; the first argument that is a number sets the GiB per round.

#![expect(clippy::print_stdout, reason = "the table is what the program is for")]

use std::time::{Duration, Instant};

use atoll_keys::NodeKey;
use atoll_lane::{Acceptor, Connector};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// One message: about the size of a shard of a 1 MiB stripe under 4+2.
const MESSAGE: usize = 256 * 1024;

/// Rounds of each kind.
const ROUNDS: usize = 7;

async fn send(mut to: impl AsyncWrite + Unpin, messages: usize) {
    let message = vec![0x5a; MESSAGE];
    for _ in 0..messages {
        to.write_all(&message).await.expect("the reader reads to the end");
    }
    to.shutdown().await.expect("the reader reads to the end");
}

async fn receive(mut from: impl AsyncRead + Unpin, messages: usize) {
    let mut message = vec![0; MESSAGE];
    for _ in 0..messages {
        from.read_exact(&mut message).await.expect("the writer writes everything");
    }
}

async fn round(
    writer: impl AsyncWrite + Unpin + Send + 'static,
    reader: impl AsyncRead + Unpin + Send + 'static,
    messages: usize,
) -> Duration {
    let start = Instant::now();
    let sending = tokio::spawn(send(writer, messages));
    tokio::spawn(receive(reader, messages)).await.expect("the reader does not panic");
    let took = start.elapsed();
    sending.await.expect("the writer does not panic");
    took
}

/// CPU seconds of this process so far, in user space and in the kernel (Linux; ticks of 10 ms).
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let behind_name = stat.rsplit(") ").next().unwrap_or_default();
    behind_name.split(' ').skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// Times and CPU seconds of all rounds of one kind.
#[derive(Default)]
struct Rounds {
    took: Vec<Duration>,
    cpu: f64,
}

impl Rounds {
    fn add(&mut self, took: Duration, cpu_before: f64) {
        self.took.push(took);
        self.cpu += cpu_seconds() - cpu_before;
    }

    fn report(&mut self, name: &str, bytes: f64) -> f64 {
        self.took.sort();
        let rate = |took: Duration| bytes / took.as_secs_f64() / 1e9;
        let count = self.took.len();
        let median = rate(self.took[count / 2]);
        let (slow, fast) = (rate(self.took[count - 1]), rate(self.took[0]));
        let cpu = self.cpu / (bytes * count as f64) * 1e9;
        println!("{name:<5} {median:>6.2} GB/s   ({slow:.2} to {fast:.2} in {count} rounds)   {cpu:.3} CPU s/GB");
        median
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let gib: usize = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(2);
    let messages = gib * (1 << 30) / MESSAGE;
    let (client, server) = (NodeKey::generate(), NodeKey::generate());
    let connector = Connector::new(&client);
    let acceptor = Acceptor::new(&server, &["atoll/bench/1"]).expect("a good name");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has ports");
    let address = listener.local_addr().expect("it is bound");

    let (mut plain, mut lanes) = (Rounds::default(), Rounds::default());
    for _ in 0..ROUNDS {
        let (writer, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let writer = writer.expect("connects");
        writer.set_nodelay(true).expect("TCP has it");
        let before = cpu_seconds();
        plain.add(round(writer, accepted.expect("accepts").0, messages).await, before);

        let answer = async { acceptor.accept(listener.accept().await.expect("accepts").0).await };
        let (writer, accepted) = tokio::join!(connector.connect(address, server.id(), "atoll/bench/1"), answer);
        let before = cpu_seconds();
        lanes.add(round(writer.expect("connects"), accepted.expect("accepts").stream, messages).await, before);
    }
    let bytes = (messages * MESSAGE) as f64;
    let plain = plain.report("TCP", bytes);
    let lane = lanes.report("lane", bytes);
    println!("ratio {:>6.2}", lane / plain);
}
