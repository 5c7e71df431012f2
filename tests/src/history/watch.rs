//! Streams of events: in order, without a gap, nothing twice, and the same for everybody.
//! In: what each watch delivered and from where it began. Out: an anomaly for each contradiction.
//! There is no other source to compare with: what one watch was told, every watch over that stretch must have been.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::history::{Anomaly, End, Operation, Reply, Rule};

/// One uninterrupted watch of everything, or one resumed where the last broke off: a resumed one begins anew here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    pub client: u64,
    /// It was asked for everything behind this revision.
    pub after: u64,
    /// In the order of delivery.
    pub seen: Vec<Event>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub revision: u64,
    /// Among the events of one revision, from 0.
    pub place: u32,
    pub text: Arc<str>,
    /// The request that caused it, where the event shows it (by a value written only by that request).
    pub request: Option<String>,
}

pub(super) fn check(operations: &[Operation], watches: &[Watch], anomalies: &mut Vec<Anomaly>) {
    let mut told: BTreeMap<(u64, u32), &Event> = BTreeMap::new();
    let mut report = |rule: Rule, what: String| anomalies.push(Anomaly { rule, what });
    for watch in watches {
        let mut last = (watch.after, u32::MAX);
        for event in &watch.seen {
            let at = (event.revision, event.place);
            if at <= last {
                let client = watch.client;
                report(Rule::Watch, format!("client {client} was told of r{} {:?} after {last:?}", at.0, event.text));
            }
            last = at;
            let first = *told.entry(at).or_insert(event);
            if first.text != event.text {
                report(Rule::Watch, format!("r{} is told as {:?} and as {:?}", at.0, first.text, event.text));
            }
        }
    }
    for watch in watches {
        let Some(last) = watch.seen.last().map(|event| (event.revision, event.place)) else { continue };
        let mut seen = watch.seen.iter().map(|event| (event.revision, event.place)).collect::<Vec<_>>();
        seen.sort_unstable();
        let stretch = told.range((watch.after + 1, 0)..=last.max((watch.after + 1, 0)));
        for (at, event) in stretch.filter(|(at, _)| seen.binary_search(at).is_err()) {
            let client = watch.client;
            report(Rule::Watch, format!("client {client} was never told of r{}: {:?}", at.0, event.text));
        }
    }
    let mut effects: BTreeMap<&str, (u64, u32)> = BTreeMap::new();
    for (at, event) in &told {
        let Some(request) = &event.request else { continue };
        if let Some(first) = effects.insert(request, *at) {
            report(Rule::OnceOnly, format!("request {request} took effect at {first:?} and at {at:?}"));
        }
    }
    for operation in operations {
        let (Some(request), End::Answered { revision: Some(revision), reply, .. }) =
            (&operation.request, &operation.end)
        else {
            continue;
        };
        match (effects.get(request.as_str()), reply) {
            (Some((at, _)), Reply::Done { .. }) if at != revision => {
                report(
                    Rule::OnceOnly,
                    format!("request {request} was answered with r{revision} and happened at r{at}"),
                );
            }
            (Some((at, _)), Reply::Refused(why)) => {
                report(Rule::OnceOnly, format!("request {request} was refused ({why:?}) and happened at r{at}"));
            }
            _ => {}
        }
    }
}
