//! A program of the operator that ends a machine: by IPMI, a power switch, a hypervisor.
//! In: argument vector; the node as `QUORATE_NODE`, `QUORATE_INCARNATION`, `QUORATE_BOOT`. Out: its first line as evidence.
//! Only exit status 0 confirms, and means: the machine is off, verified, in the boot that was named.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::{Method, Target};

/// Kept of what the program says.
const EVIDENCE_BYTES: usize = 256;

#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("the command is empty")]
    Empty,
    #[error("cannot run {program}: {source}")]
    Start { program: String, source: std::io::Error },
    #[error("{program} took longer than {limit_ms} ms")]
    Timeout { program: String, limit_ms: u64 },
    #[error("{program} did not confirm ({status}): {said}")]
    Unconfirmed { program: String, status: std::process::ExitStatus, said: String },
}

/// What the program gave as evidence. It is killed when its time is over.
pub async fn run(method: &Method, target: &Target) -> Result<String, CommandError> {
    let (program, arguments) = method.command.split_first().ok_or(CommandError::Empty)?;
    let output = Command::new(program)
        .args(arguments)
        .env("QUORATE_NODE", &target.name)
        .env("QUORATE_INCARNATION", target.incarnation.0.to_string())
        .env("QUORATE_BOOT", target.boot.to_string())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_millis(method.timeout_ms), output)
        .await
        .map_err(|_| CommandError::Timeout { program: program.clone(), limit_ms: method.timeout_ms })?
        .map_err(|source| CommandError::Start { program: program.clone(), source })?;
    if !output.status.success() {
        let said = first_line(&output.stderr);
        return Err(CommandError::Unconfirmed { program: program.clone(), status: output.status, said });
    }
    Ok(first_line(&output.stdout))
}

fn first_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(EVIDENCE_BYTES)]);
    text.lines().next().unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster::{BootId, Incarnation, NodeId};

    fn method(script: &str, timeout_ms: u64) -> Method {
        let command = ["sh", "-c", script].map(str::to_owned).to_vec();
        Method { name: "test".into(), nodes: Vec::new(), command, timeout_ms }
    }

    fn target() -> Target {
        Target { node: NodeId(3), name: "three".into(), incarnation: Incarnation(17), boot: BootId(0xb007) }
    }

    #[tokio::test]
    async fn only_success_confirms() {
        let named = run(&method("echo off $QUORATE_NODE $QUORATE_INCARNATION", 10_000), &target()).await;
        assert_eq!(named.expect("exit 0 confirms"), "off three 17");
        let failed = run(&method("echo still on >&2; exit 3", 10_000), &target()).await;
        assert!(matches!(failed, Err(CommandError::Unconfirmed { said, .. }) if said == "still on"));
        let late = run(&method("exec sleep 600", 50), &target()).await;
        assert!(matches!(late, Err(CommandError::Timeout { .. })));
        let absent = Method { command: vec!["/nonexistent/fence".into()], ..method("", 1_000) };
        assert!(matches!(run(&absent, &target()).await, Err(CommandError::Start { .. })));
    }
}
