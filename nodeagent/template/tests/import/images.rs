//! Images: layers above each other, everything compared with its digest, unknown kinds refused by name.

use template::{Bad, Digest, Image, ImportError, Layer, Order};

use super::support::*;

fn plain(content: Vec<u8>) -> (&'static str, Vec<u8>, Vec<u8>) {
    (LAYER, content.clone(), content)
}

/// Three layers, each compressed in another way; the upper ones change and remove what the lower ones brought.
fn image() -> ImageParts {
    let base = Tar::default()
        .file("etc/motd", b"old")
        .file("etc/gone", b"x")
        .file("var/cache/a", b"x")
        .file("var/cache/b", b"x")
        .file("bin/tool", b"1")
        .link("lib", "usr/lib")
        .end();
    let middle = Tar::default()
        .file("etc/motd", b"new")
        .file("etc/.wh.gone", b"")
        .file("var/cache/c", b"x")
        .file("var/cache/.wh..wh..opq", b"")
        .folder("lib")
        .file("lib/own", b"x")
        .end();
    let top = Tar::default().file(".wh.bin", b"").file("bin/other", b"2").file("never/.wh.there", b"").end();
    ImageParts::new(&[
        (LAYER, base.clone(), base),
        ("application/vnd.oci.image.layer.v1.tar+gzip", gzip(&middle), middle),
        ("application/vnd.oci.image.layer.v1.tar+zstd", zstd(&top), top),
    ])
}

/// What the image is in the end.
fn flat() -> Vec<u8> {
    Tar::default()
        .file("etc/motd", b"new")
        .file("var/cache/c", b"x")
        .file("lib/own", b"x")
        .file("bin/other", b"2")
        .end()
}

fn refused_image(image: &ImageParts) -> ImportError {
    let room = Room::new();
    image.write(&room.beside("layout"));
    refused(&room, room.import(room.beside("layout")))
}

#[test]
fn an_image_is_the_tree_its_layers_make_and_says_how_it_is_run() {
    let room = Room::new();
    image().write(&room.beside("layout"));
    let imported = room.import(room.beside("layout")).expect("imports");
    assert_eq!(imported.digest, room.import_tar(&flat()).expect("imports").digest);
    let said = Image {
        command: vec!["/init".into(), "--loud".into()],
        env: vec!["A=b".into()],
        working_dir: "/srv".into(),
        user: "web".into(),
    };
    assert_eq!(imported.image, Some(said.clone()));
    assert_eq!(imported.notes, ["the image wants to run as \"web\"; its containers run as root"]);
    let again = room.import(room.beside("layout")).expect("imports");
    assert!(again.was_there && again.image == Some(said));
}

#[test]
fn what_is_laid_over_others_removes_nothing_of_theirs() {
    let import = |image: &ImageParts, room: &Room| {
        image.write(&room.beside("layout"));
        run(&Order { layer: Layer::Over, ..room.order(room.beside("layout")) })
    };
    let room = Room::new();
    let error = refused(&room, import(&image(), &room));
    bad_entry(&error, "never/.wh.there", &Bad::WhiteoutBeneath);
    // What it brought itself it may remove; a folder that covers nothing of its own covers nothing at all.
    let lower = Tar::default().file("srv/app/old", b"x").file("srv/app/kept", b"x").end();
    let upper = Tar::default().file("srv/app/.wh.old", b"").folder("opt").file("opt/.wh..wh..opq", b"").end();
    let room = Room::new();
    let imported = import(&ImageParts::new(&[plain(lower), plain(upper)]), &room).expect("imports");
    let root = room.root(&imported);
    assert!(root.join("srv/app/kept").exists() && !root.join("srv/app/old").exists() && root.join("opt").is_dir());
    assert!(
        imported.notes.iter().any(|note| note.contains("nothing beneath a folder is seen, 1 times")),
        "{imported:?}"
    );
}

#[test]
fn an_archive_of_a_layout_is_the_same_image() {
    let room = Room::new();
    let image = image();
    let mut tar = Tar::default()
        .file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
        .file("index.json", image.index.to_string().as_bytes());
    for (digest, blob) in &image.blobs {
        tar = tar.file(&format!("blobs/sha256/{}", digest.hex()), blob);
    }
    let imported = room.import_tar(&tar.end()).expect("imports");
    assert_eq!(imported.digest, room.import_tar(&flat()).expect("imports").digest);
    assert!(imported.image.is_some());
}

#[test]
fn indexes_within_indexes_lead_to_the_manifest_for_this_machine() {
    let mut image = image();
    let ours = image.index["manifests"][0].clone();
    let mut other = ours.clone();
    other["platform"]["architecture"] = "s390x".into();
    let mut attestation = ours.clone();
    attestation["platform"] = serde_json::json!({"os": "unknown", "architecture": "unknown"});
    let inner = serde_json::json!({"schemaVersion": 2, "manifests": [other, attestation, ours]});
    let inner = image.blob("application/vnd.oci.image.index.v1+json", inner.to_string().into_bytes());
    image.index = serde_json::json!({"schemaVersion": 2, "manifests": [inner]});
    let room = Room::new();
    image.write(&room.beside("layout"));
    room.import(room.beside("layout")).expect("imports");
}

