//! The command line of Baton. All of it is in `baton_operator::cli`; this starts it and ends with its code.

use baton_operator::cli::{self, args::Cli};
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(cli::run(cli)),
        Err(error) => {
            eprintln!("baton: cannot start: {error}");
            return ExitCode::from(cli::Exit::Failed as u8);
        }
    };
    match ended {
        Ok(exit) => ExitCode::from(exit as u8),
        Err(error) => {
            eprintln!("baton: {error}");
            ExitCode::from(error.exit as u8)
        }
    }
}
