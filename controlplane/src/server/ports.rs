//! The two ports: how they are bound, what one connection may ask of them, and the services that describe the others.
//! Absent: what is served there; the composition root puts that together.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use tonic::service::Routes;
use tonic::transport::Server as Http;
use tonic::transport::server::TcpIncoming;
use tracing::error;

use super::ServerError;
use crate::runtime::chain;

/// An HTTP/2 connection that says nothing is asked whether it lives.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// Streams of one connection: a client with more opens another connection.
const STREAMS_PER_CONNECTION: u32 = 4_096;
/// Small: what an agent may have under way on its connection; memory per agent rests on it.
pub(super) const AGENT_WINDOW: u32 = 256 << 10;

pub(super) fn bind(key: &'static str, address: SocketAddr) -> Result<TcpListener, ServerError> {
    TcpListener::bind(address).map_err(|source| match source.kind() {
        std::io::ErrorKind::AddrInUse => ServerError::PortInUse { key, address },
        _ => ServerError::Listen { key, address, source },
    })
}

/// On the runtime that calls it.
pub(super) fn incoming(listener: TcpListener) -> Result<TcpIncoming, std::io::Error> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    Ok(TcpIncoming::from(listener).with_nodelay(Some(true)))
}

pub(super) fn http(window: Option<u32>) -> Http {
    Http::builder()
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .initial_stream_window_size(window.or(Some(1 << 20)))
        .initial_connection_window_size(window.map(|window| window * 2).or(Some(4 << 20)))
}

/// gRPC's own services: health and reflection.
pub(super) fn describing<H>(health: tonic_health::pb::health_server::HealthServer<H>) -> Routes
where
    H: tonic_health::pb::health_server::Health,
{
    let described = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    Routes::new(health)
        .add_service(described().build_v1().expect("the descriptor sets were made by the build"))
        .add_service(described().build_v1alpha().expect("the descriptor sets were made by the build"))
}

pub(super) fn said_end(port: &str, served: Result<(), tonic::transport::Error>) {
    if let Err(error) = served {
        error!(port, error = %chain(&error), "a port is served no more");
    }
}
