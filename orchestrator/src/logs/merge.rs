//! Several logs read at once, in the order of their times.
//!
//! What the logs have when this begins comes in order; what comes later, as it comes. Of each log
//! no more is held than its reader hands over at once.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::LogError;
use super::read::{Found, LogReader, ReadItem};

/// The most items of one answer.
const MAX_ITEMS: usize = 1024;

type Reading = Pin<Box<dyn Future<Output = (LogReader, Result<Found, LogError>)> + Send>>;

/// See the module.
pub struct MergedLogs(Vec<Source>);

struct Source {
    /// None at its end.
    reading: Option<Reading>,
    items: VecDeque<ReadItem>,
    /// All that it had was read once.
    is_live: bool,
}

impl Source {
    /// Whether nothing that is older than what others have will come.
    fn is_known(&self) -> bool {
        !self.items.is_empty() || self.is_live || self.reading.is_none()
    }

    /// When its next item belongs. What is missing is told at once.
    fn time_ns(&self) -> Option<u64> {
        self.items.front().map(|item| match item {
            ReadItem::Line(line) => line.time_ns,
            ReadItem::Missed { .. } => 0,
        })
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Result<(), LogError> {
        while self.items.is_empty()
            && let Some(reading) = &mut self.reading
            && let Poll::Ready((reader, found)) = reading.as_mut().poll(context)
        {
            self.reading = match found? {
                Found::Items(items) => {
                    self.items.extend(items);
                    Some(begin(reader))
                }
                Found::AllForNow => {
                    self.is_live = true;
                    Some(begin(reader))
                }
                Found::End => None,
            };
        }
        Ok(())
    }
}

fn begin(mut reader: LogReader) -> Reading {
    Box::pin(async move {
        let found = reader.next().await;
        (reader, found)
    })
}

impl MergedLogs {
    /// Begins to read.
    #[must_use]
    pub fn new(readers: impl IntoIterator<Item = LogReader>) -> Self {
        let source = |reader| Source {
            reading: Some(begin(reader)),
            items: VecDeque::new(),
            is_live: false,
        };
        Self(readers.into_iter().map(source).collect())
    }

    /// The next items, at least one, each with the number of its reader. None when all readers
    /// are at their ends. The future can be dropped at any time without losing items.
    ///
    /// # Errors
    ///
    /// The first that a reader has, with the reader's number. It is at its end then.
    pub async fn next(&mut self) -> Result<Option<Vec<(usize, ReadItem)>>, (usize, LogError)> {
        poll_fn(|context| {
            for (number, source) in self.0.iter_mut().enumerate() {
                if let Err(error) = source.poll(context) {
                    source.reading = None;
                    return Poll::Ready(Err((number, error)));
                }
            }
            let items = self.take();
            if !items.is_empty() {
                return Poll::Ready(Ok(Some(items)));
            }
            match self.0.iter().all(|source| source.reading.is_none()) {
                true => Poll::Ready(Ok(None)),
                false => Poll::Pending,
            }
        })
        .await
    }

    /// Takes what is known to be next.
    fn take(&mut self) -> Vec<(usize, ReadItem)> {
        let mut taken = Vec::new();
        while taken.len() < MAX_ITEMS && self.0.iter().all(Source::is_known) {
            let sources = self.0.iter_mut().enumerate();
            let times = sources.filter_map(|(number, source)| Some((source.time_ns()?, number)));
            let Some((_, number)) = times.min() else { break };
            let item = self.0.get_mut(number).and_then(|source| source.items.pop_front());
            taken.extend(item.map(|item| (number, item)));
        }
        taken
    }
}
