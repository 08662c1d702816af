//! One call of a function: a fresh instance and a call, beside the bare wasmtime loop with the same settings.
//!
//! `cargo bench --bench invoke -- [CALLS]` prints calls per second and microseconds (p50, p99) of `Runtime::invoke` and
//! of a hand-written loop over the same engine, on one thread and on two, and their ratios.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use oncue::delivery::Outcome;
use oncue::event::Event;
use oncue::event::codec::{self, Limits};
use oncue::function::FunctionSpec;
use oncue::runtime::{CallContext, Compiler, LoadedFunction, Runtime, RuntimeConfig, bare};

/// The program's own allocator.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> Result<()> {
    let calls = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(20_000);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("functions/welcome");
    let event = codec::from_structured(&std::fs::read(root.join("event.json"))?, &Limits::default())?;
    let component = std::fs::read(root.join("welcome.wasm")).context("functions/welcome/welcome.wasm")?;
    let mut spec = FunctionSpec::default();
    spec.grants.publish.push("events/mail.*".to_owned());
    let runtime = Runtime::new(RuntimeConfig {
        compiler: Compiler::Program(env!("CARGO_BIN_EXE_oncue").into()),
        ..RuntimeConfig::default()
    })?;
    let load = tokio::runtime::Runtime::new()?;
    let function = load.block_on(runtime.load("welcome", component.into(), &spec))?;
    measure("warm-up", &runtime, &function, &event, (calls / 10, 1))?;
    let mut table = Vec::new();
    // The two are taken turn by turn, so that what else the machine does hits both.
    for round in 0..3 {
        for threads in [1, 2] {
            let bare_run = bare::run(&runtime, &function, &event, calls, threads);
            ensure!(bare_run.failed == 0, "{} bare calls failed", bare_run.failed);
            table.push((format!("bare {threads}"), figure(bare_run.micros, bare_run.elapsed)));
            let ours = measure(&format!("round {}", round + 1), &runtime, &function, &event, (calls, threads))?;
            table.push((format!("invoke {threads}"), ours));
        }
    }
    let rate = |name: &str| median(table.iter().filter(|(n, _)| n == name).map(|(_, f)| f.rate).collect());
    for (name, f) in &table {
        say(&format!("{name:9} {:8.0} calls/s   p50 {:4} µs   p99 {:4} µs", f.rate, f.p50, f.p99));
    }
    say(&format!("bare / invoke on one thread:  {:.2} (aim: at most 1.3)", rate("bare 1") / rate("invoke 1")));
    say(&format!("bare / invoke on two threads: {:.2}", rate("bare 2") / rate("invoke 2")));
    say(&format!("invoke, two threads / one:    {:.2} (aim: at least 1.6)", rate("invoke 2") / rate("invoke 1")));
    Ok(())
}

#[allow(clippy::print_stdout, reason = "a benchmark's data")]
fn say(line: &str) {
    println!("{line}");
}

struct Figure {
    rate: f64,
    p50: u32,
    p99: u32,
}

fn figure(mut micros: Vec<u32>, elapsed: Duration) -> Figure {
    micros.sort_unstable();
    let at = |share: f64| micros.get((micros.len() as f64 * share) as usize).copied().unwrap_or_default();
    Figure { rate: micros.len() as f64 / elapsed.as_secs_f64(), p50: at(0.5), p99: at(0.99) }
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn measure(
    what: &str,
    runtime: &Runtime,
    function: &Arc<LoadedFunction>,
    event: &Event,
    (calls, threads): (usize, usize),
) -> Result<Figure> {
    let began = Instant::now();
    let results: Vec<Result<Vec<u32>>> = std::thread::scope(|scope| {
        let one = || call(runtime, function, event, calls / threads);
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        handles.into_iter().map(|handle| handle.join().expect("a benchmark thread does not panic")).collect()
    });
    let elapsed = began.elapsed();
    let micros: Vec<Vec<u32>> = results.into_iter().collect::<Result<_>>().context(what.to_owned())?;
    Ok(figure(micros.concat(), elapsed))
}

fn call(runtime: &Runtime, function: &LoadedFunction, event: &Event, calls: usize) -> Result<Vec<u32>> {
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let context = CallContext { delivery_id: "bench".to_owned(), attempt: 1, ..CallContext::default() };
    executor.block_on(async {
        let mut micros = Vec::with_capacity(calls);
        for _ in 0..calls {
            let began = Instant::now();
            let report = runtime.invoke(function, event, context.clone()).await;
            ensure!(matches!(report.outcome, Outcome::Ok(_)), "a call failed: {:?}", report.outcome);
            micros.push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
        }
        Ok(micros)
    })
}
