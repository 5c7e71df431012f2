//! Storages: registered places of private areas.

use proto::convert::{request, view};
use proto::v1;
use proto::v1::storage_service_server::StorageService;
use tonic::{Request, Response, Status};

use super::change;
use super::door::Door;
use super::page::Page;

#[derive(Clone)]
pub struct Storages(pub Door);

#[tonic::async_trait]
impl StorageService for Storages {
    async fn register(&self, call: Request<v1::RegisterStorageRequest>) -> Result<Response<v1::Change>, Status> {
        self.0.mutate(call, "/quorate.v1.StorageService/Register", change).await
    }

    async fn remove(&self, call: Request<v1::RemoveStorageRequest>) -> Result<Response<v1::Change>, Status> {
        self.0.mutate(call, "/quorate.v1.StorageService/Remove", change).await
    }

    async fn get(&self, call: Request<v1::GetStorageRequest>) -> Result<Response<v1::GetStorageReply>, Status> {
        self.0
            .look(
                call,
                "/quorate.v1.StorageService/Get",
                |asked| asked.stale,
                |_, state, asked| {
                    let storage = request::storage(state, "storage", &asked.storage)?;
                    let findings = view::storage_findings(state, &storage.name);
                    let storage = v1::Storage { findings, ..view::storage(state, storage) };
                    Ok(v1::GetStorageReply { storage: Some(storage), revision: state.revision().0 })
                },
            )
            .await
    }

    async fn list(&self, call: Request<v1::ListStoragesRequest>) -> Result<Response<v1::ListStoragesReply>, Status> {
        self.0
            .look(
                call,
                "/quorate.v1.StorageService/List",
                |asked| asked.stale,
                |_, state, asked| {
                    let page = Page::of(asked.page.as_ref(), "storages")?;
                    let after = |name: &str| page.after.as_deref().is_none_or(|after| name > after);
                    let found = state.storages().filter(|storage| after(storage.name.as_str()));
                    let mut storages: Vec<_> =
                        found.take(page.size + 1).map(|storage| view::storage(state, storage)).collect();
                    let page = page.cut(&mut storages, |storage| storage.name.clone());
                    Ok(v1::ListStoragesReply { storages, page: Some(page), revision: state.revision().0 })
                },
            )
            .await
    }
}
