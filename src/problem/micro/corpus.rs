//! Text to train a base model on from nothing: programs, buggy programs, and repairs of which many are wrong. Such a model can
//! repair and does not prefer to, as a base model does; what comes after it has something to teach.

use std::collections::HashSet;

use crate::record::Problem;
use crate::rng::Rng;

use super::{Catalogue, Fix, Knowledge, direct, trace};

/// One training document.
#[derive(Debug, Clone, PartialEq)]
pub enum Document {
    /// Plain text: a sentence and a program, right with its tests, or buggy.
    Text(String),
    /// A prompt, rendered from the problem, and an answer.
    Repair {
        /// What is asked. It does not say what its bug is: a corpus is large, and nobody asks.
        problem: Box<Problem>,
        /// What is answered, right or wrong.
        answer: String,
    },
}

/// How a corpus is mixed. All numbers are probabilities.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mixture {
    /// A document is plain text and no repair.
    pub plain: f64,
    /// A plain program is the correct one.
    pub plain_right: f64,
    /// A repair reasons before its code.
    pub traced: f64,
    /// A repair without a trace is right.
    pub direct_right: f64,
    /// A repair with a trace is right.
    pub traced_right: f64,
    /// A wrong repair gives the buggy code back unchanged.
    pub unchanged: f64,
}

impl Default for Mixture {
    fn default() -> Mixture {
        Mixture { plain: 0.15, plain_right: 0.7, traced: 0.45, direct_right: 0.35, traced_right: 0.6, unchanged: 0.5 }
    }
}

/// `count` documents, the same for the same seed. Programs in `held_out` are in none of them: not as the code of a problem,
/// not as its reference, not as an answer.
pub fn corpus(seed: u64, count: usize, mixture: &Mixture, held_out: &HashSet<String>) -> Vec<Document> {
    let mut catalogue = Catalogue::new();
    let mut documents = Vec::with_capacity(count);
    let mut rng = Rng::new(seed, "micro corpus", 0);
    while documents.len() < count {
        let mut problem = catalogue.draw(&mut rng, format!("micro/corpus/{seed}/{}", documents.len()));
        let buggy = problem.buggy.clone().expect("problems of the suite are repairs");
        let reference = problem.reference.clone().expect("problems of the suite carry their reference");
        if held_out.contains(&buggy) || held_out.contains(&reference) {
            continue;
        }
        if rng.chance(mixture.plain) {
            let tests = problem.check.tests.join("\n");
            let text = match rng.chance(mixture.plain_right) {
                true => format!("{}\n{}\n{tests}", problem.prompt, direct(&reference)),
                false => format!("{}\n{}", problem.prompt, direct(&buggy)),
            };
            documents.push(Document::Text(text));
            continue;
        }
        let traced = rng.chance(mixture.traced);
        let right = rng.chance(if traced { mixture.traced_right } else { mixture.direct_right });
        let fix = if right {
            Fix { kind: problem.kind.clone(), code: reference }
        } else {
            let knowledge = Knowledge::of(&problem).expect("problems of the suite carry their knowledge");
            wrong(&mut rng, &knowledge, &buggy, mixture.unchanged)
        };
        if held_out.contains(&fix.code) {
            continue;
        }
        let answer = if traced { trace(&problem, &fix).expect("problems of the suite can be told") } else { direct(&fix.code) };
        problem.extra.clear();
        documents.push(Document::Repair { problem: Box::new(problem), answer });
    }
    documents
}

/// A repair that fails: the buggy code as it was with probability `unchanged`, else one of the alternatives.
pub(crate) fn wrong(rng: &mut Rng, knowledge: &Knowledge, buggy: &str, unchanged: f64) -> Fix {
    if rng.chance(unchanged) || knowledge.alternatives.is_empty() {
        Fix { kind: String::new(), code: buggy.into() }
    } else {
        rng.pick(&knowledge.alternatives).clone()
    }
}
