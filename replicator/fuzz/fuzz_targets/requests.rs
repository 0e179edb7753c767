#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| baton_replicator::frontend::fuse::fuzz_requests(data));
