//! Ports of a pod (`portforward.k8s.io`): two streams for each connection, one with its bytes, one for the reason why there are none.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::pods::Pods;
use crate::spdy::Stream;

/// The streams of one connection that have come.
#[derive(Default)]
struct Pair {
    data: Option<Stream>,
    error: Option<Stream>,
}

/// Joins the streams of a session with connections to the pod, until `carrier` ends.
pub(crate) async fn run(
    pods: Arc<dyn Pods>,
    (namespace, pod): (String, String),
    mut streams: mpsc::Receiver<Stream>,
    carrier: impl Future<Output = ()>,
) {
    let joining = async {
        // Both streams bear the number of their connection; which comes first is the client's business.
        let mut begun: HashMap<String, Pair> = HashMap::new();
        let mut connections = JoinSet::new();
        while let Some(stream) = streams.recv().await {
            while connections.try_join_next().is_some() {}
            let id = stream.header("requestid").to_owned();
            let mut pair = begun.remove(&id).unwrap_or_default();
            match stream.header("streamtype") {
                "data" => pair.data = Some(stream),
                "error" => pair.error = Some(stream),
                // Of nothing that is known here: dropped, and so ended.
                _ => {}
            }
            match pair {
                Pair { data: Some(data), error: Some(error) } => {
                    connections.spawn(connect(pods.clone(), namespace.clone(), pod.clone(), data, error));
                }
                Pair { data: None, error: None } => {}
                half => {
                    begun.insert(id, half);
                }
            }
        }
    };
    tokio::select! {
        () = joining => {}
        () = carrier => {}
    }
}

async fn connect(pods: Arc<dyn Pods>, namespace: String, pod: String, mut data: Stream, mut error: Stream) {
    let port = data.header("port").to_owned();
    let passed = async {
        let number = port.parse::<u16>().ok().filter(|&number| number > 0).ok_or("it is no port")?;
        let mut connection = pods.dial(&namespace, &pod, number).await.map_err(|refusal| refusal.to_string())?;
        let copied = tokio::io::copy_bidirectional(&mut data.io, &mut connection).await;
        copied.map_err(|error| error.to_string())
    };
    if let Err(why) = passed.await {
        let text = format!("an error occurred forwarding port {port} to pod {namespace}/{pod}: {why}");
        // A client that is gone needs no word.
        let _ = error.io.write_all(text.as_bytes()).await;
    }
}
