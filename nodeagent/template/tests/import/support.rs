//! A storage of its own for each test, archives and images made of parts, and how a storage looks.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use flate2::write::GzEncoder;
use tar::{EntryType, Header};
use tempfile::TempDir;
use template::{Bad, Digest, Http, ImportError, Imported, Kept, Layer, Limits, Order, Policy, import, verify};

pub struct Room {
    folder: TempDir,
}

impl Room {
    pub fn new() -> Room {
        let folder = TempDir::new().expect("temporary folder");
        fs::create_dir(folder.path().join("storage")).expect("folder");
        Room { folder }
    }

    pub fn storage(&self) -> PathBuf {
        self.folder.path().join("storage")
    }

    /// A path beside the storage.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        fs::write(self.beside(name), bytes).expect("write");
        self.beside(name)
    }

    pub fn order(&self, source: impl AsRef<Path>) -> Order {
        Order {
            source: source.as_ref().to_str().expect("UTF-8").to_owned(),
            storage: self.storage(),
            owner: "n1".to_owned(),
            claim: "first".to_owned(),
            expected: None,
            layer: Layer::Base,
            policy: Policy::default(),
            limits: Limits::default(),
            http: Http::Loopback,
        }
    }

    pub fn import(&self, source: impl AsRef<Path>) -> Result<Imported, ImportError> {
        run(&self.order(source))
    }

    pub fn import_tar(&self, archive: &[u8]) -> Result<Imported, ImportError> {
        self.import(self.file("archive", archive))
    }

    /// The template's root.
    pub fn root(&self, imported: &Imported) -> PathBuf {
        self.storage().join(&imported.path)
    }

    /// Every path below the storage's templates.
    pub fn kept(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![self.storage()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() && !path.is_symlink() {
                    folders.push(path.clone());
                }
                found.push(path.strip_prefix(self.storage()).expect("below").to_str().expect("UTF-8").to_owned());
            }
        }
        found.sort();
        found
    }

    /// Nothing is on the storage but the folders every import makes.
    pub fn is_untouched(&self) -> bool {
        self.kept().iter().all(|path| matches!(path.as_str(), "templates" | "templates/origins"))
    }
}

pub fn run(order: &Order) -> Result<Imported, ImportError> {
    import(order, &mut |_| ControlFlow::Continue(()))
}

/// Reads it again, with nobody who is told.
pub fn verified(room: &Room, digest: &Digest) -> Result<Kept, ImportError> {
    verify(&room.storage(), digest, &mut |_| ControlFlow::Continue(()))
}

/// The error of an import that must fail, after which the storage is as it was.
pub fn refused(room: &Room, outcome: Result<Imported, ImportError>) -> ImportError {
    let error = outcome.expect_err("this is refused");
    assert!(room.is_untouched(), "{error:?} left {:?}", room.kept());
    error
}

/// That the entry at `path` is bad, and why.
pub fn bad_entry(error: &ImportError, path: &str, why: &Bad) {
    match error {
        ImportError::Entry { path: at, source } => assert_eq!((at.as_str(), source), (path, why)),
        other => panic!("not about an entry: {}", other.line()),
    }
}

pub fn me() -> (u64, u64) {
    (rustix::process::geteuid().as_raw().into(), rustix::process::getegid().as_raw().into())
}

/// Bytes of an archive, entry after entry. Not what `tar::Builder` would write: it refuses to write what is bad.
#[derive(Default)]
pub struct Tar(pub Vec<u8>);

impl Tar {
    pub fn header(kind: EntryType, path: &str, mode: u32, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.as_gnu_mut().expect("made so").name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(me().0);
        header.set_gid(me().1);
        header.set_mtime(1_700_000_000);
        header.set_size(size);
        header.set_cksum();
        header
    }

