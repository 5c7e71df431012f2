//! What the texts of a request name: request ids, nodes, containers, storages, members.
//! In: a field's text, and the state it is looked up in. Out: the thing, or which field names nothing and what shows the names.

use std::sync::Arc;

use cluster::{Container, ContainerId, MemberId, Name, Node, NodeId, RequestId, SessionId, State};

use crate::convert::{ConvertError, Result, name};

/// A request id: the version 7 UUID of a session, `/`, a number; or a UUID alone, a session with one request.
/// The version matters: sessions are forgotten in the order of their birth, which only version 7 tells.
pub fn request_id(text: &str) -> Result<RequestId> {
    const FIELD: &str = "request_id";
    const HINT: &str = "give the version 7 UUID of your session, `/`, and a number that counts its requests";
    if text.is_empty() {
        return Err(ConvertError::missing(FIELD).hint(HINT));
    }
    let bad = |problem: &str| ConvertError::invalid(FIELD, problem).hint(HINT);
    let (session, sequence) = match text.split_once('/') {
        Some((session, sequence)) => {
            let digits = !sequence.is_empty() && sequence.bytes().all(|byte| byte.is_ascii_digit());
            let sequence = digits.then(|| sequence.parse().ok()).flatten();
            (session, sequence.ok_or_else(|| bad("what follows the `/` is no number"))?)
        }
        None => (text, 0),
    };
    let session = uuid(session).ok_or_else(|| bad("is not a UUID"))?;
    if session >> 76 & 0xf != 7 {
        return Err(bad("is a UUID of another version than 7"));
    }
    Ok(RequestId { session: SessionId(session), sequence })
}

/// With hyphens where they belong, or without any.
fn uuid(text: &str) -> Option<u128> {
    let hyphens = [8, 13, 18, 23];
    let place = |(place, byte): (usize, u8)| match byte {
        b'-' if text.len() == 36 && hyphens.contains(&place) => Some(None),
        _ if text.len() == 36 && hyphens.contains(&place) => None,
        byte => char::from(byte).to_digit(16).map(Some),
    };
    let digits: Vec<u32> =
        text.bytes().enumerate().map(place).collect::<Option<Vec<_>>>()?.into_iter().flatten().collect();
    (digits.len() == 32).then(|| digits.into_iter().fold(0, |value, digit| value << 4 | u128::from(digit)))
}

/// What a reference names: a name, or an id with `@` before it.
enum Reference {
    Name(Name),
    Id(u64),
}

fn reference(field: &str, text: &str, prefix: char) -> Result<Reference> {
    let Some(id) = text.strip_prefix('@') else { return name(field, text).map(Reference::Name) };
    let digits = id.strip_prefix(prefix).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    let id = digits.and_then(|digits| digits.parse().ok());
    id.map(Reference::Id).ok_or_else(|| {
        ConvertError::invalid(field, format!("{text:?} is not an id")).hint(format!("ids look like `@{prefix}12`"))
    })
}

/// The node that `text` names.
pub fn node<'s>(state: &'s State, field: &str, text: &str) -> Result<&'s Arc<Node>> {
    let found = match reference(field, text, 'n')? {
        Reference::Name(name) => state.node_named(&name),
        Reference::Id(id) => state.node(NodeId(id)),
    };
    found.ok_or_else(|| {
        ConvertError::not_found(field, format!("there is no node {text}"))
            .hint("`quoratectl node list` shows the nodes")
    })
}

/// The storage of that name.
pub fn storage<'s>(state: &'s State, field: &str, text: &str) -> Result<&'s Arc<cluster::Storage>> {
    state.storage(&name(field, text)?).ok_or_else(|| {
        ConvertError::not_found(field, format!("there is no storage {text}"))
            .hint("`quoratectl storage list` shows the storages")
    })
}

/// The container that `text` names.
pub fn container<'s>(state: &'s State, field: &str, text: &str) -> Result<&'s Arc<Container>> {
    let found = match reference(field, text, 'c')? {
        Reference::Name(name) => state.container_named(&name),
        Reference::Id(id) => state.container(ContainerId(id)),
    };
    found.ok_or_else(|| {
        ConvertError::not_found(field, format!("there is no container {text}"))
            .hint("`quoratectl container list` shows the containers")
    })
}

/// The member that `text` names.
pub fn member(state: &State, field: &str, text: &str) -> Result<MemberId> {
    let found = match reference(field, text, 'm')? {
        Reference::Name(name) => state.members().find(|member| member.name == name),
        Reference::Id(id) => state.member(MemberId(id)),
    };
    found.map(|member| member.id).ok_or_else(|| {
        ConvertError::not_found(field, format!("there is no member {text}"))
            .hint("`quoratectl cluster status` shows the members")
    })
}
