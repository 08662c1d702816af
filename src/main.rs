//! The program: parse, run, exit code; nothing else.

use std::process::ExitCode;

use clap::Parser as _;
use oncue::cli::{self, Cli};
use oncue::telemetry;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    telemetry::install_panics();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return cli::usage(&error),
    };
    match cli::block_on(cli.run()) {
        Ok(code) => code,
        Err(error) => cli::report(&error),
    }
}
