//! Commands about messages between nodes.

use std::io::{Read as _, Write as _};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use atoll_control::{
    Base64, BusEvent, BusEvents, BusMessages, ReceiveRequest, ReceivedMessage, ReplyRequest, SendReport, SendRequest,
    SentMessage,
};
use serde::Serialize;
use tokio::io::AsyncWriteExt as _;

use super::Context;
use crate::args::{BusCommand, BusPayload, BusReceive, BusReply, BusSend, Output};
use crate::failure::advise;
use crate::output::{print, table};

/// More is read of no file: a little over what a message may have, so that the node says what the limit is.
const READ_BYTES_MAX: u64 = 1 << 20;

/// A node that is there has a message within this; so what is printed is usually its end.
const MOMENT: Duration = Duration::from_millis(500);

pub(super) async fn run(context: &Context, command: &BusCommand) -> anyhow::Result<()> {
    match command {
        BusCommand::Send(send) => match send.reply {
            Some(seconds) => ask(context, send, Duration::from_secs(seconds)).await,
            None => {
                let report = context.client().send_message(&request(send)?).await?;
                settle(context, report, send.wait).await
            }
        },
        BusCommand::Receive(receive) => receive_all(context, receive).await,
        BusCommand::Reply(BusReply { id, payload, ttl, wait }) => {
            let payload = Base64(read(payload)?);
            let request = ReplyRequest { id: *id, payload, ttl_seconds: Some(*ttl) };
            let report = context.client().reply_message(&request).await?;
            settle(context, report, *wait).await
        }
        BusCommand::Messages => print(context.output, &context.client().messages().await?, messages_text),
    }
}

fn request(send: &BusSend) -> anyhow::Result<SendRequest> {
    let payload = Base64(read(&send.payload)?);
    Ok(SendRequest { to: send.to.clone(), topic: send.topic.clone(), payload, ttl_seconds: Some(send.ttl) })
}

fn read(payload: &BusPayload) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match (&payload.file, payload.text.as_deref()) {
        (Some(path), _) => {
            let file = std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
            let read = file.take(READ_BYTES_MAX).read_to_end(&mut bytes);
            read.with_context(|| format!("cannot read {}", path.display()))?;
        }
        (None, Some("-")) => {
            let read = std::io::stdin().lock().take(READ_BYTES_MAX).read_to_end(&mut bytes);
            read.context("cannot read standard input")?;
        }
        (None, text) => bytes.extend_from_slice(text.unwrap_or_default().as_bytes()),
    }
    Ok(bytes)
}

/// Prints what became of a message, after a moment or once that is certain.
async fn settle(context: &Context, mut report: SendReport, wait: bool) -> anyhow::Result<()> {
    let within = (!wait).then_some(MOMENT);
    report.recipients = context.client().message_fate(report.id, within).await?;
    print(context.output, &report, |report| sent_text(&report.recipients))?;
    let ended_elsewhere = |sent: &&SentMessage| sent.state == "refused" || wait && sent.state != "delivered";
    let failed = report.recipients.iter().filter(ended_elsewhere).count();
    if failed > 0 {
        let of = report.recipients.len();
        return Err(advise(format!("{failed} of {of} nodes did not take the message"), "the reasons stand above"));
    }
    Ok(())
}

fn sent_text(sent: &[SentMessage]) -> String {
    let row = |sent: &SentMessage| {
        let what = sent.why.as_ref().map_or(String::new(), |why| printable(why));
        vec![sent.id.to_string(), sent.to.to_string(), sent.topic.clone(), sent.state.clone(), what]
    };
    table(&["MESSAGE", "TO", "TOPIC", "STATE", "WHY"], &sent.iter().map(row).collect::<Vec<_>>())
}

/// What is printed of a question and the answers to it.
#[derive(Serialize)]
struct Asked {
    #[serde(flatten)]
    report: SendReport,
    replies: Vec<Shown>,
}

async fn ask(context: &Context, send: &BusSend, within: Duration) -> anyhow::Result<()> {
    let mut events = context.client().ask_message(&request(send)?).await?;
    let Some(BusEvent::Sent { report }) = events.next().await? else {
        anyhow::bail!("the node answered a question with something else");
    };
    if context.output == Output::Text {
        eprintln!("asked by message {}", report.id);
    }
    let mut asked = Asked { report, replies: Vec::new() };
    let answers = async {
        let mut waiting = asked.report.recipients.len();
        while waiting > 0 {
            let Some(received) = Received::next(&mut events).await? else { break };
            if context.output == Output::Text {
                write_out(received.text().as_bytes())?;
            }
            let tag = received.tag.clone();
            asked.replies.push(received.shown());
            context.client().ack_message(&tag).await?;
            waiting -= 1;
        }
        anyhow::Ok(())
    };
    // What was acknowledged is among the replies, however this ends.
    let ended = tokio::time::timeout(within, answers).await;
    let fate = context.client().message_fate(asked.report.id, Some(Duration::ZERO)).await?;
    asked.report.recipients = fate;
    if context.output == Output::Json {
        print(context.output, &asked, |_| String::new())?;
    }
    ended.unwrap_or(Ok(()))?;
    if asked.replies.is_empty() {
        let sent = &asked.report.recipients;
        let why = sent.iter().find_map(|sent| sent.why.clone()).unwrap_or_else(|| "it was delivered".to_owned());
        let seconds = within.as_secs();
        return Err(advise(
            format!("no answer to message {} within {seconds} s", asked.report.id),
            format!("{}; a later answer comes with `atoll net receive`", printable(&why)),
        ));
    }
    Ok(())
}

