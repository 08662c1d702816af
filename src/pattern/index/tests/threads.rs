//! Matching while patterns come and go: an answer is always that of one moment of the call.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use proptest::strategy::ValueTree;
use proptest::test_runner::{RngSeed, TestRunner};

use super::*;

const READERS: usize = 8;
const PATTERNS: u32 = 150;
const CHANGES: usize = 10_000;

fn some<T>(strategy: &impl Strategy<Value = T>, runner: &mut TestRunner) -> T {
    strategy.new_tree(runner).expect("the generator makes some").current()
}

#[test]
fn eight_threads_get_answers_of_moments_while_patterns_are_added_and_deleted() {
    let config = ProptestConfig { rng_seed: RngSeed::Fixed(7), ..config(1) };
    let mut runner = TestRunner::new(config);
    let patterns: Vec<Arc<Pattern>> = (0..PATTERNS).map(|_| some(&sound_pattern(), &mut runner)).collect();
    let events: Vec<String> = (0..32).map(|_| some(&fitting_event(), &mut runner)).collect();
    // Each change adds a pattern that is not there or deletes one that is.
    let changes: Vec<u32> = (0..CHANGES).map(|_| some(&(0..PATTERNS), &mut runner)).collect();
    let mut there = vec![vec![false; PATTERNS as usize]];
    for id in &changes {
        let mut next = there[there.len() - 1].clone();
        next[*id as usize] ^= true;
        there.push(next);
    }
    let matches: Vec<Vec<bool>> = events
        .iter()
        .map(|event| Json::parse(event.as_bytes()).expect("JSON"))
        .map(|event| patterns.iter().map(|pattern| pattern.matches(&event)).collect())
        .collect();
    let (live, begun, done, over) = (Live::default(), AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let answers = AtomicUsize::new(0);
    thread::scope(|scope| {
        for reader in 0..READERS {
            let (live, begun, done, over, events) = (&live, &begun, &done, &over, &events);
            let (matches, there, answers) = (&matches, &there, &answers);
            scope.spawn(move || {
                let mut scratch = Scratch::default();
                for at in (reader..).take_while(|_| !over.load(Ordering::SeqCst)) {
                    let event = at % events.len();
                    let first = done.load(Ordering::SeqCst);
                    let found = found(&live.load(), &events[event], &mut scratch);
                    let last = begun.load(Ordering::SeqCst);
                    let of = |moment: usize| {
                        let wanted =
                            (0..PATTERNS).filter(|id| there[moment][*id as usize] && matches[event][*id as usize]);
                        wanted.eq(found.iter().copied())
                    };
                    assert!((first..=last).any(of), "{found:?} is no answer of {first}..={last}");
                    answers.fetch_add(1, Ordering::Relaxed);
                    // There are fewer processors than threads, and changes are what the test is about.
                    thread::yield_now();
                }
            });
        }
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                live.merge();
                thread::yield_now();
            }
        });
        for (at, id) in changes.iter().enumerate() {
            begun.store(at + 1, Ordering::SeqCst);
            let pattern = there[at + 1][*id as usize].then(|| Arc::clone(&patterns[*id as usize]));
            live.change([(*id, pattern)]);
            done.store(at + 1, Ordering::SeqCst);
        }
        over.store(true, Ordering::SeqCst);
    });
    assert!(answers.into_inner() > 0);
    let last = &there[CHANGES];
    assert_eq!(live.load().len(), last.iter().filter(|is| **is).count());
}
