//! Images from a registry on this machine: a few routes of the distribution protocol, as a registry answers them; and from
//! a real one, `docker-registry`, where that program is installed.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use template::{Digest, ImportError};

use super::support::*;

/// Serves what it was given, by path, until the test ends.
struct Registry {
    address: String,
    blobs_sent: Arc<AtomicUsize>,
}

impl Registry {
    fn of(image: &ImageParts) -> Registry {
        let manifest = image.manifest.to_string().into_bytes();
        let digest = Digest::of(&manifest);
        let mut answers = BTreeMap::new();
        for reference in ["1".to_owned(), digest.to_string()] {
            answers.insert(format!("/v2/team/app/manifests/{reference}"), (MANIFEST, manifest.clone()));
        }
        for (digest, blob) in &image.blobs {
            answers.insert(format!("/v2/team/app/blobs/{digest}"), ("application/octet-stream", blob.clone()));
        }
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let blobs_sent = Arc::new(AtomicUsize::new(0));
        let sent = Arc::clone(&blobs_sent);
        // Ends with the test's process: it owns nothing else.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                answer(stream, &answers, &sent);
            }
        });
        Registry { address, blobs_sent }
    }
}

fn answer(stream: TcpStream, answers: &BTreeMap<String, (&str, Vec<u8>)>, sent: &AtomicUsize) {
    let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
    let Some(request) = lines.next() else { return };
    lines.find(String::is_empty);
    let path = request.split(' ').nth(1).unwrap_or_default();
    let found = answers.get(path);
    if found.is_some() && path.contains("/blobs/") {
        sent.fetch_add(1, Ordering::Relaxed);
    }
    let (status, kind, body) = match found {
        Some((kind, body)) => ("200 OK", *kind, body.as_slice()),
        None if path == "/v2/" => ("200 OK", "application/json", &b"{}"[..]),
        None => (
            "404 Not Found",
            "application/json",
            &br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"unknown"}]}"#[..],
        ),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    // A client that is gone needs no answer.
    let _ = (&stream).write_all(head.as_bytes()).and_then(|()| (&stream).write_all(body));
}

fn image() -> ImageParts {
    let content = Tar::default().file("app", b"x").end();
    ImageParts::new(&[("application/vnd.oci.image.layer.v1.tar+gzip", gzip(&content), content)])
}

#[test]
fn an_image_is_fetched_by_tag_and_by_digest_and_its_layers_once() {
    let room = Room::new();
    let image = image();
    let registry = Registry::of(&image);
    let by_tag = room.import(format!("{}/team/app:1", registry.address)).expect("imports");
    assert_eq!(registry.blobs_sent.load(Ordering::Relaxed), 2, "configuration and layer");
    let digest = Digest::of(image.manifest.to_string().as_bytes());
    let by_digest = room.import(format!("{}/team/app@{digest}", registry.address)).expect("imports");
    assert_eq!(registry.blobs_sent.load(Ordering::Relaxed), 3, "the configuration only");
    assert!(by_digest.was_there && by_digest.digest == by_tag.digest);
    assert_eq!(by_tag.digest, room.import_tar(&Tar::default().file("app", b"x").end()).expect("imports").digest);
    assert_eq!(by_tag.image.expect("said").command, ["/init", "--loud"]);
}

#[test]
fn a_registry_that_lies_or_has_nothing_changes_nothing() {
    let mut lying = image();
    let layer: Digest = lying.manifest["layers"][0]["digest"].as_str().expect("text").parse().expect("a digest");
    let blob = lying.blobs.get_mut(&layer).expect("there");
    blob[20] ^= 1;
    let room = Room::new();
    let registry = Registry::of(&lying);
    let error = refused(&room, room.import(format!("{}/team/app:1", registry.address)));
    assert!(matches!(error, ImportError::Registry { .. } | ImportError::Digest { .. }), "{}", error.line());
    let wanted = Digest::of(b"something else");
    let error = refused(&room, room.import(format!("{}/team/app@{wanted}", registry.address)));
    assert_eq!(error.reason(), "registry-failed", "{}", error.line());
    let error = refused(&room, room.import(format!("{}/team/none:1", registry.address)));
    assert_eq!(error.reason(), "registry-failed", "{}", error.line());
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    let error = refused(&room, room.import(format!("{silent}/team/app:1")));
    assert_eq!(error.reason(), "registry-failed", "{}", error.line());
}

#[test]
fn waiting_for_a_registry_can_be_called_off() {
    let room = Room::new();
    let mute = TcpListener::bind("127.0.0.1:0").expect("a port");
    let source = format!("{}/team/app:1", mute.local_addr().expect("bound"));
    let mut told = 0;
    let outcome = template::import(&room.order(source), &mut |_| {
        told += 1;
        if told > 2 { std::ops::ControlFlow::Break(()) } else { std::ops::ControlFlow::Continue(()) }
    });
    assert!(matches!(refused(&room, outcome), ImportError::CalledOff));
}

/// Debian's registry on a port of its own, with its data in the room.
struct Real(std::process::Child, String);

impl Real {
    /// `None`, said aloud, where there is no such program.
    fn start(room: &Room) -> Option<Real> {
        // Two takers of one port would be an accident of microseconds; the second says so and the test fails.
        let address = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").to_string();
        let data = room.beside("registry");
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nhttp: {{addr: \"{address}\"}}\n\
             storage: {{filesystem: {{rootdirectory: \"{}\"}}}}\n",
            data.display()
        );
        let config = room.file("registry.yml", config.as_bytes());
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                println!("NOT RUN: images_of_a_real_registry_are_imported: docker-registry: {error}");
                return None;
            }
        };
        let mut real = Real(child, address);
        while TcpStream::connect(&real.1).is_err() {
            assert_eq!(real.0.try_wait().expect("a child"), None, "docker-registry ended");
            std::thread::yield_now();
        }
        Some(real)
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn images_of_a_real_registry_are_imported() {
    let room = Room::new();
    let Some(real) = Real::start(&room) else { return };
    let reference: oci_client::Reference = format!("{}/team/app:1", real.1).parse().expect("a reference");
    let content = Tar::default().file("app", b"x").folder("srv").end();
    let layer = "application/vnd.oci.image.layer.v1.tar+gzip";
    let image = ImageParts::new(&[(layer, gzip(&content), content.clone())]);
    let blob = |descriptor: &serde_json::Value| {
        let digest: Digest = descriptor["digest"].as_str().expect("text").parse().expect("a digest");
        (image.blobs[&digest].clone(), descriptor["mediaType"].as_str().expect("text").to_owned())
    };
    let (config, config_type) = blob(&image.manifest["config"]);
    let (packed, layer_type) = blob(&image.manifest["layers"][0]);
    let manifest = serde_json::from_value(image.manifest.clone()).expect("a manifest");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _ = rustls::crypto::ring::default_provider().install_default();
    runtime.block_on(async {
        let protocol = oci_client::client::ClientProtocol::Http;
        let client = oci_client::Client::new(oci_client::client::ClientConfig { protocol, ..Default::default() });
        let layers = [oci_client::client::ImageLayer::new(packed, layer_type, None)];
        let config = oci_client::client::Config::new(config, config_type, None);
        let nobody = oci_client::secrets::RegistryAuth::Anonymous;
        client.push(&reference, &layers, config, &nobody, Some(manifest)).await.expect("it is pushed");
    });
    let imported = room.import(format!("{}/team/app:1", real.1)).expect("imports");
    assert_eq!(imported.digest, room.import_tar(&content).expect("imports").digest);
    assert_eq!(imported.image.expect("said").env, ["A=b"]);
}
