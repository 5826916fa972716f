//! One question as it came, and what is to be done about it: an answer with authority, a refusal, or a question for others. No I/O.

use std::net::IpAddr;

use atoll_ids::NodeId;
use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, NS, PTR, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use crate::label::TOP;
use crate::zone::{Authority, Found, Zone};

/// Seconds that an answer may be kept. Short: nodes come, go and change their names, and asking again costs a message over loopback.
const TTL_SECONDS: u32 = 10;

/// Seconds that "there is none" may be kept (RFC 2308): shorter still, for a peer that was just joined is asked for its name within a moment.
const NEGATIVE_TTL_SECONDS: u32 = 3;

/// Times for secondary servers, in seconds (RFC 1035, section 3.3.13): there are none, and these say nothing wrong to one.
const REFRESH_RETRY_EXPIRE: [i32; 3] = [3600, 600, 86400];

/// The largest answer over UDP: it passes everywhere unfragmented (the DNS flag day of 2020). Whoever needs more asks over TCP.
const UDP_BYTES_MAX: u16 = 1232;

/// What everyone takes over UDP (RFC 1035, section 4.2.1).
const UDP_BYTES_MIN: u16 = 512;

/// Bytes of a message's header.
const HEADER_BYTES: usize = 12;

/// How a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// In a datagram.
    Udp,
    /// On a connection.
    Tcp,
}

/// What is to be done about a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send this back.
    Reply(Vec<u8>),
    /// Ask the resolvers that know the rest; if they do not answer, send back what is here.
    Forward {
        /// That it failed.
        failed: Vec<u8>,
        /// The largest answer that is taken over UDP, in bytes.
        payload: u16,
    },
    /// Nothing: to answer that would be wrong.
    Ignore,
}

/// Who answers.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    /// Where it listens.
    pub address: IpAddr,
    /// Whether it asks others what it does not know.
    pub forwards: bool,
}

/// What is to be done about `message`.
pub fn step(message: &[u8], transport: Transport, zone: &Zone, server: Server) -> Step {
    let query = match Message::from_vec(message) {
        // Two that answer each other's answers never stop.
        Ok(query) if query.metadata.message_type == MessageType::Response => return Step::Ignore,
        Ok(query) => query,
        Err(_) => return malformed(message),
    };
    let mut reply = Message::new(query.metadata.id, MessageType::Response, query.metadata.op_code);
    reply.metadata = Metadata::response_from_request(&query.metadata);
    reply.metadata.recursion_available = server.forwards;
    reply.metadata.checking_disabled = false;
    reply.queries.clone_from(&query.queries);
    if let Some(asked) = &query.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_BYTES_MAX);
        // RFC 3225, section 3: the bit is copied, whatever comes of it.
        edns.set_dnssec_ok(asked.flags().dnssec_ok);
        reply.edns = Some(edns);
    }
    let payload = query.edns.as_ref().map_or(UDP_BYTES_MIN, |edns| edns.max_payload().max(UDP_BYTES_MIN));
    let forward = match fill(&mut reply, &query, zone, server) {
        Ok(forward) => forward,
        Err(code) => {
            reply.metadata.response_code = code;
            false
        }
    };
    let limit = match transport {
        Transport::Udp => usize::from(payload.min(UDP_BYTES_MAX)),
        Transport::Tcp => usize::from(u16::MAX),
    };
    match (written(&reply, limit), forward) {
        (Some(failed), true) => Step::Forward { failed, payload },
        (Some(reply), false) => Step::Reply(reply),
        (None, _) => Step::Ignore,
    }
}

/// Answers the question in `reply`, or says that others are to be asked, or with what code it is refused.
fn fill(reply: &mut Message, query: &Message, zone: &Zone, server: Server) -> Result<bool, ResponseCode> {
    if query.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return Err(ResponseCode::BADVERS);
    }
    if query.metadata.op_code != OpCode::Query {
        return Err(ResponseCode::NotImp);
    }
    let [question] = query.queries.as_slice() else { return Err(ResponseCode::FormErr) };
    let labels = labels(&question.name);
    let found = zone.find(&labels.iter().map(String::as_str).collect::<Vec<_>>());
    if found == Found::Elsewhere {
        let code = if server.forwards { ResponseCode::ServFail } else { ResponseCode::Refused };
        reply.metadata.response_code = code;
        return Ok(server.forwards);
    }
    let whole_zone = matches!(question.query_type, RecordType::AXFR | RecordType::IXFR);
    if whole_zone || !matches!(question.query_class, DNSClass::IN | DNSClass::ANY) {
        return Err(ResponseCode::Refused);
    }
    answer(reply, question, found, zone, server).ok_or(ResponseCode::ServFail)?;
    Ok(false)
}

