//! Nodes: joining, looking, what operators want with them.

use std::sync::Arc;

use cluster::apply::Done;
use cluster::{Command, Health, Name, NodeId, RequestId};
use proto::convert::request::{self, confirm_down_begins, join_node, said_as};
use proto::convert::view;
use proto::v1::node_service_server::NodeService;
use proto::{Problem, v1};
use tonic::{Code, Request, Response, Status};

use super::change;
use super::door::{Door, Failure, Identity, Manners, sight};
use super::error;
use super::page::Page;
use crate::standing::Seated;

#[derive(Clone)]
pub struct Nodes(pub Door);

macro_rules! path {
    ($method:literal) => {
        concat!("/quorate.v1.NodeService/", $method)
    };
}

#[tonic::async_trait]
impl NodeService for Nodes {
    async fn join(&self, call: Request<v1::JoinRequest>) -> Result<Response<v1::JoinReply>, Status> {
        let manners = Manners::of(call.metadata());
        let mut asked = call.into_inner();
        let identity = Identity::of(&mut asked, &self.0)?;
        let id = identity.id;
        let joined = |seated: Arc<Seated>, asked| async move { join(&seated, id, asked).await };
        identity.said(self.0.led(manners, path!("Join"), true, asked, joined).await)
    }

    async fn list(&self, call: Request<v1::ListNodesRequest>) -> Result<Response<v1::ListNodesReply>, Status> {
        self.0
            .look(
                call,
                path!("List"),
                |asked| asked.stale,
                |seated, state, asked| {
                    let (role, health) = (asked.role(), asked.health());
                    let page = Page::of(asked.page.as_ref(), &format!("nodes {role:?} {health:?}"))?;
                    let sight = sight(&seated.handle);
                    let mut found: Vec<_> = state.nodes().collect();
                    found.sort_unstable_by(|one, other| one.name.cmp(&other.name));
                    let shown = found
                        .into_iter()
                        .filter(|node| page.after.as_deref().is_none_or(|after| node.name.as_str() > after))
                        .map(|node| view::node(state, node, sight(node.id)))
                        .filter(|node| role == v1::NodeRole::Unspecified || node.role() == role)
                        .filter(|node| health == v1::NodeHealth::Unspecified || node.health() == health);
                    let mut nodes: Vec<v1::Node> = shown.take(page.size + 1).collect();
                    let page = page.cut(&mut nodes, |node| node.name.clone());
                    Ok(v1::ListNodesReply { nodes, page: Some(page), revision: state.revision().0 })
                },
            )
            .await
    }

    async fn get(&self, call: Request<v1::GetNodeRequest>) -> Result<Response<v1::GetNodeReply>, Status> {
        self.0
            .look(
                call,
                path!("Get"),
                |asked| asked.stale,
                |seated, state, asked| {
                    let node = request::node(state, "node", &asked.node)?;
                    let report = view::node_report(state, node);
                    let containers_bound = view::containers_bound(state, node);
                    let node = v1::Node {
                        report,
                        containers_bound,
                        ..view::node(state, node, sight(&seated.handle)(node.id))
                    };
                    Ok(v1::GetNodeReply { node: Some(node), revision: state.revision().0 })
                },
            )
            .await
    }

    async fn set_role(&self, call: Request<v1::SetNodeRoleRequest>) -> Result<Response<v1::Change>, Status> {
        self.0.mutate(call, path!("SetRole"), change).await
    }

    async fn cordon(&self, call: Request<v1::CordonRequest>) -> Result<Response<v1::Change>, Status> {
        self.0.mutate(call, path!("Cordon"), change).await
    }

    async fn maintain(&self, call: Request<v1::MaintainRequest>) -> Result<Response<v1::Change>, Status> {
        self.0.mutate(call, path!("Maintain"), change).await
    }

    async fn uncordon(&self, call: Request<v1::UncordonRequest>) -> Result<Response<v1::Change>, Status> {
        self.0.mutate(call, path!("Uncordon"), change).await
    }

    async fn drain(&self, call: Request<v1::DrainRequest>) -> Result<Response<v1::Change>, Status> {
        self.0.mutate(call, path!("Drain"), change).await
    }

