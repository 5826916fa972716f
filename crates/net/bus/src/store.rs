//! Where messages are kept: records and payloads under `bus/` in the key-value store. The writes of a step are one commit, synced before anything is said.

use std::sync::Arc;

use atoll_ids::MessageId;
use atoll_kv::{Entry, KeyValue, KvError, Mutation, Scan};
use atoll_wire::{DecodeError, Versioned, decode, encode};
use bytes::Bytes;

use crate::records::{InRecord, Mark, OutRecord, Stored, Write};

/// Records read at once when the bus is opened.
const PAGE: usize = 1000;

const HIGH: &str = "bus/high";
const OUTBOX: &str = "bus/out/";
const SENT: &str = "bus/sent/";
const INBOX: &str = "bus/in/";
const BODY: &str = "bus/body/";
const MARKS: &str = "bus/mark/";

/// Why messages cannot be kept, or what is kept of them cannot be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The key-value store fails.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// A record is damaged, or of a newer version.
    #[error("what is kept of messages under {key} cannot be read: {source}")]
    Damaged {
        /// Its key.
        key: String,
        /// What is wrong.
        source: DecodeError,
    },
    /// A record has a key that is none of the bus.
    #[error("{key} is no key of a message")]
    Key {
        /// The key.
        key: String,
    },
    /// A payload is gone.
    #[error("the payload under {key} is gone")]
    Gone {
        /// Its key.
        key: String,
    },
}

#[derive(Clone)]
pub(crate) struct Store {
    kv: Arc<dyn KeyValue>,
}

fn numbered(prefix: &str, number: u64) -> Bytes {
    Bytes::from(format!("{prefix}{number:016x}"))
}

fn sent_key(id: &MessageId) -> Bytes {
    Bytes::from(format!("{SENT}{id}"))
}

fn read<T: Versioned>(entry: &Entry) -> Result<T, StoreError> {
    decode(&entry.value).map_err(|source| StoreError::Damaged { key: text(&entry.key), source })
}

fn text(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}

fn mutation(write: Write) -> Mutation {
    let mark = |position| Bytes::from(encode(&Mark { position }));
    let put = |key, value| Mutation::Put { key, value };
    let delete = |key| Mutation::Delete { key };
    match write {
        Write::High(position) => put(Bytes::from_static(HIGH.as_bytes()), mark(position)),
        Write::PutOut(record) => put(numbered(OUTBOX, record.position), encode(&record).into()),
        Write::DropOut(position) => delete(numbered(OUTBOX, position)),
        Write::PutSent(id, payload) => put(sent_key(&id), payload),
        Write::DropSent(id) => delete(sent_key(&id)),
        Write::Mark(node, position) => put(Bytes::from(format!("{MARKS}{node}")), mark(position)),
        Write::PutIn(record) => put(numbered(INBOX, record.arrival), encode(&record).into()),
        Write::DropIn(arrival) => delete(numbered(INBOX, arrival)),
        Write::PutBody(arrival, payload) => put(numbered(BODY, arrival), payload),
        Write::DropBody(arrival) => delete(numbered(BODY, arrival)),
    }
}

impl Store {
    pub(crate) fn new(kv: Arc<dyn KeyValue>) -> Self {
        Self { kv }
    }

    /// Everything but the payloads.
    pub(crate) async fn load(&self) -> Result<Stored, StoreError> {
        let high = self.kv.get(HIGH.as_bytes()).await?;
        let high = high.map_or(Ok(0), |entry| read::<Mark>(&entry).map(|mark| mark.position))?;
        let mut stored = Stored { high, ..Stored::default() };
        self.each(OUTBOX, |entry| {
            stored.outbox.push(read::<OutRecord>(&entry)?);
            Ok(())
        })
        .await?;
        self.each(INBOX, |entry| {
            stored.inbox.push(read::<InRecord>(&entry)?);
            Ok(())
        })
        .await?;
        self.each(MARKS, |entry| {
            let node = std::str::from_utf8(&entry.key[MARKS.len()..]).ok().and_then(|node| node.parse().ok());
            let node = node.ok_or_else(|| StoreError::Key { key: text(&entry.key) })?;
            stored.marks.push((node, read::<Mark>(&entry)?.position));
            Ok(())
        })
        .await?;
        Ok(stored)
    }

    async fn each(
        &self,
        prefix: &'static str,
        mut take: impl FnMut(Entry) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut scan = Scan::new(prefix, PAGE);
        loop {
            let page = self.kv.scan(scan.clone()).await?;
            let Some(last) = page.last() else { return Ok(()) };
            scan = scan.after(last.key.clone());
            for entry in page {
                take(entry)?;
            }
        }
    }

    /// One commit; durable when it returns.
    pub(crate) async fn commit(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        if !writes.is_empty() {
            self.kv.commit(Vec::new(), writes.into_iter().map(mutation).collect()).await?;
        }
        Ok(())
    }