/// A message that is to be acknowledged.
struct Received {
    tag: String,
    message: ReceivedMessage,
    payload: Vec<u8>,
}

/// A message as JSON.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    message: ReceivedMessage,
    /// Base64.
    payload: Base64,
    /// The same, if it is text.
    text: Option<String>,
}

impl Received {
    async fn next(events: &mut BusEvents) -> anyhow::Result<Option<Self>> {
        match events.next().await? {
            None => Ok(None),
            Some(BusEvent::Message { tag, message, payload }) => Ok(Some(Self { tag, message, payload: payload.0 })),
            Some(other) => anyhow::bail!("the node sent something else than a message: {other:?}"),
        }
    }

    fn shown(self) -> Shown {
        let text = String::from_utf8(self.payload.clone()).ok();
        Shown { message: self.message, payload: Base64(self.payload), text }
    }

    /// Who, what, and the content: text as it is but for what would act on a terminal, anything else as Base64.
    fn text(&self) -> String {
        let ReceivedMessage { id, from, topic, answers, .. } = &self.message;
        let answers = answers.map_or(String::new(), |id| format!(" in answer to {id}"));
        let mut text = format!("{id} from {from} on {topic}{answers}\n");
        match std::str::from_utf8(&self.payload) {
            Ok("") => {}
            Ok(payload) => {
                text.push_str(&printable(payload));
                if !payload.ends_with('\n') {
                    text.push('\n');
                }
            }
            Err(_) => text.push_str(&format!("base64 {}\n", data_encoding::BASE64.encode(&self.payload))),
        }
        text
    }
}

/// Text of somebody else, without what would act on a terminal.
fn printable(text: &str) -> String {
    let harmless = |c: char| !c.is_control() || c == '\n' || c == '\t';
    let shown = |c: char| if harmless(c) { c.to_string() } else { c.escape_default().to_string() };
    text.chars().map(shown).collect()
}

async fn receive_all(context: &Context, receive: &BusReceive) -> anyhow::Result<()> {
    let follow = receive.follow || receive.count.is_some();
    let request = ReceiveRequest { topics: receive.topics.clone(), from: receive.from.clone(), follow };
    let mut events = context.client().receive_messages(&request).await?;
    let mut left = receive.count.unwrap_or(u64::MAX);
    while left > 0 {
        let Some(received) = Received::next(&mut events).await? else { break };
        let tag = received.tag.clone();
        match &receive.exec {
            Some(command) => execute(command, &received).await?,
            None => show(context, receive, received)?,
        }
        context.client().ack_message(&tag).await.context("the message may come again")?;
        left -= 1;
    }
    Ok(())
}

fn show(context: &Context, receive: &BusReceive, received: Received) -> anyhow::Result<()> {
    if receive.raw {
        return write_out(&received.payload);
    }
    match context.output {
        Output::Json => write_out((serde_json::to_string(&received.shown())? + "\n").as_bytes()),
        Output::Text => write_out(received.text().as_bytes()),
    }
}

/// Unlike elsewhere a reader that has gone is a failure here: what it did not read is not to be acknowledged.
fn write_out(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).context("cannot write to standard output")
}

/// Runs a command over a message; it succeeds or the message is not acknowledged.
async fn execute(command: &str, received: &Received) -> anyhow::Result<()> {
    let ReceivedMessage { id, from, owner, topic, answers, .. } = &received.message;
    let mut child = tokio::process::Command::new("sh")
        .args(["-c", command])
        .env("MESSAGE_ID", id.to_string())
        .env("MESSAGE_FROM", from.to_string())
        .env("MESSAGE_OWNER", owner.map_or(String::new(), |owner| owner.to_string()))
        .env("MESSAGE_TOPIC", topic)
        .env("MESSAGE_ANSWERS", answers.map_or(String::new(), |id| id.to_string()))
        .stdin(Stdio::piped())
        .spawn()
        .context("cannot run sh")?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that does not read its input is no failure.
        let _: std::io::Result<()> = stdin.write_all(&received.payload).await;
    }
    let status = child.wait().await.context("cannot wait for the command")?;
    if !status.success() {
        let message = format!("the command failed on message {id} ({status}), which is not acknowledged");
        return Err(advise(message, "receive again to get it again"));
    }
    Ok(())
}

fn messages_text(messages: &BusMessages) -> String {
    let mut text = String::new();
    if messages.sent.is_empty() && messages.received.is_empty() {
        return "no messages\n".to_owned();
    }
    if !messages.sent.is_empty() {
        text.push_str(&sent_text(&messages.sent));
    }
    if !messages.received.is_empty() {
        if !text.is_empty() {
            text.push('\n');
        }
        let row = |it: &ReceivedMessage| {
            vec![it.id.to_string(), it.from.to_string(), it.topic.clone(), it.bytes.to_string(), it.state.clone()]
        };
        let rows: Vec<_> = messages.received.iter().map(row).collect();
        text.push_str(&table(&["MESSAGE", "FROM", "TOPIC", "BYTES", "STATE"], &rows));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn what_would_act_on_a_terminal_is_escaped() {
        assert_eq!(printable("a\tb\nc"), "a\tb\nc");
        assert_eq!(printable("\u{1b}[2Jä\r"), "\\u{1b}[2Jä\\r");
    }
}