/// With authority.
fn answer(reply: &mut Message, question: &Query, found: Found, zone: &Zone, server: Server) -> Option<()> {
    reply.metadata.authoritative = true;
    let wanted = |kind: RecordType| question.query_type == kind || question.query_type == RecordType::ANY;
    let mut authority = Authority::Names;
    let data: Vec<RData> = match found {
        Found::Elsewhere => return None,
        Found::Nothing(by) => {
            authority = by;
            reply.metadata.response_code = ResponseCode::NXDomain;
            Vec::new()
        }
        Found::Empty(by) => {
            authority = by;
            Vec::new()
        }
        Found::Apex(by) => {
            authority = by;
            vec![RData::SOA(soa(zone.serial())?), RData::NS(NS(name(&["ns", TOP])?))]
        }
        Found::Server => match server.address {
            IpAddr::V4(address) => vec![RData::A(A(address))],
            IpAddr::V6(address) => vec![RData::AAAA(AAAA(address))],
        },
        Found::Nodes(nodes) => {
            let address = |node: &NodeId| RData::AAAA(AAAA(node.planetary_address().ip()));
            nodes.iter().map(address).collect()
        }
        Found::Name(found) => {
            authority = Authority::Reverse;
            vec![RData::PTR(PTR(name(&found.split('.').collect::<Vec<_>>())?))]
        }
    };
    for data in data.into_iter().filter(|data| wanted(data.record_type())) {
        reply.add_answer(Record::from_rdata(question.name.clone(), TTL_SECONDS, data));
    }
    if reply.answers.is_empty() {
        let apex = match authority {
            Authority::Names => name(&[TOP])?,
            Authority::Reverse => name(&crate::reverse::REVERSE)?,
        };
        reply.add_authority(Record::from_rdata(apex, NEGATIVE_TTL_SECONDS, RData::SOA(soa(zone.serial())?)));
    }
    Some(())
}

fn soa(serial: u32) -> Option<SOA> {
    let [refresh, retry, expire] = REFRESH_RETRY_EXPIRE;
    let (server, person) = (name(&["ns", TOP])?, name(&["hostmaster", TOP])?);
    Some(SOA::new(server, person, serial, refresh, retry, expire, NEGATIVE_TTL_SECONDS))
}

fn name(labels: &[&str]) -> Option<Name> {
    Name::from_labels(labels.iter().map(|label| label.as_bytes())).ok()
}

/// The labels of a name in lower case. One that is no text becomes one that no name has, and the others stay what they are: whose name it is does not change.
fn labels(name: &Name) -> Vec<String> {
    name.iter().map(|label| String::from_utf8_lossy(label).to_ascii_lowercase()).collect()
}

/// The message as bytes: if it is too long, without records and marked as cut, upon which it is asked for over TCP (RFC 2181, section 9).
fn written(reply: &Message, limit: usize) -> Option<Vec<u8>> {
    let whole = reply.to_vec().ok()?;
    if whole.len() <= limit {
        return Some(whole);
    }
    reply.truncate().to_vec().ok()
}

/// Says that a message was not understood, as far as its header is there to say whose it is.
fn malformed(message: &[u8]) -> Step {
    let Some(&[high, low, flags, ..]) = message.get(..HEADER_BYTES) else { return Step::Ignore };
    if flags & 0x80 != 0 {
        return Step::Ignore;
    }
    let id = u16::from_be_bytes([high, low]);
    let said = Message::error_msg(id, OpCode::from_u8((flags >> 3) & 0x0f), ResponseCode::FormErr);
    said.to_vec().map_or(Step::Ignore, Step::Reply)
}

#[cfg(test)]
mod tests;
