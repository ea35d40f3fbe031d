//! The example services alone, without the rest of Pumasi: `lab-app <kind> [options]`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((kind, rest)) = args.split_first() else {
        eprintln!("lab-app <kind> {}", pumasi_lab::example::USAGE);
        return ExitCode::from(2);
    };
    match pumasi_lab::example::run(kind, rest) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab-app {kind}: {error}");
            ExitCode::FAILURE
        }
    }
}