    /// The payload of a message that waits in the outbox.
    pub(crate) async fn sent(&self, id: &MessageId) -> Result<Bytes, StoreError> {
        self.payload(sent_key(id)).await
    }

    /// The payload of a message that nobody has taken.
    pub(crate) async fn body(&self, arrival: u64) -> Result<Bytes, StoreError> {
        self.payload(numbered(BODY, arrival)).await
    }

    async fn payload(&self, key: Bytes) -> Result<Bytes, StoreError> {
        let entry = self.kv.get(&key).await?;
        entry.map(|entry| entry.value).ok_or_else(|| StoreError::Gone { key: text(&key) })
    }
}

/// About how many bytes a write adds to a commit.
pub(crate) fn write_bytes(write: &Write) -> usize {
    /// A record with the longest topic and its key.
    const RECORD: usize = 400;
    match write {
        Write::PutSent(_, payload) | Write::PutBody(_, payload) => RECORD + payload.len(),
        _ => RECORD,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use atoll_ids::{NodeId, OwnerId};
    use atoll_kv::{Embedded, EmbeddedConfig};

    use super::*;
    use crate::frames::Refusal;
    use crate::records::{InState, OutState};

    fn out_record(position: u64, state: OutState) -> OutRecord {
        let (to, id) = (NodeId::from_bytes([1; 32]), MessageId::from_bytes([2; 16]));
        let topic = "backup.done".parse().unwrap();
        OutRecord { position, to, id, topic, answers: None, accepted: 1000, ttl: 60_000, bytes: 3, state }
    }

    fn in_record(arrival: u64, state: InState) -> InRecord {
        InRecord {
            arrival,
            from: NodeId::from_bytes([1; 32]),
            owner: Some(OwnerId::from_bytes([4; 32])),
            id: MessageId::from_bytes([2; 16]),
            topic: "backup.done".parse().unwrap(),
            answers: Some(MessageId::from_bytes([3; 16])),
            received: 1000,
            ttl: 60_000,
            bytes: 3,
            state,
        }
    }

    /// What version 1 looks like on the disk; these bytes never change.
    #[test]
    fn version_1_is_read_for_ever() {
        let refused = out_record(7, OutState::Refused { at: 300, why: Refusal::NoQuestion });
        let fixture = [
            &[1, 0, 7][..],
            &[1; 32],
            &[2; 16],
            b"\x0bbackup.done",
            &[0, 0xe8, 0x07, 0xe0, 0xd4, 0x03, 3, 3, 0xac, 0x02, 1],
        ]
        .concat();
        assert_eq!(encode(&refused), fixture);
        assert_eq!(decode::<OutRecord>(&fixture).unwrap(), refused);
        let taken = in_record(9, InState::Taken { at: 300 });
        let fixture = [
            &[1, 0, 9][..],
            &[1; 32],
            &[1],
            &[4; 32],
            &[2; 16],
            b"\x0bbackup.done",
            &[1],
            &[3; 16],
            &[0xe8, 0x07, 0xe0, 0xd4, 0x03, 3, 1, 0xac, 0x02],
        ]
        .concat();
        assert_eq!(encode(&taken), fixture);
        assert_eq!(decode::<InRecord>(&fixture).unwrap(), taken);
        assert_eq!(decode::<Mark>(&[1, 0, 0xac, 0x02]).unwrap(), Mark { position: 300 });
    }

    #[tokio::test]
    async fn what_is_written_is_loaded_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let config = EmbeddedConfig { free_bytes_min: 0, ..EmbeddedConfig::default() };
        let store = Store::new(Arc::new(Embedded::open(folder.path(), config).unwrap()));
        let node = NodeId::from_bytes([1; 32]);
        let outbox: Vec<_> = (1..=1500).map(|position| out_record(position, OutState::Waiting)).collect();
        let inbox = vec![in_record(255, InState::Unread), in_record(256, InState::Expired { at: 5 })];
        let mut writes: Vec<Write> = outbox.iter().cloned().rev().map(Write::PutOut).collect();
        writes.extend(inbox.iter().cloned().map(Write::PutIn));
        writes.extend([
            Write::High(1500),
            Write::Mark(node, 12),
            Write::PutBody(255, Bytes::from_static(b"abc")),
            Write::PutSent(MessageId::from_bytes([2; 16]), Bytes::new()),
        ]);
        store.commit(writes).await.unwrap();
        let stored = Stored { high: 1500, outbox, inbox, marks: vec![(node, 12)] };
        assert_eq!(store.load().await.unwrap(), stored);
        assert_eq!(store.body(255).await.unwrap(), "abc");
        assert_eq!(store.sent(&MessageId::from_bytes([2; 16])).await.unwrap(), "");
        let drops = [Write::DropBody(255), Write::DropIn(256), Write::DropOut(1)];
        store.commit(drops.to_vec()).await.unwrap();
        assert!(matches!(store.body(255).await, Err(StoreError::Gone { .. })));
        let stored = store.load().await.unwrap();
        assert_eq!((stored.inbox.len(), stored.outbox.len()), (1, 1499));
    }
}
