//! Compiles the protos without protoc: messages always, clients, servers and the descriptor set with the feature `services`.

use std::path::PathBuf;

const PUBLIC: [&str; 7] = ["common", "cluster", "nodes", "containers", "templates", "storages", "events"];
const INTERNAL: [&str; 5] = ["model", "log", "snapshot", "agent", "peer"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=quorate");
    println!("cargo::rerun-if-changed=google");
    println!("cargo::rerun-if-changed=build.rs");
    let services = std::env::var_os("CARGO_FEATURE_SERVICES").is_some();

    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(["google/rpc/status.proto", "google/rpc/error_details.proto"])?;
    compiler.open_files(PUBLIC.map(|name| format!("quorate/v1/{name}.proto")))?;
    compiler.open_files(INTERNAL.map(|name| format!("quorate/wire/v1/{name}.proto")))?;

    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        .build_client(services)
        .build_server(services)
        .btree_map(".")
        .bytes(".quorate.wire.v1")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
