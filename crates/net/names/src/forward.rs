//! Questions about the rest of the world, handed to the resolvers that the machine had before.
//!
//! Message for message: what comes back is what the resolver said, byte for byte but for its number, so that record types that nobody here knows and what DNSSEC
//! needs pass. What is not plausibly the answer is not taken (RFC 5452): each question has a port and a number of its own, chosen by chance, and the question in the
//! answer has to be the one that was asked.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::answer::Transport;

/// How long one resolver has to answer. Programs wait five seconds by default (resolv.conf(5)); two resolvers are tried within.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Most questions on their way at once. Each has a socket, and the node needs its file descriptors for other things too.
const UNDER_WAY_MAX: usize = 128;

/// Most resolvers that are asked: as many as programs read of resolv.conf (MAXNS).
const UPSTREAMS_MAX: usize = 3;

/// Bytes of a message's header (RFC 1035, section 4.1.1).
const HEADER_BYTES: usize = 12;

/// Type and class behind the name in a question.
const TYPE_AND_CLASS_BYTES: usize = 4;

/// The longest name (RFC 1035, section 2.3.4).
const NAME_BYTES_MAX: usize = 255;

/// Asks others. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Forward {
    upstreams: Arc<[SocketAddr]>,
    under_way: Arc<Semaphore>,
    /// Whom to ask first: who answered last.
    first: Arc<AtomicUsize>,
}

impl Forward {
    /// Asks these, the first first; those beyond three are not asked.
    #[must_use]
    pub fn new(upstreams: &[SocketAddr]) -> Self {
        let upstreams = upstreams.iter().take(UPSTREAMS_MAX).copied().collect();
        Self { upstreams, under_way: Arc::new(Semaphore::new(UNDER_WAY_MAX)), first: Arc::default() }
    }

    /// Who is asked.
    #[must_use]
    pub fn upstreams(&self) -> &[SocketAddr] {
        &self.upstreams
    }

    /// What a resolver says; `None` if none does, or too much is being asked at once. `payload` is the largest answer in bytes over UDP.
    pub async fn ask(&self, message: &[u8], transport: Transport, payload: u16) -> Option<Vec<u8>> {
        let _permit = self.under_way.try_acquire().ok()?;
        let count = self.upstreams.len();
        let first = self.first.load(Ordering::Relaxed);
        for turn in 0..count {
            let which = (first + turn) % count;
            let upstream = *self.upstreams.get(which)?;
            let asked = async {
                match transport {
                    Transport::Udp => over_udp(upstream, message, payload).await,
                    Transport::Tcp => over_tcp(upstream, message).await,
                }
            };
            match timeout(ANSWER_WITHIN, asked).await {
                Ok(Ok(answer)) => {
                    self.first.store(which, Ordering::Relaxed);
                    return Some(answer);
                }
                Ok(Err(error)) => tracing::debug!(%upstream, %error, "a resolver did not answer"),
                Err(_) => tracing::debug!(%upstream, "a resolver did not answer in time"),
            }
        }
        None
    }
}

async fn over_udp(upstream: SocketAddr, message: &[u8], payload: u16) -> io::Result<Vec<u8>> {
    let any: IpAddr = match upstream {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // The kernel chooses the port by chance.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(upstream).await?;
    let asked = renumbered(message)?;
    socket.send(&asked).await?;
    let mut answer = vec![0; usize::from(payload)];
    loop {
        let length = socket.recv(&mut answer).await?;
        if let Some(answer) = accepted(&asked, message, answer.get(..length).unwrap_or_default()) {
            return Ok(answer);
        }
    }
}

async fn over_tcp(upstream: SocketAddr, message: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(upstream).await?;
    stream.set_nodelay(true)?;
    let asked = renumbered(message)?;
    let length = u16::try_from(asked.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], &asked].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    accepted(&asked, message, &answer).ok_or_else(|| io::Error::other("that is no answer to what was asked"))
}