#[test]
fn blobs_are_what_their_digests_and_sizes_say() {
    for place in 0..3 {
        let mut image = image();
        let layer: Digest =
            image.manifest["layers"][place]["digest"].as_str().expect("text").parse().expect("a digest");
        let blob = image.blobs.get_mut(&layer).expect("there");
        let middle = blob.len() / 2;
        blob[middle] ^= 1;
        let error = refused_image(&image);
        assert!(matches!(&error, ImportError::Digest { what, .. } if what.contains(&layer.hex())), "{error}");
    }
    let mut cut = image();
    let layer: Digest = cut.manifest["layers"][0]["digest"].as_str().expect("text").parse().expect("a digest");
    cut.blobs.get_mut(&layer).expect("there").pop();
    assert!(matches!(refused_image(&cut), ImportError::Size { .. }));
    let mut missing = image();
    missing.blobs.remove(&layer);
    assert!(matches!(refused_image(&missing), ImportError::Entry { .. }));
    for document in ["config", "manifest"] {
        let mut image = image();
        let digest = match document {
            "config" => image.manifest["config"]["digest"].clone(),
            _ => image.index["manifests"][0]["digest"].clone(),
        };
        let digest: Digest = digest.as_str().expect("text").parse().expect("a digest");
        image.blobs.get_mut(&digest).expect("there").push(b' ');
        assert_eq!(refused_image(&image).reason(), "wrong-digest", "{document}");
    }
}

#[test]
fn a_layer_is_also_what_its_content_was_said_to_be() {
    let content = Tar::default().file("a", b"x").end();
    let other = Tar::default().file("a", b"y").end();
    let image = ImageParts::new(&[(LAYER, content, other)]);
    let error = refused_image(&image);
    assert!(matches!(&error, ImportError::Digest { what, .. } if what.starts_with("the content of layer")), "{error}");
}

#[test]
fn unknown_kinds_are_refused_by_name() {
    let foreign = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
    let content = Tar::default().file("a", b"x").end();
    let image = ImageParts::new(&[(foreign, gzip(&content), content)]);
    assert!(matches!(refused_image(&image), ImportError::MediaType { found, .. } if found == foreign));
    let mut artifact = self::image();
    artifact.manifest["config"]["mediaType"] = "application/vnd.cncf.helm.config.v1+json".into();
    artifact.point();
    assert!(matches!(refused_image(&artifact), ImportError::MediaType { found, .. } if found.contains("helm")));
    let mut odd = self::image();
    odd.index["manifests"][0]["mediaType"] = "application/vnd.docker.distribution.manifest.v1+json".into();
    assert!(matches!(refused_image(&odd), ImportError::MediaType { found, .. } if found.ends_with("manifest.v1+json")));
    let mut long = self::image();
    long.index["manifests"][0]["digest"] = format!("sha512:{}", "0".repeat(128)).into();
    assert_eq!(refused_image(&long).reason(), "wrong-digest");
}

#[test]
fn images_for_other_machines_and_ambiguous_ones_are_refused() {
    let mut other = image();
    other.index["manifests"][0]["platform"]["architecture"] = "s390x".into();
    let error = refused_image(&other);
    assert!(matches!(&error, ImportError::Platform { found, .. } if found == "linux/s390x"), "{error}");
    let mut twice = image();
    let first = twice.index["manifests"][0].clone();
    twice.index["manifests"] = serde_json::json!([first, first]);
    assert!(matches!(refused_image(&twice), ImportError::Image(_)));
    let mut none = image();
    none.index["manifests"] = serde_json::json!([]);
    assert!(matches!(refused_image(&none), ImportError::Platform { .. }));
}

#[test]
fn layers_harm_no_more_than_archives_do() {
    let escape = |layer: Tar| {
        let base = Tar::default().link("out", "../../..").file("keep/me", b"x").end();
        let error = refused_image(&ImageParts::new(&[plain(base), plain(layer.end())]));
        let ImportError::Entry { path, source } = error else { panic!("{}", error.line()) };
        (path, source)
    };
    assert_eq!(escape(Tar::default().file("out/evil", b"x")), ("out/evil".into(), Bad::ThroughLink));
    assert_eq!(escape(Tar::default().file("keep/.wh...", b"")), ("keep/.wh...".into(), Bad::WhiteoutName));
    assert_eq!(escape(Tar::default().file("keep/.wh..", b"")), ("keep/.wh..".into(), Bad::WhiteoutName));
    assert_eq!(escape(Tar::default().file(".wh.", b"")), (".wh.".into(), Bad::WhiteoutName));
    assert_eq!(escape(Tar::default().file("out/.wh.etc", b"")), ("out/.wh.etc".into(), Bad::ThroughLink));
    assert_eq!(escape(Tar::default().file("out/.wh..wh..opq", b"")), ("out/.wh..wh..opq".into(), Bad::ThroughFile));
    assert_eq!(escape(Tar::default().file("a", b"x").file("a", b"y")), ("a".into(), Bad::Twice));
    assert_eq!(escape(Tar::default().file("new/x", b"x").file("new", b"y")), ("new".into(), Bad::Twice));
}

#[test]
fn a_removal_spares_what_its_own_layer_brought() {
    let base = Tar::default().file("d/lower", b"x").file("d/deep/lower", b"x").end();
    let layer = Tar::default().file("d/upper", b"x").file("d/deep/upper", b"x").file(".wh.d", b"").end();
    let room = Room::new();
    ImageParts::new(&[plain(base), plain(layer)]).write(&room.beside("layout"));
    let imported = room.import(room.beside("layout")).expect("imports");
    let expected = Tar::default().file("d/upper", b"x").file("d/deep/upper", b"x").end();
    assert_eq!(imported.digest, room.import_tar(&expected).expect("imports").digest);
}
