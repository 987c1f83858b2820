//! Setting up a run: a recipe for a benchmark, a model and a machine ([`write()`]), what has to be asked for it ([`ask()`]), and whether
//! a machine can run a recipe ([`check()`]).

mod ask;
mod check;
mod here;
mod suites;
mod write;

pub use ask::{Dialogue, Given, ask};
pub use check::{Found, Standing, check, stages};
pub use here::Here;
pub use suites::{SUITES, Suite};
pub use write::{Answers, Goal, TeacherChoice, commands, write};
