//! Some of many: a few of them, spread evenly over all, without knowing how many there will be.
//!
//! Invariant: at most twice as many are held as are given in the end, and the same ones are given for the same sequence.

/// Keeps every `stride`th; when there are too many of those, every other one goes.
#[derive(Debug)]
pub(super) struct Samples<T> {
    wanted: usize,
    stride: u64,
    seen: u64,
    held: Vec<T>,
}

impl<T> Samples<T> {
    /// None yet; `wanted` of them in the end.
    pub(super) fn new(wanted: usize) -> Self {
        Self { wanted, stride: 1, seen: 0, held: Vec::with_capacity(wanted * 2) }
    }

    /// One more; `make` is called if it is kept.
    pub(super) fn offer(&mut self, make: impl FnOnce() -> T) {
        if self.seen.is_multiple_of(self.stride) {
            if self.held.len() == self.wanted * 2 {
                let mut place = 0;
                self.held.retain(|_| {
                    place += 1;
                    place % 2 == 1
                });
                self.stride *= 2;
            }
            // An even number of strides: this one is still among those that are kept.
            self.held.push(make());
        }
        self.seen += 1;
    }

    /// As many as were wanted, or all if there were no more.
    pub(super) fn into_vec(self) -> Vec<T> {
        let (count, wanted) = (self.held.len(), self.wanted.max(1));
        if count <= wanted {
            return self.held;
        }
        let chosen = |place: &usize| (0..wanted).any(|n| n * count / wanted == *place);
        let placed = self.held.into_iter().enumerate();
        placed.filter(|(place, _)| chosen(place)).map(|(_, sample)| sample).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Samples;

    #[test]
    fn samples_are_few_and_spread_over_all() {
        for count in [0_usize, 1, 9, 10, 11, 20, 21, 1_000, 123_457] {
            let mut samples = Samples::new(10);
            for n in 0..count {
                samples.offer(|| n);
                assert!(samples.held.len() <= 20);
            }
            let given = samples.into_vec();
            assert_eq!(given.len(), count.min(10), "{count}");
            assert!(given.is_sorted_by(|a, b| a < b) && given.first().is_none_or(|first| *first == 0), "{given:?}");
            let widest = given.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
            assert!(widest <= count.div_ceil(4), "{count}: {given:?}");
        }
    }
}
