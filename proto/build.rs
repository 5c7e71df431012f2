//! Compiles the protos without protoc: messages always, clients, servers and the descriptor set with the feature `services`.

use std::path::PathBuf;

const PUBLIC: [&str; 7] = ["common", "cluster", "nodes", "containers", "templates", "storages", "events"];
const WIRE: [&str; 5] = ["model", "log", "snapshot", "agent", "peer"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=quorate");
    println!("cargo::rerun-if-changed=google");
    println!("cargo::rerun-if-changed=build.rs");
    let services = std::env::var_os("CARGO_FEATURE_SERVICES").is_some();

    let mut public = compiler()?;
    public.open_files(PUBLIC.map(|name| format!("quorate/v1/{name}.proto")))?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), public.encode_file_descriptor_set())?;

    let mut all = compiler()?;
    all.open_files(["google/rpc/status.proto", "google/rpc/error_details.proto"])?;
    all.open_files(PUBLIC.map(|name| format!("quorate/v1/{name}.proto")))?;
    all.open_files(WIRE.map(|name| format!("quorate/wire/v1/{name}.proto")))?;
    tonic_prost_build::configure()
        .build_client(services)
        .build_server(services)
        .btree_map(".")
        .bytes(".quorate.wire.v1")
        .codec_path("crate::codec::ThriftyCodec")
        .compile_fds(all.file_descriptor_set())?;
    Ok(())
}

fn compiler() -> Result<protox::Compiler, protox::Error> {
    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_imports(true);
    compiler.include_source_info(true);
    Ok(compiler)
}
