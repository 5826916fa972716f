//! Questions answered, refused, late and malformed.
#![allow(clippy::unwrap_used, reason = "tests")]

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncWriteExt as _, duplex};

use super::*;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Question(String);
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Answer(usize);

impl Versioned for Question {
    const VERSION: u16 = 1;
    const NAME: &'static str = "question";
}

impl Versioned for Answer {
    const VERSION: u16 = 1;
    const NAME: &'static str = "answer";
}

const TERMS: Terms = Terms { frame_bytes_max: 64, within: Duration::from_secs(5) };

async fn length(question: Question) -> Answer {
    Answer(question.0.len())
}

#[tokio::test]
async fn a_question_is_answered() {
    let (near, far) = duplex(16);
    let question = Question("how long?".to_owned());
    let (answer, heard) = tokio::join!(ask::<_, _, Answer>(near, &question, TERMS), hear(far, TERMS, length));
    assert_eq!(answer.unwrap(), Answer(9));
    heard.unwrap();
}

#[tokio::test]
async fn what_is_too_long_is_neither_sent_nor_read() {
    let (near, far) = duplex(256);
    let question = Question("x".repeat(100));
    let sent = ask::<_, _, Answer>(near, &question, TERMS).await;
    assert!(matches!(sent, Err(ExchangeError::Frame(FrameError::TooLarge { .. }))), "{sent:?}");
    drop(far);

    let (near, far) = duplex(256);
    let generous = Terms { frame_bytes_max: 256, ..TERMS };
    let (sent, heard) = tokio::join!(ask::<_, _, Answer>(near, &question, generous), hear(far, TERMS, length));
    assert!(matches!(heard, Err(ExchangeError::Frame(FrameError::TooLarge { .. }))), "{heard:?}");
    assert!(sent.is_err());
}

#[tokio::test]
async fn silence_and_nonsense_are_told_apart() {
    let question = Question("anybody?".to_owned());
    let (near, far) = duplex(256);
    drop(far);
    let gone = ask::<_, _, Answer>(near, &question, TERMS).await;
    assert!(matches!(gone, Err(ExchangeError::Closed | ExchangeError::Frame(_))), "{gone:?}");

    let (near, _kept) = duplex(256);
    let soon = Terms { within: Duration::from_millis(20), ..TERMS };
    let late = ask::<_, _, Answer>(near, &question, soon).await;
    assert!(matches!(late, Err(ExchangeError::Late(_))), "{late:?}");

    let (mut near, far) = duplex(256);
    write_frame(&mut near, b"nonsense", 64).await.unwrap();
    near.flush().await.unwrap();
    let heard = hear(far, TERMS, length).await;
    assert!(matches!(heard, Err(ExchangeError::Malformed(_))), "{heard:?}");
}
