//! What revisions and repetitions say, without any search.
//! In: operations. Out: one operation a request, and an anomaly for each contradiction. Linear but for sorting, and for
//! stale reads, each of which looks at everything that was done to its object.

use std::collections::BTreeMap;

use crate::history::{Anomaly, Call, End, Operation, Reply, Rule};

/// One operation for all attempts at a request: from the first begin to the first answer. Two answers must be equal.
pub(super) fn merged(operations: &[Operation], anomalies: &mut Vec<Anomaly>) -> Vec<Operation> {
    let mut requests: BTreeMap<&str, Operation> = BTreeMap::new();
    let mut merged = Vec::new();
    for operation in operations {
        let Some(request) = &operation.request else {
            merged.push(operation.clone());
            continue;
        };
        let first = requests.entry(request).or_insert_with(|| operation.clone());
        first.begun = first.begun.min(operation.begun);
        let differs = match (&mut first.end, &operation.end) {
            (_, End::Unknown) => false,
            (end @ End::Unknown, answered) => {
                *end = answered.clone();
                false
            }
            (End::Answered { at, revision, reply }, End::Answered { at: later, revision: again, reply: other }) => {
                *at = (*at).min(*later);
                let moved = revision.is_some() && again.is_some() && revision != again;
                moved || reply != other
            }
        };
        if differs || (&first.object, &first.call) != (&operation.object, &operation.call) {
            let (one, two) = (first.clone(), operation);
            let what = format!("request {request}: {:?} {:?}, and {:?} {:?}", one.call, one.end, two.call, two.end);
            anomalies.push(Anomaly { rule: Rule::OnceOnly, what });
        }
    }
    merged.extend(requests.into_values());
    merged.sort_by_key(|operation| operation.begun);
    merged
}

/// What began after another was answered stands at a later revision, or for reads at no earlier one.
/// `operations`: by begin.
pub(super) fn real_time(operations: &[Operation], anomalies: &mut Vec<Anomaly>) {
    let mut ended: Vec<(u64, u64, usize)> = operations
        .iter()
        .enumerate()
        .filter_map(|(place, operation)| match operation.end {
            End::Answered { at, revision: Some(revision), .. } => Some((at, revision, place)),
            _ => None,
        })
        .collect();
    ended.sort_unstable();
    let mut ended = ended.into_iter().peekable();
    let mut floor: Option<(u64, usize)> = None;
    let mut begun = operations.iter().collect::<Vec<_>>();
    begun.sort_by_key(|operation| operation.begun);
    for operation in begun {
        while let Some((_, revision, place)) = ended.next_if(|(at, ..)| *at < operation.begun) {
            if floor.is_none_or(|(highest, _)| revision > highest) {
                floor = Some((revision, place));
            }
        }
        let (End::Answered { revision: Some(revision), .. }, Some((highest, place))) = (&operation.end, floor) else {
            continue;
        };
        let early = match operation.call {
            Call::LookStale => false,
            Call::Look => *revision < highest,
            _ => *revision <= highest,
        };
        if early {
            let before = &operations[place];
            let what = format!(
                "{:?} of {} by client {} stands at r{revision}; it began at {} after {:?} of {} was answered with r{highest}",
                operation.call, operation.object, operation.client, operation.begun, before.call, before.object
            );
            anomalies.push(Anomaly { rule: Rule::RealTime, what });
        }
    }
}

/// A stale read shows, for each annotation, what the last write at or below its revision left, or what a write of unknown
/// outcome may have left. `operations`: of one object.
pub(super) fn stale(operations: &[&Operation], anomalies: &mut Vec<Anomaly>) {
    for read in operations.iter().filter(|operation| operation.call == Call::LookStale) {
        let End::Answered { at, revision: Some(revision), reply: Reply::Saw(view) } = &read.end else { continue };
        let told = operations.iter().copied().filter(|it| it.begun <= *at);
        if let Some(what) = told_otherwise(told, *revision, view.as_ref()) {
            let what = format!("a stale read of {} at r{revision} shows {view:?}: {what}", read.object);
            anomalies.push(Anomaly { rule: Rule::Stale, what });
        }
    }
}

fn told_otherwise<'a>(
    operations: impl Iterator<Item = &'a Operation>,
    revision: u64,
    view: Option<&crate::history::View>,
) -> Option<String> {
    let mut written: Vec<(u64, &Operation)> = Vec::new();
    let mut perhaps: Vec<&Operation> = Vec::new();
    for operation in operations {
        match &operation.end {
            End::Answered { revision: Some(at), reply: Reply::Done { .. }, .. } if *at <= revision => {
                written.push((*at, operation));
            }
            End::Unknown => perhaps.push(operation),
            _ => {}
        }
    }
    written.sort_by_key(|(at, _)| *at);
    let is = |wanted: fn(&Call) -> bool| {
        written.iter().map(|(_, it)| *it).chain(perhaps.iter().copied()).any(|it| wanted(&it.call))
    };
    let Some(view) = view else {
        let created = written.iter().any(|(_, it)| it.call == Call::Create);
        let deleted = is(|call| matches!(call, Call::Delete { .. }));
        return (created && !deleted).then(|| "it had been created and nobody asked for its end".to_owned());
    };
    if !is(|call| *call == Call::Create) {
        return Some("nobody had created it".to_owned());
    }
    // Names are used again: what was written before the last creation is of another container.
    let birth = written.iter().rposition(|(_, it)| it.call == Call::Create).unwrap_or(0);
    let mut last: BTreeMap<&str, Option<&str>> = BTreeMap::new();
    for (_, operation) in &written[birth..] {
        if let Call::Annotate { key, value, .. } = &operation.call {
            last.insert(key, value.as_deref());
        }
    }
    let keys = last.keys().copied().chain(view.annotations.keys().map(String::as_str));
    let maybe = |key: &str, shown: Option<&str>| {
        perhaps.iter().any(|it| {
            matches!(&it.call, Call::Create)
                || matches!(&it.call, Call::Annotate { key: other, value, .. } if other == key && value.as_deref() == shown)
        })
    };
    keys.into_iter().find_map(|key| {
        let shown = view.annotations.get(key).map(String::as_str);
        let wanted = last.get(key).copied().flatten();
        (shown != wanted && !maybe(key, shown)).then(|| format!("{key} was {wanted:?} there"))
    })
}
