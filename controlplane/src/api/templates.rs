//! Templates: registered objects that containers are made of.

use proto::convert::view;
use proto::v1;
use proto::v1::template_service_server::TemplateService;
use tonic::{Request, Response, Status};

use super::door::Door;
use super::imports::{self, Replies};
use super::page::Page;
use super::{change, copies, syncs};

#[derive(Clone)]
pub struct Templates(pub Door);

#[tonic::async_trait]
impl TemplateService for Templates {
    async fn register(&self, call: Request<v1::RegisterTemplateRequest>) -> Result<Response<v1::Change>, Status> {
        self.0.mutate(call, "/quorate.v1.TemplateService/Register", change).await
    }

    type ImportStream = Replies;

    async fn import(&self, call: Request<v1::ImportTemplateRequest>) -> Result<Response<Replies>, Status> {
        imports::import(&self.0, call).await
    }

    type VerifyStream = copies::Replies;

    async fn verify(&self, call: Request<v1::VerifyTemplateRequest>) -> Result<Response<copies::Replies>, Status> {
        copies::verify(&self.0, call).await
    }

    type SyncStream = syncs::Replies;

    async fn sync(&self, call: Request<v1::SyncTemplatesRequest>) -> Result<Response<syncs::Replies>, Status> {
        syncs::sync(&self.0, call).await
    }

    async fn inventory(
        &self,
        call: Request<v1::TemplateInventoryRequest>,
    ) -> Result<Response<v1::TemplateInventoryReply>, Status> {
        copies::inventory(&self.0, call).await
    }

    async fn discard(
        &self,
        call: Request<v1::DiscardTemplateRequest>,
    ) -> Result<Response<v1::DiscardTemplateReply>, Status> {
        copies::discard(&self.0, call).await
    }

    async fn remove(&self, call: Request<v1::RemoveTemplateRequest>) -> Result<Response<v1::Change>, Status> {
        self.0.mutate(call, "/quorate.v1.TemplateService/Remove", change).await
    }

    async fn list(&self, call: Request<v1::ListTemplatesRequest>) -> Result<Response<v1::ListTemplatesReply>, Status> {
        self.0
            .look(
                call,
                "/quorate.v1.TemplateService/List",
                |asked| asked.stale,
                |_, state, asked| {
                    let page = Page::of(asked.page.as_ref(), "templates")?;
                    let after = |name: &str| page.after.as_deref().is_none_or(|after| name > after);
                    let found = state.templates().filter(|template| after(template.name.as_str()));
                    let mut templates: Vec<_> =
                        found.take(page.size + 1).map(|template| view::template_where(state, template)).collect();
                    let page = page.cut(&mut templates, |template| template.name.clone());
                    Ok(v1::ListTemplatesReply { templates, page: Some(page), revision: state.revision().0 })
                },
            )
            .await
    }
}
