//! The planner's thread: thinking may take long, the replica never waits for it.
//! In: a copy of the state. Out: `Input::Planned`.

use std::sync::mpsc::{Sender, channel};
use std::thread;

use cluster::planner::{Observed, plan};
use cluster::{State, WallTime};
use replica::Input;

/// What is true, what the leader sees of it, and when.
pub type Job = (Box<State>, Observed, WallTime);

/// Ends when the sender is dropped.
pub fn start(tell: impl Fn(Input) + Send + 'static) -> Sender<Job> {
    let (jobs, queue) = channel::<Job>();
    let run = move || {
        while let Ok((state, observed, now)) = queue.recv() {
            tell(Input::Planned { plan: Box::new(plan(&state, &observed, now)) });
        }
    };
    thread::Builder::new().name("planner".into()).spawn(run).expect("a thread can be started at start-up");
    jobs
}