    pub fn add(mut self, header: &Header, content: &[u8]) -> Tar {
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn file(self, path: &str, content: &[u8]) -> Tar {
        self.file_with(path, 0o644, content)
    }

    pub fn file_with(self, path: &str, mode: u32, content: &[u8]) -> Tar {
        let header = Tar::header(EntryType::Regular, path, mode, content.len() as u64);
        self.add(&header, content)
    }

    pub fn folder(self, path: &str) -> Tar {
        let header = Tar::header(EntryType::Directory, path, 0o755, 0);
        self.add(&header, b"")
    }

    pub fn link(self, path: &str, target: &str) -> Tar {
        self.pointing(EntryType::Symlink, path, target)
    }

    pub fn hard_link(self, path: &str, target: &str) -> Tar {
        self.pointing(EntryType::Link, path, target)
    }

    fn pointing(self, kind: EntryType, path: &str, target: &str) -> Tar {
        let mut header = Tar::header(kind, path, 0o777, 0);
        header.as_gnu_mut().expect("made so").linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        self.add(&header, b"")
    }

    /// A device or fifo.
    pub fn node(self, kind: EntryType, path: &str) -> Tar {
        let mut header = Tar::header(kind, path, 0o666, 0);
        header.set_device_major(1).expect("GNU has them");
        header.set_device_minor(3).expect("GNU has them");
        header.set_cksum();
        self.add(&header, b"")
    }

    /// What an extended header says of the entry that follows.
    pub fn extended(self, records: &[(&str, &[u8])]) -> Tar {
        self.extended_as(EntryType::XHeader, records)
    }

    pub fn extended_as(self, kind: EntryType, records: &[(&str, &[u8])]) -> Tar {
        let content: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
        let header = Tar::header(kind, "extended", 0o644, content.len() as u64);
        self.add(&header, &content)
    }

    pub fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key.as_bytes(), b"=", value, b"\n"].concat()
}

pub fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).expect("memory takes it");
    encoder.finish().expect("memory takes it")
}

pub fn zstd(content: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(content, ruzstd::encoding::CompressionLevel::Fastest)
}

pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// The blobs of an image, and what points to them.
pub struct ImageParts {
    pub blobs: BTreeMap<Digest, Vec<u8>>,
    pub manifest: serde_json::Value,
    pub index: serde_json::Value,
}

pub fn arch() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

impl ImageParts {
    /// An image of these layers: media type, blob, and content before it was compressed.
    pub fn new(layers: &[(&str, Vec<u8>, Vec<u8>)]) -> ImageParts {
        let mut image =
            ImageParts { blobs: BTreeMap::new(), manifest: serde_json::Value::Null, index: serde_json::Value::Null };
        let contents: Vec<String> = layers.iter().map(|(_, _, plain)| Digest::of(plain).to_string()).collect();
        let config = serde_json::json!({
            "os": "linux", "architecture": arch(), "rootfs": {"type": "layers", "diff_ids": contents},
            "config": {"Entrypoint": ["/init"], "Cmd": ["--loud"], "Env": ["A=b"], "WorkingDir": "/srv", "User": "web"},
        });
        let config = image.blob("application/vnd.oci.image.config.v1+json", config.to_string().into_bytes());
        let layers: Vec<_> = layers.iter().map(|(media, blob, _)| image.blob(media, blob.clone())).collect();
        image.manifest =
            serde_json::json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        image.point();
        image
    }

    pub fn blob(&mut self, media_type: &str, blob: Vec<u8>) -> serde_json::Value {
        let digest = Digest::of(&blob);
        let size = blob.len();
        self.blobs.insert(digest, blob);
        serde_json::json!({"mediaType": media_type, "digest": digest.to_string(), "size": size})
    }

    /// Lets the index point to the manifest as it is now.
    pub fn point(&mut self) -> serde_json::Value {
        let mut manifest = self.blob(MANIFEST, self.manifest.to_string().into_bytes());
        manifest["platform"] = serde_json::json!({"os": "linux", "architecture": arch()});
        self.index = serde_json::json!({"schemaVersion": 2, "manifests": [manifest]});
        manifest
    }

    pub fn write(&self, folder: &Path) {
        fs::create_dir_all(folder.join("blobs/sha256")).expect("folder");
        fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("write");
        fs::write(folder.join("index.json"), self.index.to_string()).expect("write");
        for (digest, blob) in &self.blobs {
            fs::write(folder.join("blobs/sha256").join(digest.hex()), blob).expect("write");
        }
    }
}
