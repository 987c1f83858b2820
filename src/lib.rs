//! `repairity` turns an open code model into a program-repair model.
//!
//! Modules are declared in the order data flows; a module uses only modules declared above its own, and
//! `tests/structure.rs` holds that.

pub mod error;
pub mod digest;
pub mod rng;
pub mod recipe;
pub mod record;
pub mod hygiene;
pub mod sandbox;
pub mod problem;
pub mod tokenizer;
pub mod prompt;
pub mod convert;
pub mod teacher;
pub mod batch;
pub mod device;
pub mod comm;
pub mod checkpoint;
pub mod weights;
pub mod model;
pub mod generate;
pub mod loss;
pub mod score;
pub mod optim;
pub mod telemetry;
pub mod metric;
pub mod plot;
pub mod stage;
pub mod repair;
pub mod plan;
pub mod run;
pub mod report;
pub mod export;
pub mod serve;
pub mod bench;
pub mod profile;
pub mod doctor;
pub mod setup;
