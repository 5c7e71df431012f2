//! The way from the replica's thread to the stream of one agent. A member keeps tens of thousands of them, and most never
//! hold more than one message; a channel of tokio's makes room for 32 at the first.
//! In: messages, without waiting. Out: the same, in order, whenever the stream is polled.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Messages for which room is kept while none waits.
const KEPT: usize = 2;

/// The end that speaks. When it is dropped the other ends too, behind what still waits.
pub struct Outlet<T>(Arc<Shared<T>>);

/// The end that listens.
pub struct Outflow<T>(Arc<Shared<T>>);

type Shared<T> = Mutex<Inner<T>>;

struct Inner<T> {
    waiting: VecDeque<T>,
    room: usize,
    listener: Option<Waker>,
    /// Nothing more will be said, or nobody listens any more.
    over: bool,
}

/// Both ends of a way on which at most `room` messages wait.
pub fn outlet<T>(room: usize) -> (Outlet<T>, Outflow<T>) {
    let inner = Inner { waiting: VecDeque::with_capacity(1), room, listener: None, over: false };
    let shared = Arc::new(Mutex::new(inner));
    (Outlet(Arc::clone(&shared)), Outflow(shared))
}

fn lock<T>(shared: &Shared<T>) -> MutexGuard<'_, Inner<T>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T> Outlet<T> {
    /// Whether `message` was taken: not where too many wait, and not where nobody listens.
    pub fn put(&self, message: T) -> bool {
        let mut inner = lock(&self.0);
        if inner.over || inner.waiting.len() >= inner.room {
            return false;
        }
        inner.waiting.push_back(message);
        let listener = inner.listener.take();
        drop(inner);
        if let Some(listener) = listener {
            listener.wake();
        }
        true
    }
}

impl<T> Drop for Outlet<T> {
    fn drop(&mut self) {
        let mut inner = lock(&self.0);
        inner.over = true;
        let listener = inner.listener.take();
        drop(inner);
        if let Some(listener) = listener {
            listener.wake();
        }
    }
}

impl<T> Outflow<T> {
    /// The next message; `None` when the other end is gone and everything was heard.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut inner = lock(&self.0);
        if let Some(message) = inner.waiting.pop_front() {
            if inner.waiting.is_empty() && inner.waiting.capacity() > 2 * KEPT {
                inner.waiting.shrink_to(KEPT);
            }
            return Poll::Ready(Some(message));
        }
        if inner.over {
            return Poll::Ready(None);
        }
        if !inner.listener.as_ref().is_some_and(|listener| listener.will_wake(cx.waker())) {
            inner.listener = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl<T> Drop for Outflow<T> {
    fn drop(&mut self) {
        let mut inner = lock(&self.0);
        inner.over = true;
        let unheard = std::mem::take(&mut inner.waiting);
        drop(inner);
        drop(unheard);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Count>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn what_is_said_is_heard_in_order_and_wakes_once() {
        let count = Arc::new(Count::default());
        let (waker, woken) = (Waker::from(Arc::clone(&count)), || count.0.load(Ordering::Relaxed));
        let mut cx = Context::from_waker(&waker);
        let (said, mut heard) = outlet(9);
        assert_eq!((heard.poll(&mut cx), woken()), (Poll::Pending, 0));
        assert!((0..9).all(|number| said.put(number)) && !said.put(9), "there is room for nine");
        assert_eq!(woken(), 1, "until it is polled again nobody need be woken");
        let all: Vec<_> = (0..9).map(|_| heard.poll(&mut cx)).collect();
        assert_eq!(all, (0..9).map(|number| Poll::Ready(Some(number))).collect::<Vec<_>>());
        assert_eq!(heard.poll(&mut cx), Poll::Pending);
        assert!(said.put(10));
        drop(said);
        assert_eq!((heard.poll(&mut cx), heard.poll(&mut cx)), (Poll::Ready(Some(10)), Poll::Ready(None)));
    }

    #[test]
    fn each_end_learns_that_the_other_is_gone() {
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let (said, mut heard) = outlet::<u8>(1);
        assert_eq!(heard.poll(&mut Context::from_waker(&waker)), Poll::Pending);
        drop(said);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert_eq!(heard.poll(&mut Context::from_waker(&waker)), Poll::Ready(None));
        let (said, heard) = outlet(1);
        drop(heard);
        assert!(!said.put(1), "nobody listens");
    }
}
