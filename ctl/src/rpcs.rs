//! The methods of the public API with one answer, by their request: the only place that names the generated clients.
//! In: requests. Out: for each the reply it gets, its name, where its request id goes. Absent: streams, but for their names.

use std::future::Future;
use std::time::Duration;

use proto::v1;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

/// A reply may be so large: a page of containers with all their words.
pub const REPLY_MAX: usize = 64 << 20;

/// A request that has one answer.
pub trait Ask: Clone {
    type Reply;

    /// Where its request id goes; `None` for a question that changes nothing, and for a batch, whose items have their own.
    fn request_id(&mut self) -> Option<&mut String>;

    /// Makes the call once; the server is told to give up `within` that time.
    fn send(self, channel: Channel, within: Duration) -> impl Future<Output = Result<Response<Self::Reply>, Status>>;
}

/// A question whose answer comes in pages.
pub trait AskPaged: Ask {
    fn page(&mut self) -> &mut Option<v1::PageRequest>;
    /// The token of the page after this one; empty at the end.
    fn next_token(reply: &Self::Reply) -> &str;
    /// Adds the items of the page that follows.
    fn append(whole: &mut Self::Reply, page: Self::Reply);
}

macro_rules! rpcs {
    ($($client:path {
        $($kind:ident $method:ident($request:ident) -> $reply:ident;)*
    })*) => {
        $($(impl Ask for v1::$request {
            type Reply = v1::$reply;

            fn request_id(&mut self) -> Option<&mut String> {
                rpcs!(@$kind self)
            }

            async fn send(self, channel: Channel, within: Duration) -> Result<Response<v1::$reply>, Status> {
                let mut request = Request::new(self);
                request.set_timeout(within);
                <$client>::new(channel).max_decoding_message_size(REPLY_MAX).$method(request).await
            }
        })*)*
    };
    (@asks $request:ident) => { None };
    (@does $request:ident) => { Some(&mut $request.request_id) };
}

rpcs! {
    v1::cluster_service_client::ClusterServiceClient<Channel> {
        asks status(StatusRequest) -> StatusReply;
        asks get_settings(GetSettingsRequest) -> GetSettingsReply;
        does update_settings(UpdateSettingsRequest) -> UpdateSettingsReply;
        does init(InitRequest) -> InitReply;
        does add_member(AddMemberRequest) -> AddMemberReply;
        does enrol(EnrolRequest) -> EnrolReply;
        does remove_member(RemoveMemberRequest) -> Change;
        does transfer_leader(TransferLeaderRequest) -> TransferLeaderReply;
        asks quorum(QuorumRequest) -> QuorumReply;
        does release_brake(ReleaseBrakeRequest) -> Change;
        does rejoin(RejoinRequest) -> RejoinReply;
    }
    v1::node_service_client::NodeServiceClient<Channel> {
        does join(JoinRequest) -> JoinReply;
        asks list(ListNodesRequest) -> ListNodesReply;
        asks get(GetNodeRequest) -> GetNodeReply;
        does set_role(SetNodeRoleRequest) -> Change;
        does cordon(CordonRequest) -> Change;
        does maintain(MaintainRequest) -> Change;
        does uncordon(UncordonRequest) -> Change;
        does drain(DrainRequest) -> Change;
        does r#return(ReturnRequest) -> Change;
        does leave(LeaveNodeRequest) -> Change;
        does confirm_down(ConfirmDownRequest) -> Change;
        does remove(RemoveNodeRequest) -> Change;
    }
    v1::template_service_client::TemplateServiceClient<Channel> {
        does register(RegisterTemplateRequest) -> Change;
        does remove(RemoveTemplateRequest) -> Change;
        asks list(ListTemplatesRequest) -> ListTemplatesReply;
        asks inventory(TemplateInventoryRequest) -> TemplateInventoryReply;
        does discard(DiscardTemplateRequest) -> DiscardTemplateReply;
    }
    v1::storage_service_client::StorageServiceClient<Channel> {
        does register(RegisterStorageRequest) -> Change;
        does remove(RemoveStorageRequest) -> Change;
        asks get(GetStorageRequest) -> GetStorageReply;
        asks list(ListStoragesRequest) -> ListStoragesReply;
    }
    v1::container_service_client::ContainerServiceClient<Channel> {
        does create(CreateContainerRequest) -> CreateContainerReply;
        asks batch_create(BatchCreateContainersRequest) -> BatchCreateContainersReply;
        asks list(ListContainersRequest) -> ListContainersReply;
        asks get(GetContainerRequest) -> GetContainerReply;
        does start(StartContainerRequest) -> Change;
        does stop(StopContainerRequest) -> Change;
        does restart(RestartContainerRequest) -> Change;
        does r#move(MoveContainerRequest) -> Change;
        does delete(DeleteContainerRequest) -> Change;
        asks why(WhyRequest) -> WhyReply;
        does annotate(AnnotateContainerRequest) -> Change;
        does set_on_quorum_loss(SetOnQuorumLossRequest) -> Change;
        asks batch_annotate(BatchAnnotateContainersRequest) -> BatchAnnotateContainersReply;
    }
    v1::event_service_client::EventServiceClient<Channel> {
        asks list(ListEventsRequest) -> ListEventsReply;
    }
}

/// The streams from the server; [`crate::client::Client`] speaks them.
pub const WATCH: &str = "EventService.Watch";
pub const IMPORT: &str = "TemplateService.Import";
pub const VERIFY: &str = "TemplateService.Verify";
pub const SYNC: &str = "TemplateService.Sync";

macro_rules! paged {
    ($($request:ident: $items:ident;)*) => {
        $(impl AskPaged for v1::$request {
            fn page(&mut self) -> &mut Option<v1::PageRequest> {
                &mut self.page
            }

            fn next_token(reply: &Self::Reply) -> &str {
                reply.page.as_ref().map_or("", |page| &page.next_token)
            }

            fn append(whole: &mut Self::Reply, page: Self::Reply) {
                let items = std::mem::take(&mut whole.$items);
                *whole = page;
                let page = std::mem::replace(&mut whole.$items, items);
                whole.$items.extend(page);
            }
        })*
    };
}

paged! {
    ListNodesRequest: nodes;
    ListTemplatesRequest: templates;
    TemplateInventoryRequest: templates;
    ListStoragesRequest: storages;
    ListContainersRequest: containers;
    ListEventsRequest: events;
}
