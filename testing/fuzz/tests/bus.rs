//! What other nodes say on the message bus: questions and answers, what a core makes of them, and the texts of topics, patterns and rules.
#![allow(clippy::unwrap_used, reason = "tests")]

use atoll_bus::{
    Answer, BATCH_MESSAGES_MAX, Core, CoreConfig, Effect, Envelope, Input, Limits, Now, PAYLOAD_BYTES_MAX, Pattern,
    Payload, Question, Refusal, Rule, Rules, Stop, Stored, Topic,
};
use atoll_fuzz::fuzz;
use atoll_ids::{MessageId, NodeId, OwnerId};
use atoll_wire::{decode, encode};
use bytes::Bytes;

fn envelope(position: u64) -> Envelope {
    Envelope {
        position,
        id: MessageId::from_bytes([3; 16]),
        topic: "backup.done".parse().unwrap(),
        answers: (position == 2).then_some(MessageId::from_bytes([4; 16])),
        ttl: 60_000,
        payload: Payload(Bytes::from_static(b"\x00\xffhello")),
    }
}

#[test]
fn questions() {
    let rule = "peers backup.*".parse().unwrap();
    let config = CoreConfig {
        limits: Limits { inbox_messages: 4, ..Limits::default() },
        rules: Rules::new(OwnerId::from_bytes([1; 32]), vec![rule]),
        seed: 1,
    };
    let valid = vec![encode(&Question::Hello), encode(&Question::Deliver(vec![envelope(1), envelope(2), envelope(9)]))];
    fuzz!(20_000, valid, |bytes: &[u8]| {
        let Ok(question) = decode::<Question>(bytes) else { return };
        assert_eq!(decode::<Question>(&encode(&question)).as_ref(), Ok(&question));
        let mut asked = 0;
        if let Question::Deliver(batch) = &question {
            asked = batch.len();
            assert!((1..=BATCH_MESSAGES_MAX).contains(&asked));
            assert!(batch.iter().all(|it| it.payload.0.len() <= PAYLOAD_BYTES_MAX && it.ttl > 0 && it.position > 0));
            assert!(batch.is_sorted_by(|one, next| one.position < next.position));
        }
        let now = Now { steady: 0, wall: 0 };
        let mut core = Core::load(config.clone(), now, Stored::default());
        let from = NodeId::from_bytes([2; 32]);
        let out = core.step(now, Input::Heard { token: 5, from, owner: None, question });
        let [Effect::Answer { token: 5, answer }] = out.effects.as_slice() else { panic!("{:?}", out.effects) };
        if let Answer::Heard { taken, stop } = answer {
            assert_eq!(*taken as usize, core.inbox().count());
            assert!(*taken as usize == asked || stop.is_some());
        }
        assert!(core.inbox().count() <= 4 && core.inbox().all(|record| record.answers.is_none()));
    });
}

#[test]
fn answers() {
    let heard = |taken, stop| encode(&Answer::Heard { taken, stop });
    let valid = vec![
        encode(&Answer::Known(u64::MAX)),
        heard(64, None),
        heard(0, Some(Stop::Full)),
        heard(1, Some(Stop::Later)),
        heard(2, Some(Stop::Refused(Refusal::NoQuestion))),
    ];
    fuzz!(10_000, valid, |bytes: &[u8]| {
        if let Ok(answer) = decode::<Answer>(bytes) {
            assert_eq!(decode::<Answer>(&encode(&answer)), Ok(answer));
        }
    });
}

#[test]
fn topics_patterns_and_rules() {
    let node = NodeId::from_bytes([7; 32]);
    let valid = ["a.b-c_D.9".to_owned(), "a.*.b.**".to_owned(), "own".to_owned(), format!("node:{node} a.**")];
    fuzz!(20_000, valid.map(String::into_bytes).to_vec(), |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        if let Ok(topic) = text.parse::<Topic>() {
            assert_eq!(topic.as_str(), text);
            assert!(Pattern::exactly(&topic).matches(&topic) && Pattern::everything().matches(&topic));
            assert_eq!(text.parse::<Pattern>().unwrap(), Pattern::exactly(&topic));
        }
        if let Ok(rule) = text.parse::<Rule>() {
            assert_eq!(rule.to_string().parse::<Rule>(), Ok(rule));
        }
    });
}
