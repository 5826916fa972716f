//! A command's session (Kubernetes' "remotecommand"): its channels, whatever protocol carries them, and its end.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;

use crate::pods::{Command, CommandIo, Input, Output, Pods, Size};
use crate::status::ended;

/// Bytes of one channel on their way: a pipe's usual size.
pub(crate) const CHANNEL_BYTES: usize = 64 << 10;

/// Sizes of a terminal that wait; more come only from a client that sends nothing else.
const SIZES_WAITING_MAX: usize = 4;

/// A size is some thirty bytes of JSON; without an end after these it is none.
const SIZE_BYTES_MAX: usize = 1 << 10;

/// What was written when a command ended gets this long to reach a client that reads.
const DELIVER_WITHIN: Duration = Duration::from_secs(30);

/// The channels of a session: this server's ends of what a protocol carries.
#[derive(Default)]
pub(crate) struct Channels {
    pub(crate) stdin: Option<DuplexStream>,
    pub(crate) stdout: Option<DuplexStream>,
    pub(crate) stderr: Option<DuplexStream>,
    pub(crate) error: Option<DuplexStream>,
    pub(crate) sizes: Option<DuplexStream>,
}

/// Runs the command on its channels, carried by `carrier`, which ends when the client is gone or everything has been delivered.
pub(crate) async fn run(pods: &dyn Pods, command: Command, channels: Channels, carrier: impl Future<Output = ()>) {
    let Channels { stdin, stdout, stderr, error, sizes } = channels;
    let (sender, receiver) = mpsc::channel(SIZES_WAITING_MAX);
    let io = CommandIo {
        stdin: stdin.map(|it| Box::new(it) as Input),
        stdout: stdout.map(|it| Box::new(it) as Output),
        stderr: stderr.map(|it| Box::new(it) as Output),
        sizes: receiver,
    };
    let running = async {
        let outcome = tokio::select! {
            outcome = pods.exec(command, io) => outcome,
            never = read_sizes(sizes, sender) => match never {},
        };
        if let Some(mut error) = error {
            // A client that is gone needs no word.
            let _ = error.write_all(ended(&outcome).to_string().as_bytes()).await;
        }
    };
    let mut carrier = std::pin::pin!(carrier);
    tokio::select! {
        () = &mut carrier => return,
        () = running => {}
    }
    if tokio::time::timeout(DELIVER_WITHIN, carrier).await.is_err() {
        tracing::debug!("a client does not read what its command wrote");
    }
}

/// Reads sizes, one JSON object after the other, for as long as they come; never ends by itself.
async fn read_sizes(channel: Option<DuplexStream>, sender: mpsc::Sender<Size>) -> std::convert::Infallible {
    if let Some(mut channel) = channel {
        let mut begun = Vec::new();
        let mut piece = [0; 256];
        while let Ok(read @ 1..) = channel.read(&mut piece).await {
            begun.extend_from_slice(&piece[..read]);
            for size in whole(&mut begun) {
                let _ = sender.send(size).await;
            }
            if begun.len() > SIZE_BYTES_MAX {
                break;
            }
        }
    }
    std::future::pending().await
}

/// Takes the whole objects from the beginning; what is none ends the rest.
fn whole(begun: &mut Vec<u8>) -> Vec<Size> {
    let mut objects = serde_json::Deserializer::from_slice(begun).into_iter::<Size>();
    let mut sizes = Vec::new();
    let mut taken = 0;
    loop {
        match objects.next() {
            Some(Ok(size)) => sizes.push(size),
            Some(Err(error)) if !error.is_eof() => {
                taken = begun.len();
                break;
            }
            _ => break,
        }
        taken = objects.byte_offset();
    }
    begun.drain(..taken);
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_pieces() {
        let mut begun = br#"{"Width":80,"Height":24}{"Width":81,"Hei"#.to_vec();
        assert_eq!(whole(&mut begun), [Size { width: 80, height: 24 }]);
        begun.extend_from_slice(b"ght\":25}\n");
        assert_eq!(whole(&mut begun), [Size { width: 81, height: 25 }]);
        let mut begun = br#"{"Width":-1,"Height":24}"#.to_vec();
        assert_eq!(whole(&mut begun), []);
        assert!(begun.is_empty(), "what is no size is not kept");
    }
}
