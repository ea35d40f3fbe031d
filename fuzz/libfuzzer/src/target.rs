//! One binary a target: the file that is compiled is this one for all of them, the name of the binary says which it runs.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let name = option_env!("CARGO_BIN_NAME").unwrap_or_default();
    if let Some(target) = pumasi_fuzz::find(name) {
        (target.run)(input);
    } else {
        panic!("there is no target {name}");
    }
});
