//! Work on the log that may never end, or panic: on a thread of its own, with somebody who waits for it only so long.
//! In: work. Out: what came of it. Absent: a way to end it; a thread that hangs is left to the end of the process.

use record::{Damage, StoreError};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::Builder;
use std::time::Duration;

/// Half a gigabyte opens and reads in under three seconds; a start that takes this long hangs.
const LIMIT: Duration = Duration::from_secs(120);

/// Does `work`, `operation` on `object`. Errs with `Timeout` after two minutes, with `Damaged` if it panics.
pub(super) fn within<T: Send + 'static>(
    operation: &'static str,
    object: &str,
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let (send, receive) = channel();
    let body = move || {
        // Nobody may be waiting any more.
        let _ = send.send(work());
    };
    let started = Builder::new().name("store-fence".into()).spawn(body);
    started.map_err(|source| StoreError::io("start a thread for", object, source))?;
    receive.recv_timeout(LIMIT).unwrap_or_else(|error| match error {
        RecvTimeoutError::Timeout => {
            Err(StoreError::Timeout { operation, object: object.to_owned(), limit_s: LIMIT.as_secs() })
        }
        RecvTimeoutError::Disconnected => Err(Damage::Engine { why: format!("it died on {operation}") }.into()),
    })
}
