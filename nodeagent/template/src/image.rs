//! What the documents of an OCI image say: indexes, manifests, configurations. Docker's own names for the same are taken too.
//! In: JSON that was verified by its digest. Out: which manifest is for this machine, its layers, how it wants to be run.

use serde::Deserialize;

use crate::compression::Compression;
use crate::digest::Digest;
use crate::error::ImportError;

const INDEX: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
const MANIFEST: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
const CONFIG: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
const LAYERS: [(&str, Compression); 5] = [
    ("application/vnd.oci.image.layer.v1.tar", Compression::Plain),
    ("application/vnd.oci.image.layer.v1.tar+gzip", Compression::Gzip),
    ("application/vnd.oci.image.layer.v1.tar+zstd", Compression::Zstd),
    ("application/vnd.docker.image.rootfs.diff.tar", Compression::Plain),
    ("application/vnd.docker.image.rootfs.diff.tar.gzip", Compression::Gzip),
];

/// What is asked of a registry.
pub const DOCUMENTS: [&str; 4] = [INDEX[0], INDEX[1], MANIFEST[0], MANIFEST[1]];
/// The kind of image that runs on these nodes.
const OS: &str = "linux";
/// More layers than any image has; each costs a pass over what is there.
const LAYERS_MAX: usize = 512;

/// How an image wants to be run where nobody says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, Deserialize)]
pub struct Image {
    /// Entry point and arguments; empty where it says nothing.
    pub command: Vec<String>,
    /// `NAME=value`, in order.
    pub env: Vec<String>,
    /// Empty means the root.
    pub working_dir: String,
    /// Whom it wants to run as; empty and `root` mean root.
    pub user: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    pub media_type: String,
    pub digest: String,
    pub size: u64,
    platform: Option<Platform>,
}

#[derive(Clone, Debug, Deserialize)]
struct Platform {
    os: String,
    architecture: String,
}

impl Descriptor {
    pub fn digest(&self) -> Result<Digest, ImportError> {
        let what = format!("the digest of a {}", self.media_type);
        self.digest.parse().map_err(|source| ImportError::NoDigest { what, source })
    }

    fn is(&self, media_types: &[&str]) -> bool {
        media_types.contains(&self.media_type.as_str())
    }
}

/// An index or a manifest.
pub enum Document {
    Index(Vec<Descriptor>),
    Manifest { config: Descriptor, layers: Vec<Descriptor> },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Either {
    media_type: Option<String>,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

impl Document {
    /// What `text` says, which `what` names for errors.
    pub fn read(text: &[u8], what: &str) -> Result<Document, ImportError> {
        let json = |source| ImportError::Json { what: what.to_owned(), source };
        let said: Either = serde_json::from_slice(text).map_err(json)?;
        if let Some(found) = said.media_type.filter(|said| !DOCUMENTS.contains(&said.as_str())) {
            return Err(ImportError::MediaType { what: what.to_owned(), found });
        }
        match (said.manifests, said.config, said.layers) {
            (Some(manifests), None, None) => Ok(Document::Index(manifests)),
            (None, Some(config), Some(layers)) => {
                check(&config, &layers)?;
                Ok(Document::Manifest { config, layers })
            }
            _ => Err(ImportError::Image(format!("{what} is neither an index nor a manifest"))),
        }
    }
}

fn check(config: &Descriptor, layers: &[Descriptor]) -> Result<(), ImportError> {
    if !config.is(&CONFIG) {
        return Err(ImportError::MediaType { what: "the configuration".into(), found: config.media_type.clone() });
    }
    if layers.len() > LAYERS_MAX {
        return Err(ImportError::TooMuch { what: "layers", max: LAYERS_MAX as u64 });
    }
    layers.iter().try_for_each(|layer| compression(layer).map(drop))
}

pub fn compression(layer: &Descriptor) -> Result<Compression, ImportError> {
    let known = LAYERS.iter().find(|(media_type, _)| *media_type == layer.media_type);
    known.map(|(_, compression)| *compression).ok_or_else(|| ImportError::MediaType {
        what: format!("layer {}", layer.digest),
        found: layer.media_type.clone(),
    })
}

/// The one of `manifests` that is for this machine. One that does not say what it is for is taken if it is alone; its
/// configuration says it too.
pub fn choose(manifests: &[Descriptor]) -> Result<&Descriptor, ImportError> {
    let usable: Vec<&Descriptor> =
        manifests.iter().filter(|manifest| manifest.is(&INDEX) || manifest.is(&MANIFEST)).collect();
    if let (true, Some(first)) = (usable.is_empty(), manifests.first()) {
        return Err(ImportError::MediaType { what: "a manifest".into(), found: first.media_type.clone() });
    }
    let ours = |manifest: &&&Descriptor| {
        manifest.platform.as_ref().is_some_and(|it| it.os == OS && it.architecture == architecture())
    };
    let fitting: Vec<&&Descriptor> = usable.iter().filter(ours).collect();
    match (fitting.as_slice(), usable.as_slice()) {
        ([one], _) => Ok(one),
        ([], [one]) if one.platform.is_none() => Ok(one),
        ([], _) => {
            let others = usable.iter().filter_map(|manifest| manifest.platform.as_ref());
            let found: Vec<String> = others.map(|it| format!("{}/{}", it.os, it.architecture)).collect();
            let found = if found.is_empty() { "what it does not say".to_owned() } else { found.join(", ") };
            Err(ImportError::Platform { wanted: architecture(), found })
        }
        (several, _) => {
            let several: Vec<&str> = several.iter().map(|manifest| manifest.digest.as_str()).collect();
            Err(ImportError::Image(format!("several manifests are for this machine: {}", several.join(", "))))
        }
    }
}

/// This machine's, by the name that images use.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[derive(Deserialize)]
struct Configuration {
    os: String,
    architecture: String,
    rootfs: RootFs,
    config: Option<Defaults>,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Defaults {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
}

/// What the configuration says: how it is run, and the digests of its layers as they are before compression.
pub fn configuration(text: &[u8]) -> Result<(Image, Vec<Digest>), ImportError> {
    let json = |source| ImportError::Json { what: "the configuration".into(), source };
    let said: Configuration = serde_json::from_slice(text).map_err(json)?;
    if said.os != OS || said.architecture != architecture() {
        let found = format!("{}/{}", said.os, said.architecture);
        return Err(ImportError::Platform { wanted: architecture(), found });
    }
    let digest = |text: &String| {
        text.parse().map_err(|source| ImportError::NoDigest { what: "the digest of a layer's content".into(), source })
    };
    let layers = said.rootfs.diff_ids.iter().map(digest).collect::<Result<_, _>>()?;
    let defaults = said.config.unwrap_or_default();
    let command = [defaults.entrypoint, defaults.cmd].into_iter().flatten().flatten().collect();
    let image = Image {
        command,
        env: defaults.env.unwrap_or_default(),
        working_dir: defaults.working_dir.unwrap_or_default(),
        user: defaults.user.unwrap_or_default(),
    };
    Ok((image, layers))
}
