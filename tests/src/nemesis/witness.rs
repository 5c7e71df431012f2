//! What runs in the containers of the nemesis. In: the environment the agent gives it. Out: a line of JSON every few
//! milliseconds, appended to the private area on the shared folder and sent to the observer's socket, which is on no network.
//! Absent: anything of the cluster's; it would say the same if it ran where it must not.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde_json::json;

/// Between two lines: a fraction of anything that is claimed about overlaps.
const EVERY: Duration = Duration::from_millis(15);
/// In the private area: its record, and the way to the observer.
pub const RECORD: &str = "nemesis.jsonl";
pub const OBSERVER: &str = "observer.sock";

/// Boot-time clock: all machines of the lab share it, they are one kernel.
pub fn now_ns() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Runs until it is ended. Errs if the agent gave it no environment, or the record cannot be written.
pub fn run() -> io::Result<()> {
    let word = |name: &str| {
        std::env::var(name).map_err(|_| io::Error::other(format!("{name} is not set: not in a container")))
    };
    let number = |name: &str| word(name)?.parse::<u64>().map_err(|_| io::Error::other(format!("{name} is no number")));
    let area = PathBuf::from(word("QUORATE_PRIVATE_AREA")?);
    let (container, node, boot) = (word("QUORATE_CONTAINER")?, word("QUORATE_NODE")?, word("QUORATE_BOOT")?);
    let (epoch, incarnation) = (number("QUORATE_EPOCH")?, number("QUORATE_INCARNATION")?);
    let mut record = File::options().create(true).append(true).open(area.join(RECORD))?;
    let observer = UnixDatagram::unbound()?;
    observer.set_nonblocking(true)?;
    for sequence in 0u64.. {
        let line = json!({"container": container, "epoch": epoch, "node": node, "incarnation": incarnation,
            "boot": boot, "sequence": sequence, "at_ns": now_ns()});
        let line = format!("{line}\n");
        // One write a line: O_APPEND makes each whole, whoever else writes.
        record.write_all(line.as_bytes())?;
        // An observer that is not there yet, or has no room, misses a line; the folder has all of them.
        let _ = observer.send_to(line.trim_end().as_bytes(), area.join(OBSERVER));
        std::thread::sleep(EVERY);
    }
    Ok(())
}
