//! The planner's thread: thinking may take long, the replica never waits for it.
//! In: a copy of the state. Out: `Input::Planned`.

use std::sync::mpsc::{Sender, channel};
use std::thread;

use cluster::State;
use cluster::planner::{Observed, plan};
use replica::Input;

use crate::clock;

/// Ends when the sender is dropped.
pub fn start(tell: impl Fn(Input) + Send + 'static) -> Sender<(Box<State>, Observed)> {
    let (jobs, queue) = channel::<(Box<State>, Observed)>();
    let run = move || {
        while let Ok((state, observed)) = queue.recv() {
            tell(Input::Planned { plan: Box::new(plan(&state, &observed, clock::wall())) });
        }
    };
    thread::Builder::new().name("planner".into()).spawn(run).expect("a thread can be started at start-up");
    jobs
}