    async fn r#return(&self, call: Request<v1::ReturnRequest>) -> Result<Response<v1::Change>, Status> {
        self.0.mutate(call, path!("Return"), change).await
    }

    async fn leave(&self, call: Request<v1::LeaveNodeRequest>) -> Result<Response<v1::Change>, Status> {
        let manners = Manners::of(call.metadata());
        self.0
            .led(manners, path!("Leave"), true, call.into_inner(), |seated, asked: v1::LeaveNodeRequest| async move {
                let state = seated.handle.read().await?;
                let node = request::node(&state, "node", &asked.node).map_err(Problem::from)?;
                if node.health == Health::Joined {
                    return Err(Failure::Final(never_seen(&node.name)));
                }
                ask_to_leave(&seated, node.id, node.name.as_str())?;
                Ok(v1::Change { revision: state.revision().0 })
            })
            .await
    }

    /// The operator's word closes a fencing; where none is open it opens one first.
    async fn confirm_down(&self, call: Request<v1::ConfirmDownRequest>) -> Result<Response<v1::Change>, Status> {
        let manners = Manners::of(call.metadata());
        let mut asked = call.into_inner();
        let identity = Identity::of(&mut asked, &self.0)?;
        let id = identity.id;
        let confirmed = move |seated: Arc<Seated>, asked: v1::ConfirmDownRequest| async move {
            let state = seated.handle.read().await?;
            // What is wrong with the request itself is found before anything is begun.
            request::Mutation::command(asked.clone(), &state).map_err(Problem::from)?;
            let node = request::node(&state, "node", &asked.node).map_err(Problem::from)?;
            if node.health == Health::Joined {
                return Err(Failure::Final(never_seen(&node.name)));
            }
            if let Some(begin) = confirm_down_begins(&asked, &state).map_err(Problem::from)? {
                // Refused where it was begun meanwhile, or is over; the receipt then says which.
                seated.handle.propose(None, begin).await?;
            }
            let applied = super::door::change(&seated.handle, id, asked).await?;
            let refused = |refusal| error::refused(&refusal, said_as, &seated.handle.view());
            Ok(change(applied.outcome.map_err(refused)?, applied.revision))
        };
        identity.said(self.0.led(manners, path!("ConfirmDown"), true, asked, confirmed).await)
    }

    async fn remove(&self, call: Request<v1::RemoveNodeRequest>) -> Result<Response<v1::Change>, Status> {
        self.0.mutate(call, path!("Remove"), change).await
    }
}

/// Registers a machine. On the leader only.
pub async fn join(seated: &Seated, id: RequestId, asked: v1::JoinRequest) -> Result<v1::JoinReply, Failure> {
    let secret = seated.secrets.for_request(id);
    let command: Command = join_node(asked, secret.hash()).map_err(Problem::from)?;
    let applied = seated.handle.propose(Some(id), command).await?;
    let node = match applied.outcome {
        Ok(Done::Node(node)) => node,
        Ok(_) => return Err(wrong_answer()),
        Err(refusal) => return Err(Failure::Final(error::refused(&refusal, said_as, &seated.handle.view()))),
    };
    let view = seated.handle.view();
    let state = view.state.as_ref().ok_or(Failure::Moved)?;
    let secret = match state.node(node) {
        Some(known) if known.secret == secret.hash() => secret,
        known => return Err(said_before("node", known.map(|known| &known.name), "node remove", "join")),
    };
    Ok(v1::JoinReply {
        node: node.to_string(),
        secret: secret.hex(),
        cluster_id: state.cluster().to_string(),
        generation: state.generation().number,
        generation_id: super::cluster::drawn(state.generation()),
        members: state.members().map(|member| member.peer_address.to_string()).collect(),
        revision: applied.revision.0,
    })
}

/// A repetition that another leader answers cannot give the first answer again: the secret was said once and is kept
/// nowhere. `name` of the `kind` of thing that was made then, if it is still there; `remove` and `again`: the verbs that help.
pub fn said_before(kind: &str, name: Option<&Name>, remove: &str, again: &str) -> Failure {
    let (text, hint) = match name {
        Some(name) => (
            format!("this request made {kind} {name} before; its secret was said then, and is kept nowhere"),
            format!(
                "if that answer is lost: `quoratectl {remove} {name}`, then {again} it again under a new request id"
            ),
        ),
        None => (
            format!("this request made a {kind} before, which is gone since; its secret was said then"),
            format!("{again} it again under a new request id"),
        ),
    };
    Failure::Final(Problem::new(Code::FailedPrecondition, "secret-said", text).hint(hint))
}

pub fn wrong_answer() -> Failure {
    Failure::Final(Problem::new(
        Code::InvalidArgument,
        "request-id-reused",
        "this request id was used for another kind of request before",
    ))
}

/// Nobody's word is needed about a machine whose agent has never spoken.
fn never_seen(name: &Name) -> Problem {
    let text = format!("{name} has never registered: nothing of it runs, so there is nothing to leave or to confirm");
    Problem::new(Code::FailedPrecondition, "never-registered", text)
        .hint(format!("`quoratectl node remove {name}` forgets it"))
}

fn ask_to_leave(seated: &Seated, node: NodeId, name: &str) -> Result<(), Problem> {
    if seated.sessions.ask_to_leave(node) {
        return Ok(());
    }
    Err(Problem::new(
        Code::FailedPrecondition,
        "not-connected",
        format!("the agent of {name} has no session with the leader"),
    )
    .hint("if the machine is off, say so with `quoratectl node confirm-down`"))
}
