//! Which method an HTTP request means, read from the `google.api.http` annotations.
//! In: verb and path. Out: the route with the values its path captured.

use std::sync::LazyLock;

use prost_reflect::{DynamicMessage, MessageDescriptor, MethodDescriptor, Value};

use super::{POOL, Refusal};
use crate::problem::Problem;

/// The HTTP verb of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    Get,
    Put,
    Post,
    Delete,
    Patch,
}

/// One annotated method and how it is reached.
#[derive(Clone, Debug)]
pub struct Route {
    pub verb: Method,
    /// As annotated: `/v1/nodes/{node}:drain`.
    pub template: String,
    /// `/package.Service/Method`.
    pub grpc_path: String,
    pub server_streaming: bool,
    /// The body is the whole request; otherwise there is none and fields come from the query.
    pub takes_body: bool,
    pub(super) method: MethodDescriptor,
    pub(super) input: MessageDescriptor,
    pub(super) output: MessageDescriptor,
    segments: Vec<Segment>,
    /// What follows the colon in the last segment.
    custom_verb: Option<String>,
}

#[derive(Clone, Debug)]
enum Segment {
    Literal(String),
    /// A field path, as `template.name`.
    Field(String),
}

pub(super) enum Found {
    /// The route, and field path with value for each captured segment.
    Route(&'static Route, Vec<(&'static str, String)>),
    /// The path exists, under other verbs.
    OtherVerbs(Vec<&'static str>),
    Nothing,
}

static ROUTES: LazyLock<Vec<Route>> = LazyLock::new(|| {
    let http = POOL.get_extension_by_name("google.api.http").expect("the annotation is part of the set");
    let methods = POOL.services().flat_map(|service| service.methods().collect::<Vec<_>>());
    let annotated = methods.filter(|method| method.options().has_extension(&http));
    annotated
        .map(|method| match method.options().get_extension(&http).as_ref() {
            Value::Message(rule) => Route::of(&method, rule),
            _ => unreachable!("google.api.http is a message"),
        })
        .collect()
});

/// Every route there is, in the order of the protos.
pub fn routes() -> &'static [Route] {
    &ROUTES
}

impl Method {
    pub const ALL: [Method; 5] = [Method::Get, Method::Put, Method::Post, Method::Delete, Method::Patch];

    pub fn name(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Put => "PUT",
            Method::Post => "POST",
            Method::Delete => "DELETE",
            Method::Patch => "PATCH",
        }
    }
}

impl Route {
    fn of(method: &MethodDescriptor, rule: &DynamicMessage) -> Route {
        let (verb, template) = Method::ALL
            .into_iter()
            .find_map(|verb| {
                let field = rule.get_field_by_name(&verb.name().to_ascii_lowercase())?;
                let template = field.as_str().filter(|template| !template.is_empty())?;
                Some((verb, template.to_owned()))
            })
            .expect("every annotation names a verb; the test of all routes says so");
        let body = rule.get_field_by_name("body").and_then(|body| body.as_str().map(str::to_owned));
        let (path, custom_verb) = split_verb(&template);
        let segments = path.split('/').skip(1).map(Segment::of).collect();
        Route {
            verb,
            grpc_path: format!("/{}/{}", method.parent_service().full_name(), method.name()),
            server_streaming: method.is_server_streaming(),
            takes_body: body.is_some_and(|body| body == "*"),
            method: method.clone(),
            input: method.input(),
            output: method.output(),
            segments,
            custom_verb: custom_verb.map(str::to_owned),
            template,
        }
    }

    /// Field paths that the path captures.
    pub(super) fn captured(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Field(field) => Some(field.as_str()),
            Segment::Literal(_) => None,
        })
    }

    /// Captured values, still percent-encoded, if the path is of this shape.
    fn captures<'p>(&'static self, path: &'p str) -> Option<Vec<(&'static str, &'p str)>> {
        let (path, custom_verb) = match &self.custom_verb {
            Some(_) => split_verb(path),
            None => (path, None),
        };
        if custom_verb != self.custom_verb.as_deref() {
            return None;
        }
        let given: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        if given.len() != self.segments.len() {
            return None;
        }
        let mut captured = Vec::new();
        for (segment, given) in self.segments.iter().zip(given) {
            match segment {
                Segment::Literal(literal) if literal == given => {}
                Segment::Field(field) if !given.is_empty() => captured.push((field.as_str(), given)),
                _ => return None,
            }
        }
        Some(captured)
    }
}

impl Segment {
    fn of(text: &str) -> Segment {
        match text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) {
            Some(field) => Segment::Field(field.to_owned()),
            None => Segment::Literal(text.to_owned()),
        }
    }
}

/// The path without `:verb` of its last segment, and that verb.
fn split_verb(path: &str) -> (&str, Option<&str>) {
    match path.rsplit_once(':') {
        Some((path, verb)) if !verb.contains('/') && !verb.contains('}') => (path, Some(verb)),
        _ => (path, None),
    }
}

/// The route of a request. Literal paths win over captured ones: `/v1/containers:batchCreate` is no container.
pub(super) fn find(verb: &http::Method, path: &str) -> Result<Found, Refusal> {
    let mut others = Vec::new();
    let mut best: Option<(&'static Route, Vec<(&'static str, &str)>)> = None;
    for route in routes() {
        let Some(captures) = route.captures(path) else { continue };
        if route.verb.name() != verb.as_str() {
            others.push(route.verb.name());
        } else if best.as_ref().is_none_or(|(known, held)| {
            (captures.len(), route.custom_verb.is_none()) < (held.len(), known.custom_verb.is_none())
        }) {
            best = Some((route, captures));
        }
    }
    let Some((route, captures)) = best else {
        others.sort_unstable();
        others.dedup();
        return Ok(if others.is_empty() { Found::Nothing } else { Found::OtherVerbs(others) });
    };
    let decoded = captures.into_iter().map(|(field, value)| Ok((field, percent_decoded(value, field)?)));
    Ok(Found::Route(route, decoded.collect::<Result<_, Refusal>>()?))
}

/// The text that percent-encoding stands for; `field` names the place in the error.
pub(super) fn percent_decoded(text: &str, field: &str) -> Result<String, Refusal> {
    let bad = || Refusal::from(Problem::invalid(field, format!("{text:?} is not percent-encoded UTF-8")));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else { return Err(bad()) };
        bytes.push((high * 16 + low) as u8);
    }
    String::from_utf8(bytes).map_err(|_| bad())
}
