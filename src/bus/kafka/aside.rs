//! A client whose end blocks: its threads are joined, and what it holds is given up.
//!
//! Invariant: whoever lets go of the last hold on it, an executor's thread does not wait for its end.

/// Something that is dropped on a thread for blocking calls.
pub(super) struct Aside<T: Send + 'static>(Option<T>);

impl<T: Send + 'static> Aside<T> {
    pub(super) fn new(inside: T) -> Self {
        Self(Some(inside))
    }
}

impl<T: Send + 'static> std::ops::Deref for Aside<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("it is only taken when it is dropped")
    }
}

impl<T: Send + 'static> Drop for Aside<T> {
    fn drop(&mut self) {
        let inside = self.0.take();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || drop(inside));
        }
    }
}
