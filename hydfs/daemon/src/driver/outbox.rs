//! What is to be written to one client, and how much this node takes on for it. The socket is the queue for the rest: whatever goes
//! beyond the limits is not read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::{Notify, mpsc};

use hydfs::wire::client::{Frame, Request};

/// Bytes of answers that a client has not taken: with more than this nothing is read from it, nor from disk for it.
pub const UNTAKEN: usize = 16 * 1024 * 1024;
/// What a client's calls that are begun and not answered may come to, by [`weight`].
const UNDER_WAY: usize = 4096;
/// A call whose answer lists something: its answer may be megabytes long, and is made at once.
const LISTING: usize = 1024;

/// How much a call counts towards [`UNDER_WAY`].
pub fn weight(request: &Request) -> usize {
    match request {
        Request::Find { .. }
        | Request::Index { .. }
        | Request::Streams { .. }
        | Request::ListStore { .. }
        | Request::NodeStatus
        | Request::Copies { .. } => LISTING,
        _ => 1,
    }
}

/// How much one client keeps busy here.
#[derive(Default)]
struct ClientLoad {
    /// Bytes of frames that are not written yet.
    untaken: AtomicUsize,
    /// Weights of calls that are begun and not answered.
    under_way: AtomicUsize,
    /// The core waits for the client to take what it was sent.
    parked: AtomicBool,
    /// One of the others became less: the reader may go on.
    eased: Notify,
}

/// Where the core puts what a client shall get.
#[derive(Clone)]
pub struct Outbox {
    frames: mpsc::UnboundedSender<Frame>,
    load: Arc<ClientLoad>,
}

/// Where the writer finds it.
pub struct OutboxFrames {
    frames: mpsc::UnboundedReceiver<Frame>,
    load: Arc<ClientLoad>,
}

/// What the reader waits for before it takes on more.
pub struct Allowance(Arc<ClientLoad>);

/// One client's.
pub fn outbox() -> (Outbox, OutboxFrames, Allowance) {
    let (tx, rx) = mpsc::unbounded_channel();
    let load = Arc::new(ClientLoad::default());
    let outbox = Outbox {
        frames: tx,
        load: load.clone(),
    };
    let frames = OutboxFrames {
        frames: rx,
        load: load.clone(),
    };
    (outbox, frames, Allowance(load))
}

impl Outbox {
    pub fn send(&self, frame: Frame) {
        let _untaken = self.load.untaken.fetch_add(frame.len(), Ordering::SeqCst) + frame.len();
        #[cfg(test)]
        tests::MOST_HELD.fetch_max(_untaken, Ordering::SeqCst);
        // The writer is gone: the reader will say so.
        let _ = self.frames.send(frame);
    }

    /// A call that counted so much is answered.
    pub fn answered(&self, weight: usize) {
        let less = |now: usize| Some(now.saturating_sub(weight));
        let _ = self
            .load
            .under_way
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
        self.load.eased.notify_one();
    }

    /// Does the client take so little that nothing more is to be read for it? Then the writer says when it has taken half of it.
    pub fn is_full(&self) -> bool {
        if self.load.untaken.load(Ordering::SeqCst) <= UNTAKEN {
            return false;
        }
        self.load.parked.store(true, Ordering::SeqCst);
        // It may have been taken in between, and the writer has not seen that it should say so.
        self.load.untaken.load(Ordering::SeqCst) > UNTAKEN / 2
            || !self.load.parked.swap(false, Ordering::SeqCst)
    }
}

impl OutboxFrames {
    pub async fn next(&mut self) -> Option<Frame> {
        self.frames.recv().await
    }

    pub fn try_next(&mut self) -> Option<Frame> {
        self.frames.try_recv().ok()
    }

    /// So many bytes were taken. True: the core waits for that.
    pub fn taken(&self, len: usize) -> bool {
        let left = self.load.untaken.fetch_sub(len, Ordering::SeqCst) - len;
        if left > UNTAKEN {
            return false;
        }
        self.load.eased.notify_one();
        left <= UNTAKEN / 2 && self.load.parked.swap(false, Ordering::SeqCst)
    }
}

impl Drop for OutboxFrames {
    fn drop(&mut self) {
        // The reader must not wait for a writer that is gone; it sees itself that the connection is.
        self.load.untaken.store(0, Ordering::SeqCst);
        self.load.under_way.store(0, Ordering::SeqCst);
        self.load.eased.notify_one();
    }
}

impl Allowance {
    /// Waits until the client has taken most of what it was sent.
    pub async fn wait_taken(&self) {
        while self.0.untaken.load(Ordering::SeqCst) > UNTAKEN {
            self.0.eased.notified().await;
        }
    }

    /// Waits until there is room for a call that counts so much, and takes it.
    pub async fn begin(&self, weight: usize) {
        loop {
            let under_way = self.0.under_way.load(Ordering::SeqCst);
            if under_way + weight <= UNDER_WAY {
                break;
            }
            self.0.eased.notified().await;
        }
        self.0.under_way.fetch_add(weight, Ordering::SeqCst);
    }
}

#[cfg(test)]
pub mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    /// The most that any client of this process ever had in its outbox.
    pub static MOST_HELD: AtomicUsize = AtomicUsize::new(0);

    /// What a future comes to that is looked at once.
    fn poll_once<T>(future: impl Future<Output = T>) -> Option<T> {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    fn frame(len: usize) -> Frame {
        Frame {
            head: vec![0; len],
            payload: Default::default(),
        }
    }

    #[test]
    fn more_calls_than_the_limit_wait_for_answers_and_listings_count_as_many() {
        let (outbox, _frames, allowance) = outbox();
        let listings = UNDER_WAY / LISTING;
        for _ in 0..listings {
            assert!(poll_once(allowance.begin(LISTING)).is_some());
        }
        assert!(poll_once(allowance.begin(1)).is_none());
        outbox.answered(LISTING);
        for _ in 0..LISTING {
            assert!(poll_once(allowance.begin(1)).is_some());
        }
        assert!(poll_once(allowance.begin(1)).is_none());
    }

    #[test]
    fn what_is_not_taken_stops_the_reader_and_the_core_until_it_is() {
        let (outbox, mut frames, allowance) = outbox();
        outbox.send(frame(UNTAKEN));
        assert!(!outbox.is_full() && poll_once(allowance.wait_taken()).is_some());
        outbox.send(frame(1));
        assert!(outbox.is_full() && poll_once(allowance.wait_taken()).is_none());
        let first = frames.try_next().map_or(0, |f| f.len());
        assert!(frames.taken(first), "the core waits for it");
        assert!(!outbox.is_full() && poll_once(allowance.wait_taken()).is_some());
        let second = frames.try_next().map_or(0, |f| f.len());
        assert!(!frames.taken(second), "it is told once");
    }

    #[test]
    fn a_writer_that_is_gone_holds_nobody_up() {
        let (outbox, frames, allowance) = outbox();
        outbox.send(frame(UNTAKEN + 1));
        drop(frames);
        assert!(poll_once(allowance.wait_taken()).is_some());
    }
}
