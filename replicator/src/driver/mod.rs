//! Placeholder. NOTE FROM LEAD (03:27): the lead writes the driver and the binary in /work/main on top of
//! core/engine/event.rs and attach.rs; helper rcore: finish engine, tests, simulation; skip phase 2
//! (see NOTE-FROM-LEAD.md). Commit the engine as soon as it compiles.
