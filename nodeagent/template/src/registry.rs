//! Images from a registry, fetched into an image layout beside the templates.
//! In: a reference. Out: the layout; every document was compared with its digest before it was read, and the blobs are when
//! the layout is. Plain http only from this machine, unless it was allowed: a digest protects what it names, but the first
//! one comes from the registry.

use std::fs::{self, File};
use std::io::Write;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt;
use oci_client::Client;
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::secrets::RegistryAuth;

use crate::digest::Digest;
use crate::error::ImportError;
use crate::image::{self, DOCUMENTS, Descriptor, Document};
use crate::layout::{self, DOCUMENT_MAX};
use crate::policy::Limits;
use crate::progress::{Meter, Phase};
use crate::room;

const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// A registry that sends nothing for so long is gone.
const SILENT_MAX: Duration = Duration::from_secs(30);
/// How often a wait is told of, and may be called off.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const DEPTH_MAX: usize = 4;

/// From whom plain http is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Http {
    /// Registries on this machine; all others by https.
    #[default]
    Loopback,
    /// Whatever is asked, by plain http.
    Allowed,
}

/// Which image of which registry.
#[derive(Debug)]
pub struct Reference {
    image: oci_client::Reference,
    plain: bool,
}

impl Reference {
    /// `host[:port]/name[:tag|@digest]`. The host is always named: there is no registry that everybody means.
    pub fn new(text: &str, http: Http) -> Result<Reference, ImportError> {
        let no_source = |why| ImportError::Source { source_text: text.to_owned(), why };
        let host = text.split_once('/').map(|(host, _)| host).unwrap_or_default();
        if host != "localhost" && !host.contains(['.', ':']) {
            return Err(no_source("give an absolute path, or a reference that begins with the registry's host"));
        }
        let image = text.parse().map_err(|_| no_source("a reference is host[:port]/name[:tag|@digest]"))?;
        Ok(Reference { image, plain: http == Http::Allowed || is_loopback(host) })
    }
}

fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Fetches the image into a new layout at `into`, within `limits`; without its layers if `known` says that its manifest is.
pub fn fetch(
    reference: &Reference,
    into: &Path,
    meter: &Meter<'_>,
    limits: &Limits,
    known: &dyn Fn(&Digest) -> bool,
) -> Result<(), ImportError> {
    // Errs if there is one already, which is as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let protocol = if reference.plain { ClientProtocol::Http } else { ClientProtocol::Https };
    let config = ClientConfig {
        protocol,
        connect_timeout: Some(CONNECT_WITHIN),
        read_timeout: Some(SILENT_MAX),
        user_agent: concat!("quorate/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    };
    let client = Client::try_from(config).map_err(failed("make a client for", reference.image.registry()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(ImportError::io("start threads for", into))?;
    let fetching = Fetching { client, reference, into, meter };
    runtime.block_on(async {
        tokio::select! {
            done = fetching.all(limits, known) => done,
            error = called_off(meter) => Err(error),
        }
    })
}

/// Ends when the import is called off.
async fn called_off(meter: &Meter<'_>) -> ImportError {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        meter.bytes(0);
        if let Err(error) = meter.go_on() {
            return error;
        }
    }
}

struct Fetching<'a, 'm> {
    client: Client,
    reference: &'a Reference,
    into: &'a Path,
    meter: &'a Meter<'m>,
}

impl Fetching<'_, '_> {
    async fn all(&self, limits: &Limits, known: &dyn Fn(&Digest) -> bool) -> Result<(), ImportError> {
        let blobs = self.into.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(ImportError::io("make folder", &blobs))?;
        self.write(layout::MARK, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let mut image = self.reference.image.clone();
        let mut is_first = true;
        for _ in 0..=DEPTH_MAX {
            let (text, digest) = self.manifest(&image).await?;
            self.write(&layout::blob(&digest), &text)?;
            let document = Document::read(&text, &format!("manifest {digest}"))?;
            if is_first {
                self.write(layout::INDEX, index(&text, &digest, &document).as_bytes())?;
                is_first = false;
            }
            match document {
                Document::Index(manifests) => {
                    let chosen = image::choose(&manifests)?.digest()?;
                    image = image.clone_with_digest(chosen.to_string());
                }
                Document::Manifest { config, layers } => {
                    if config.size > DOCUMENT_MAX {
                        return Err(ImportError::TooMuch { what: "bytes of a configuration", max: DOCUMENT_MAX });
                    }
                    let wanted = if known(&digest) { &[][..] } else { &layers[..] };
                    let bytes = wanted.iter().fold(config.size, |sum, layer| sum.saturating_add(layer.size));
                    if bytes > limits.bytes {
                        return Err(ImportError::TooMuch { what: "bytes of layers", max: limits.bytes });
                    }
                    // Fetched first and unpacked then: both are there for a while.
                    room::ensure(self.into, bytes.saturating_mul(2), limits)?;
                    self.meter.phase(Phase::Fetching, bytes)?;
                    for blob in [&config].into_iter().chain(wanted) {
                        self.blob(blob).await?;
                    }
                    return Ok(());
                }
            }
        }
        Err(ImportError::Image(format!("more than {DEPTH_MAX} indexes within each other")))
    }

    async fn manifest(&self, image: &oci_client::Reference) -> Result<(Vec<u8>, Digest), ImportError> {
        let name = image.whole();
        let pulled = self.client.pull_manifest_raw(image, &RegistryAuth::Anonymous, &DOCUMENTS).await;
        let (text, _) = pulled.map_err(failed("fetch manifest of", &name))?;
        if text.len() as u64 > DOCUMENT_MAX {
            return Err(ImportError::TooMuch { what: "bytes of a manifest", max: DOCUMENT_MAX });
        }
        let found = Digest::of(&text);
        if let Some(asked) = image.digest() {
            let wanted = asked.parse().map_err(|source| ImportError::NoDigest { what: name.clone(), source })?;
            if wanted != found {
                return Err(ImportError::Digest { what: format!("manifest of {name}"), wanted, found });
            }
        }
        Ok((text.to_vec(), found))
    }

    async fn blob(&self, blob: &Descriptor) -> Result<(), ImportError> {
        let digest = blob.digest()?;
        let path = self.into.join(layout::blob(&digest));
        let name = digest.to_string();
        let stream = self.client.pull_blob_stream(&self.reference.image, name.as_str()).await;
        let mut stream = stream.map_err(failed("fetch blob", &name))?.stream;
        let mut file = File::create(&path).map_err(ImportError::io("make", &path))?;
        let mut found = 0;
        while let Some(part) = stream.next().await {
            let part = part.map_err(failed("fetch blob", &name))?;
            found += part.len() as u64;
            if found > blob.size {
                return Err(ImportError::Size { what: format!("blob {name}"), wanted: blob.size, found });
            }
            file.write_all(&part).map_err(ImportError::io("write", &path))?;
            self.meter.bytes(part.len() as u64);
            self.meter.go_on()?;
        }
        Ok(())
    }

    fn write(&self, path: &str, text: &[u8]) -> Result<(), ImportError> {
        let path = self.into.join(path);
        fs::write(&path, text).map_err(ImportError::io("write", &path))
    }
}

/// An index of the one document that was asked for.
fn index(text: &[u8], digest: &Digest, document: &Document) -> String {
    let media_type = match document {
        Document::Index(_) => DOCUMENTS[0],
        Document::Manifest { .. } => DOCUMENTS[2],
    };
    let (digest, size) = (digest.to_string(), text.len());
    let manifest = serde_json::json!({ "mediaType": media_type, "digest": digest, "size": size });
    serde_json::json!({ "schemaVersion": 2, "manifests": [manifest] }).to_string()
}

fn failed<E>(operation: &'static str, what: &str) -> impl FnOnce(E) -> ImportError
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    move |error| ImportError::Registry { operation, what: what.to_owned(), source: error.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_this_machine_or_was_asked_for() {
        let plain = |text, http| Reference::new(text, http).expect("a reference").plain;
        for local in ["localhost:5000/a:1", "127.0.0.1:5000/a", "127.8.0.1/b/c:2", "localhost/a"] {
            assert!(plain(local, Http::Loopback), "{local}");
        }
        assert!(!plain("registry.example:5000/a", Http::Loopback));
        assert!(!plain("127.0.0.1.example/a", Http::Loopback));
        assert!(plain("registry.example:5000/a", Http::Allowed));
    }

    #[test]
    fn references_name_their_registry() {
        for bad in ["debian", "debian:12", "library/debian", "a/b/c", "./folder", "registry.example/UPPER", "host:1/"] {
            assert!(Reference::new(bad, Http::Loopback).is_err(), "{bad}");
        }
    }
}
