//! The public doors, as rows of a table go through them: the same request over REST and over gRPC, and as a command line.

use std::future::Future;

use proto::v1::{
    self, cluster_service_client::ClusterServiceClient, container_service_client::ContainerServiceClient,
    node_service_client::NodeServiceClient, storage_service_client::StorageServiceClient,
    template_service_client::TemplateServiceClient,
};
use proto::{Problem, rest};
use serde_json::{Value, json};
use tests::processes::{Cluster, Member, http, request_id, run};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use super::streams::Speaker;

/// What everything is tried at: a cluster of three, and one of a single member that a made-up agent speaks to.
pub struct Ground {
    pub cluster: Cluster,
    pub speaker: Speaker,
}

impl Ground {
    pub fn new() -> Ground {
        let cluster = Cluster::start("refused", 3, "default");
        cluster.furnish();
        for node in ["node-1", "node-2"] {
            cluster.members[0].order("POST", "/v1/nodes", json!({ "name": node }));
        }
        cluster.create("web", json!({ "possibleOwners": ["node-1"] }));
        Ground { cluster, speaker: Speaker::new() }
    }

    /// All there is in both clusters, and how much has happened to it. Refusals count in the revision; they are no events.
    pub fn facts(&self) -> Value {
        let of = |cluster: &Cluster, paths: &[&str]| -> Value {
            let read = |path: &&str| {
                let mut reply = cluster.read(&format!("/v1/{path}"));
                reply.as_object_mut().expect("an object").remove("revision");
                reply
            };
            let members = cluster.read("/v1/cluster")["members"].clone();
            let names: Vec<Value> =
                members.as_array().into_iter().flatten().map(|member| member["name"].clone()).collect();
            paths.iter().map(read).chain(names).collect()
        };
        let paths = ["templates", "storages", "cluster/settings", "events", "containers", "nodes"];
        // Of a node that sends no heartbeats, and of what it has, it is shown whether it is silent just now.
        let assignment = self.speaker.cluster.container("web")["assignment"].clone();
        json!([of(&self.cluster, &paths), of(&self.speaker.cluster, &paths[..4]), assignment])
    }

    /// Reads and writes still go through every member.
    pub fn who_does_not_serve(&self) -> Option<String> {
        let members = self.cluster.members.iter().chain(&self.speaker.cluster.members);
        let silent = |member: &&Member| {
            let cordon = json!({ "requestId": request_id() });
            let refused = http::call(&member.api, "POST", "/v1/nodes/nobody:cordon", Some(&cordon));
            // Decided by the state, so a majority has heard of it.
            member.get("/readyz").status != 200 || refused.is_ok_and(|answer| answer.status != 404)
        };
        members.into_iter().find(silent).map(|member| member.name.clone())
    }
}

/// One thread is enough: the servers are processes of their own.
pub fn block<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}

pub fn channel(address: &str) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).expect("an address").connect_lazy()
}

/// A request as JSON, of a kind that both doors take.
#[derive(Clone, Debug)]
pub enum Ask {
    /// With this spec.
    Create(Value),
    Join(Value),
    RegisterTemplate(String, Value),
    RegisterStorage(String, Value),
    AddMember(Value),
    Move(Value),
    ConfirmDown(Value),
    UpdateSettings(Value),
    /// Verb, path and body of a request that is tried over REST alone; `null` is no body.
    Rest(&'static str, &'static str, Value),
}

/// What a refusal says, whichever door it came through.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    pub code: String,
    pub reason: String,
    pub field: String,
    pub text: String,
    pub hint: String,
}

impl Refusal {
    fn of(json: &Value) -> Refusal {
        let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
        Refusal {
            code: text("code"),
            reason: text("reason"),
            field: text("field"),
            text: text("detail"),
            hint: text("hint"),
        }
    }

    /// Asserts that it can be read by people without harm, and by programs at all.
    #[track_caller]
    pub fn is_sound(&self, what: &str) {
        assert!(!self.reason.is_empty() && !self.text.is_empty(), "{what}: {self:?}");
        assert!(!matches!(&*self.code, "Internal" | "Unknown" | "DataLoss"), "{what} blames itself: {self:?}");
        has_nothing_hidden(what, &format!("{}{}", self.text, self.hint));
        // Ours: no words of a parser.
        for theirs in ["invalid digit", "invalid type", "invalid value", "expected ", "unrecognized"] {
            assert!(!self.text.contains(theirs), "{what}: {self:?}");
        }
    }
}

