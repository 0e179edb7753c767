//! A front end without a kernel: the test hands the requests in and reads the answers.

use baton_replicator::driver::FrontEndFactory;
use baton_replicator::frontend::{Device, Errno, EventSink, FrontEnd, FrontEndEvent, Op, Request};
use bytes::Bytes;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Requests are handed in by the test.
#[derive(Default)]
pub struct Direct {
    sink: Mutex<Option<EventSink>>,
    replies: Mutex<HashMap<u64, Result<Bytes, Errno>>>,
    replied: Condvar,
}

impl FrontEnd for Direct {
    fn reply(&self, id: u64, result: Result<Bytes, Errno>) {
        self.replies.lock().unwrap().insert(id, result);
        self.replied.notify_all();
    }
    fn stop(&self, _force: bool) {
        let sink = self.sink.lock().unwrap().take().expect("started");
        sink(FrontEndEvent::Stopped { problems: Vec::new() });
    }
    fn resize(&self, _size_bytes: u64) {
        let sink = self.sink.lock().unwrap().clone().expect("started");
        sink(FrontEndEvent::Resized(Ok(())));
    }
    fn pending(&self) -> usize {
        0
    }
}

impl Direct {
    /// Makes this the front end of every volume that becomes primary; its device is ready at once.
    pub fn front_end(self: &Arc<Self>) -> FrontEndFactory {
        let this = self.clone();
        Arc::new(move |_, sink| {
            *this.sink.lock().unwrap() = Some(sink.clone());
            let path = PathBuf::from("/dev/none");
            let device = Device { host_path: path.clone(), local_path: path.clone(), symlink: path };
            sink(FrontEndEvent::Ready(device));
            this.clone()
        })
    }

    pub fn ask(&self, id: u64, op: Op) {
        let sink = self.sink.lock().unwrap().clone().expect("started");
        sink(FrontEndEvent::Request(Request { id, op }));
    }

    /// The answer, if it comes in time.
    pub fn answer(&self, id: u64, limit: Duration) -> Option<Result<Bytes, Errno>> {
        let replies = self.replies.lock().unwrap();
        let (mut replies, _) =
            self.replied.wait_timeout_while(replies, limit, |r| !r.contains_key(&id)).unwrap();
        replies.remove(&id)
    }
}
