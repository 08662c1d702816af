//! Lookups: whether deliveries were settled before, many in one question.
//!
//! Invariant: an answer is that of the tables at a moment after it was asked for. While the tables do not answer, nobody gets an
//! answer: what may have been settled must not run meanwhile.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::delivery::DeliveryId;
use crate::store::Store;

/// Deliveries of one question.
const BATCH: usize = 500;
/// Longest pause while the tables do not answer.
const PAUSE_MAX: Duration = Duration::from_secs(5);

type Asked = (DeliveryId, oneshot::Sender<bool>);

/// Asks for deliveries.
#[derive(Clone, Debug)]
pub(super) struct Lookups {
    queue: mpsc::Sender<Asked>,
}

/// Answers.
#[derive(Debug)]
pub(super) struct Answers {
    queue: mpsc::Receiver<Asked>,
    store: Store,
}

impl Lookups {
    pub(super) fn new(store: Store) -> (Self, Answers) {
        let (queue, asked) = mpsc::channel(BATCH);
        (Self { queue }, Answers { queue: asked, store })
    }

    /// Whether the delivery was settled; none when the node quits.
    pub(super) async fn is_settled(&self, id: DeliveryId) -> Option<bool> {
        let (answer, answered) = oneshot::channel();
        self.queue.send((id, answer)).await.ok()?;
        answered.await.ok()
    }
}

impl Answers {
    /// Answers until nobody asks any more, or `finished`.
    pub(super) async fn run(mut self, finished: CancellationToken) {
        let mut asked = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                () = finished.cancelled() => return,
                count = self.queue.recv_many(&mut asked, BATCH) => if count == 0 { return },
            }
            tokio::select! {
                () = finished.cancelled() => return,
                () = self.answer(&mut asked) => {}
            }
        }
    }

    async fn answer(&self, asked: &mut Vec<Asked>) {
        let ids: Vec<DeliveryId> = asked.iter().map(|(id, _)| *id).collect();
        let mut pause = Duration::from_millis(100);
        let settled = loop {
            match self.store.settled(&ids).await {
                Ok(settled) => break settled,
                Err(error) => tracing::debug!(%error, deliveries = ids.len(), "cannot look up deliveries yet"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        };
        for (id, answer) in asked.drain(..) {
            // Who asked may have given up.
            let _ = answer.send(settled.contains(&id));
        }
    }
}
