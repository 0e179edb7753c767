//! The command line of Baton. All of it is in `baton_operator::cli`; this starts it and ends with its code.

use baton_operator::cli;
use std::process::ExitCode;

fn main() -> ExitCode {
    baton_replicator::process::abort_on_panic();
    let cli = cli::parse();
    baton_operator::security::use_ring();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = match runtime {
        Ok(runtime) => {
            let ended = runtime.block_on(cli::run(cli));
            // A check of 'doctor' that hangs on a dead disk must not keep the command from ending.
            runtime.shutdown_background();
            ended
        }
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