/// The same question with another number.
fn renumbered(message: &[u8]) -> io::Result<Vec<u8>> {
    let mut number = [0; 2];
    getrandom::fill(&mut number).map_err(io::Error::other)?;
    Ok(with_number(message, number))
}

fn with_number(message: &[u8], number: [u8; 2]) -> Vec<u8> {
    let mut copy = message.to_vec();
    for (to, from) in copy.iter_mut().zip(number) {
        *to = from;
    }
    copy
}

/// The answer under the number of `message`, if it is one to `asked`.
fn accepted(asked: &[u8], message: &[u8], answer: &[u8]) -> Option<Vec<u8>> {
    let is_answer = answer.get(2)? & 0x80 != 0;
    let end = question_end(asked)?;
    let same_question = match question_end(answer) {
        Some(answered) => asked.get(HEADER_BYTES..end)?.eq_ignore_ascii_case(answer.get(HEADER_BYTES..answered)?),
        // Some leave the question out of a refusal.
        None => answer.len() == HEADER_BYTES && answer.get(4..6)? == [0, 0],
    };
    let fits = asked.get(..2)? == answer.get(..2)? && is_answer && same_question;
    fits.then(|| with_number(answer, [message[0], message[1]]))
}

/// Where the first question of a message ends, in bytes from its start; `None` if it has none that is whole. A question's name is never compressed: nothing is
/// before it that it could point to.
pub fn question_end(message: &[u8]) -> Option<usize> {
    if u16::from_be_bytes([*message.get(4)?, *message.get(5)?]) == 0 {
        return None;
    }
    let mut at = HEADER_BYTES;
    loop {
        let length = usize::from(*message.get(at)?);
        // The two upper bits say that it is no plain label (RFC 1035, section 4.1.4).
        if length & 0xc0 != 0 || at - HEADER_BYTES > NAME_BYTES_MAX {
            return None;
        }
        at += 1 + length;
        if length == 0 {
            let end = at + TYPE_AND_CLASS_BYTES;
            return (end <= message.len()).then_some(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Is `a.b` there, of type and class 1?
    const QUESTION: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x01a\x01b\0\0\x01\0\x01";

    fn answer(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut answer = QUESTION.to_vec();
        answer[2] |= 0x80;
        answer.extend(b"and more");
        change(&mut answer);
        answer
    }

    #[test]
    fn where_a_question_ends() {
        assert_eq!(question_end(QUESTION), Some(QUESTION.len()));
        assert_eq!(question_end(&answer(|_| {})), Some(QUESTION.len()));
        for cut in 0..QUESTION.len() {
            assert_eq!(question_end(&QUESTION[..cut]), None, "{cut}");
        }
        let mut compressed = QUESTION.to_vec();
        compressed[12] = 0xc0;
        assert_eq!(question_end(&compressed), None);
    }

    #[test]
    fn only_the_answer_to_the_question_is_taken() {
        let asked = with_number(QUESTION, [9, 9]);
        #[track_caller]
        fn check(asked: &[u8], answer: Vec<u8>, expect: bool) {
            let taken = accepted(asked, QUESTION, &answer);
            assert_eq!(taken, expect.then(|| with_number(&answer, [0x12, 0x34])));
        }
        let numbered = |change: fn(&mut Vec<u8>)| {
            answer(|answer| {
                answer[..2].fill(9);
                change(answer);
            })
        };
        check(&asked, numbered(|_| {}), true);
        check(&asked, numbered(|answer| answer[13] = b'A'), true);
        check(&asked, answer(|_| {}), false);
        check(&asked, numbered(|answer| answer[2] &= 0x7f), false);
        check(&asked, numbered(|answer| answer[13] = b'c'), false);
        check(&asked, numbered(|answer| answer[18] = 28), false);
        check(&asked, numbered(|answer| answer.truncate(20)), false);
        check(&asked, Vec::new(), false);
        check(
            &asked,
            numbered(|answer| {
                answer.truncate(12);
                answer[5] = 0;
            }),
            true,
        );
        check(&asked, numbered(|answer| answer.truncate(12)), false);
    }
}
