//! Nodes: joining, looking, what operators want with them.

use cluster::apply::Done;
use cluster::{Command, NodeId};
use proto::convert::request::{self, confirm_down_begins, join_node, said_as};
use proto::convert::view;
use proto::v1::node_service_server::NodeService;
use proto::{Problem, v1};
use tonic::{Code, Request, Response, Status};

use super::change;
use super::door::{Door, Failure, Manners, id_of, sight};
use super::error::{self, status};
use super::page::Page;
use crate::secret::Secret;
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
        let repeatable = !call.get_ref().request_id.is_empty();
        self.0
            .led(manners, path!("Join"), repeatable, call.into_inner(), |seated, asked| async move {
                join(&seated, asked).await
            })
            .await
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
                    let node = view::node(state, node, sight(&seated.handle)(node.id));
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
                ask_to_leave(&seated, node.id, node.name.as_str())?;
                Ok(v1::Change { revision: state.revision().0 })
            })
            .await
    }

    /// The operator's word closes a fencing; where none is open it opens one first.
    async fn confirm_down(&self, call: Request<v1::ConfirmDownRequest>) -> Result<Response<v1::Change>, Status> {
        let manners = Manners::of(call.metadata());
        let asked = call.into_inner();
        let id = id_of(&asked).map_err(status)?;
        self.0
            .led(
                manners,
                path!("ConfirmDown"),
                id.is_some(),
                asked,
                move |seated, asked: v1::ConfirmDownRequest| async move {
                    let state = seated.handle.read().await?;
                    // What is wrong with the request itself is found before anything is begun.
                    request::Mutation::command(asked.clone(), &state).map_err(Problem::from)?;
                    if let Some(begin) = confirm_down_begins(&asked, &state).map_err(Problem::from)? {
                        // Refused where it was begun meanwhile, or is over; the receipt then says which.
                        seated.handle.propose(None, begin).await?;
                    }
                    let applied = super::door::change(&seated.handle, id, asked).await?;
                    let refused = |refusal| error::refused(&refusal, said_as, &seated.handle.view());
                    let done = applied.outcome.map_err(refused)?;
                    Ok(change(done, applied.revision))
                },
            )
            .await
    }

    async fn remove(&self, call: Request<v1::RemoveNodeRequest>) -> Result<Response<v1::Change>, Status> {
        self.0.mutate(call, path!("Remove"), change).await
    }
}

/// Registers a machine. On the leader only.
pub async fn join(seated: &Seated, asked: v1::JoinRequest) -> Result<v1::JoinReply, Failure> {
    let id = match asked.request_id.as_str() {
        "" => None,
        text => Some(request::request_id(text).map_err(Problem::from)?),
    };
    let secret = seated.secrets.for_request(id);
    let command: Command = join_node(asked, secret.hash()).map_err(Problem::from)?;
    let applied = seated.handle.propose(id, command).await?;
    let node = match applied.outcome {
        Ok(Done::Node(node)) => node,
        Ok(_) => return Err(wrong_answer()),
        Err(refusal) => return Err(Failure::Final(error::refused(&refusal, said_as, &seated.handle.view()))),
    };
    let view = seated.handle.view();
    let state = view.state.as_ref().ok_or(Failure::Moved)?;
    let secret = keeps(state.node(node).map(|node| node.secret), secret)?;
    Ok(v1::JoinReply {
        node: node.to_string(),
        secret: secret.hex(),
        cluster_id: state.cluster().to_string(),
        generation: state.generation().0,
        members: state.members().map(|member| member.peer_address.to_string()).collect(),
        revision: applied.revision.0,
    })
}

/// The secret, if it is the one the state knows the hash of. A repetition that another leader answers cannot give the
/// first answer again: the secret was said once and is kept nowhere.
pub fn keeps(known: Option<cluster::SecretHash>, secret: Secret) -> Result<Secret, Failure> {
    if known == Some(secret.hash()) {
        return Ok(secret);
    }
    let problem =
        Problem::new(Code::FailedPrecondition, "secret-said", "this was done already, and its secret was said then")
            .hint("if the first answer is lost, remove it and join again under the same name");
    Err(Failure::Final(problem))
}

pub fn wrong_answer() -> Failure {
    Failure::Final(Problem::new(
        Code::InvalidArgument,
        "request-id-reused",
        "this request id was used for another kind of request before",
    ))
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