/// Words that a terminal shows as they are: nothing that moves, hides or turns them around.
#[track_caller]
pub fn has_nothing_hidden(what: &str, text: &str) {
    let hidden = |c: &char| {
        (c.is_control() && *c != '\n')
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    let found: Vec<char> = text.chars().filter(hidden).collect();
    assert!(found.is_empty(), "{what}: the words hold {found:?}: {text:?}");
}

impl Ask {
    /// Verb, path and body. A name that is part of a path is written as paths write it.
    fn rest(&self) -> (&'static str, String, Value) {
        let with_id = |body: &Value| {
            let mut body = body.clone();
            if body.get("requestId").is_none() {
                body["requestId"] = request_id().into();
            }
            body
        };
        match self {
            Ask::Create(spec) => ("POST", "/v1/containers".into(), with_id(&json!({ "spec": spec }))),
            Ask::Join(body) => ("POST", "/v1/nodes".into(), with_id(body)),
            Ask::RegisterTemplate(name, template) => {
                ("PUT", format!("/v1/templates/{}", encoded(name)), with_id(&json!({ "template": template })))
            }
            Ask::RegisterStorage(name, storage) => {
                ("PUT", format!("/v1/storages/{}", encoded(name)), with_id(&json!({ "storage": storage })))
            }
            Ask::AddMember(body) => ("POST", "/v1/cluster/members".into(), with_id(body)),
            Ask::Move(body) => ("POST", "/v1/containers/web:move".into(), with_id(body)),
            Ask::ConfirmDown(body) => ("POST", "/v1/nodes/node-1:confirmDown".into(), with_id(body)),
            Ask::UpdateSettings(body) => ("PATCH", "/v1/cluster/settings".into(), with_id(body)),
            // A deletion's request id stands in the query, and its body is refused.
            Ask::Rest("DELETE", path, body) => ("DELETE", format!("{path}?requestId={}", request_id()), body.clone()),
            Ask::Rest(verb, path, body) => (verb, (*path).to_owned(), with_id(body)),
        }
    }

    pub fn over_rest(&self, member: &Member) -> Result<(), Refusal> {
        let (verb, path, body) = self.rest();
        let body = Some(&body).filter(|body| !body.is_null());
        let answer = http::call(&member.api, verb, &path, body).expect("answered");
        if answer.status == 200 {
            return Ok(());
        }
        let (status, ..) = answer.problem();
        assert_eq!(u64::from(status), answer.json()["status"].as_u64().unwrap_or_default());
        Err(Refusal::of(&answer.json()))
    }

    /// The same message over gRPC; `None` where no message says it, as of a number that is negative.
    pub fn over_grpc(&self, member: &Member) -> Option<Result<(), Refusal>> {
        let (_, _, mut body) = self.rest();
        macro_rules! ask {
            ($client:ident.$method:ident($message:ident)) => {{
                let name = concat!("quorate.v1.", stringify!($message));
                let message: v1::$message = rest::from_json(name, &body.to_string()).ok()?;
                block(async { $client::new(channel(&member.api)).$method(message).await.map(drop) })
            }};
        }
        let answer: Result<(), Status> = match self {
            Ask::Create(_) => ask!(ContainerServiceClient.create(CreateContainerRequest)),
            Ask::Join(_) => ask!(NodeServiceClient.join(JoinRequest)),
            Ask::RegisterTemplate(name, _) => {
                body["template"]["name"] = name.as_str().into();
                ask!(TemplateServiceClient.register(RegisterTemplateRequest))
            }
            Ask::RegisterStorage(name, _) => {
                body["storage"]["name"] = name.as_str().into();
                ask!(StorageServiceClient.register(RegisterStorageRequest))
            }
            Ask::AddMember(_) => ask!(ClusterServiceClient.add_member(AddMemberRequest)),
            Ask::Move(_) => {
                body["container"] = "web".into();
                ask!(ContainerServiceClient.r#move(MoveContainerRequest))
            }
            Ask::ConfirmDown(_) => {
                body["node"] = "node-1".into();
                ask!(NodeServiceClient.confirm_down(ConfirmDownRequest))
            }
            Ask::UpdateSettings(_) => ask!(ClusterServiceClient.update_settings(UpdateSettingsRequest)),
            Ask::Rest(..) => return None,
        };
        Some(answer.map_err(|status| Refusal::of(&Problem::from(&status).json())))
    }
}

/// A row: what is asked, and code, reasons and end of the field that are wanted of the refusal.
pub struct Row {
    pub ask: Ask,
    pub code: &'static str,
    pub reason: &'static str,
    pub field: &'static str,
}

pub fn row(ask: Ask, code: &'static str, reason: &'static str, field: &'static str) -> Row {
    Row { ask, code, reason, field }
}

impl Ground {
    /// Every row through both doors of every member in turn, the leader's and those that pass it on.
    #[track_caller]
    pub fn refuses(&self, rows: Vec<Row>) {
        let mut wrong = Vec::new();
        for (at, Row { ask, code, reason, field }) in rows.into_iter().enumerate() {
            let members = &self.cluster.members;
            let rest = ask.over_rest(&members[at % members.len()]);
            let grpc = ask.over_grpc(&members[(at + 1) % members.len()]);
            for (door, answer) in [("REST", Some(rest.clone())), ("gRPC", grpc.clone())] {
                let Some(answer) = answer else { continue };
                let shown = format!("{door} {ask:?}").chars().take(220).collect::<String>();
                let Err(refusal) = answer else {
                    wrong.push(format!("{shown}: was taken"));
                    continue;
                };
                refusal.is_sound(&shown);
                if (&*refusal.code, &*refusal.reason) != (code, reason) || !refusal.field.ends_with(field) {
                    wrong.push(format!("{shown}: wanted {code} {reason} at {field:?}, got {refusal:?}"));
                }
            }
            if let (Err(rest), Some(Err(grpc))) = (&rest, &grpc)
                && rest != grpc
            {
                wrong.push(format!("{ask:?} is refused in two ways: {rest:?} and {grpc:?}"));
            }
        }
        assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    }

    /// A command line that is refused with this exit code and these words, none of them harmful to a terminal.
    #[track_caller]
    pub fn command_refused(&self, words: &[&str], code: i32, says: &[&str]) {
        let servers = self.cluster.members.iter().map(|member| member.api.as_str()).collect::<Vec<_>>().join(",");
        let ended = run("quoratectl", &[&["--server", &servers], words].concat(), &[]);
        let shown = words.join(" ").chars().take(200).collect::<String>();
        assert_eq!(ended.code, Some(code), "{shown:?}: {ended:?}");
        assert!(!ended.err.contains("panicked"), "{}", ended.err);
        for word in says {
            assert!(ended.err.contains(word), "{shown:?} does not say {word:?}: {}", ended.err);
        }
        has_nothing_hidden(&format!("{shown:?}"), &ended.err);
    }
}

/// Everything but letters and digits as bytes in percent: the way no path can be taken for another one.
fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte.is_ascii_alphanumeric() {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}
