//! Near duplicates by exact Jaccard similarity, found through an inverted index.
//!
//! Prefix filtering (Chaudhuri et al. 2006, Bayardo et al. 2007): with the n-grams of all texts in one order, two texts whose
//! similarity is at least t share one among the first |A| - ⌈t·|A|⌉ + 1 of A and the like of B. With rare ones first, few texts share
//! any, and only those are compared. Nothing is missed, whatever the order; the order only decides how much is looked at.

use std::collections::HashMap;

use super::text::jaccard;

/// Counts of n-grams are kept in this many cells, by a few bits of their hash: they only order.
const CELLS: usize = 1 << 22;

/// Texts of which some are looked up among others that were looked up before.
pub struct Near {
    threshold: f64,
    texts: Vec<Vec<u64>>,
    /// Of each text, the n-grams of its prefix that some other text has in its own, numbered.
    prefixes: Vec<Vec<u32>>,
    /// The texts added so far with each of these.
    lists: Vec<Vec<u32>>,
    /// The text that last compared itself with each.
    seen: Vec<u32>,
}

impl Near {
    /// Texts as sorted distinct n-grams ([`super::text::shingles`]), none of which is added yet. `threshold` is above 0.
    pub fn new(texts: Vec<Vec<u64>>, threshold: f64) -> Near {
        let mut counts = vec![0u32; CELLS];
        let cell = |gram: u64| (gram >> 42) as usize;
        texts.iter().flatten().for_each(|gram| counts[cell(*gram)] += 1);
        let prefix = |text: &Vec<u64>| -> Vec<u64> {
            let length = text.len() - least(text.len(), threshold).min(text.len()) + usize::from(!text.is_empty());
            let mut order: Vec<(u32, u64)> = text.iter().map(|gram| (counts[cell(*gram)], *gram)).collect();
            order.sort_unstable();
            order.into_iter().take(length).map(|(_, gram)| gram).collect()
        };
        let prefixes: Vec<Vec<u64>> = texts.iter().map(prefix).collect();
        let mut all: Vec<u64> = prefixes.iter().flatten().copied().collect();
        all.sort_unstable();
        let mut numbers: HashMap<u64, u32> = HashMap::new();
        for group in all.chunk_by(|a, b| a == b).filter(|group| group.len() > 1) {
            let next = numbers.len() as u32;
            numbers.insert(group[0], next);
        }
        let numbered = |prefix: &Vec<u64>| prefix.iter().filter_map(|gram| numbers.get(gram).copied()).collect();
        let prefixes = prefixes.iter().map(numbered).collect();
        let (lists, seen) = (vec![Vec::new(); numbers.len()], vec![u32::MAX; texts.len()]);
        Near { threshold, texts, prefixes, lists, seen }
    }

    /// Of the texts added, the one most similar to `text`, if its similarity reaches the threshold; of equals, the first added.
    pub fn find(&mut self, text: usize) -> Option<(usize, f64)> {
        let own = &self.texts[text];
        let mut best: Option<(usize, f64)> = None;
        for gram in &self.prefixes[text] {
            for &other in &self.lists[*gram as usize] {
                let other = other as usize;
                if std::mem::replace(&mut self.seen[other], text as u32) == text as u32 {
                    continue;
                }
                let length = self.texts[other].len();
                if length < least(own.len(), self.threshold) || own.len() < least(length, self.threshold) {
                    continue;
                }
                let similarity = jaccard(own, &self.texts[other]);
                let better = |(first, most): (usize, f64)| similarity > most || (similarity == most && other < first);
                if similarity >= self.threshold && best.is_none_or(better) {
                    best = Some((other, similarity));
                }
            }
        }
        best
    }

    /// From now on, others may be found to be like this one.
    pub fn add(&mut self, text: usize) {
        for gram in &self.prefixes[text] {
            self.lists[*gram as usize].push(text as u32);
        }
    }
}

/// The n-grams that a text has to share with one of `length`, at least. One bit of rounding must not make it one more.
fn least(length: usize, threshold: f64) -> usize {
    (threshold * length as f64 - 1e-9).ceil() as usize
}

#[cfg(test)]
mod tests {
    use super::super::text::{shingles, tokens};
    use super::*;
    use crate::rng::Rng;

    /// Every pair by brute force, against the index: nothing is missed and nothing is made up.
    #[test]
    fn the_index_finds_what_comparing_every_pair_finds() {
        let mut rng = Rng::new(5, "near", 0);
        let mut texts: Vec<Vec<u64>> = Vec::new();
        for i in 0..300 {
            let words: Vec<String> = match i % 3 {
                0 => (0..rng.below(60)).map(|_| rng.below(40).to_string()).collect(),
                // Half of the texts are others with a few words changed.
                _ => (0..30 + i / 10).map(|at| if rng.below(40) == 0 { "x".into() } else { (at % 37).to_string() }).collect(),
            };
            texts.push(shingles(&tokens(&words.join(" ")), 3));
        }
        for threshold in [0.2, 0.5, 0.8, 1.0] {
            let mut near = Near::new(texts.clone(), threshold);
            let mut found = 0;
            for i in 0..texts.len() {
                let mut best: Option<(usize, f64)> = None;
                for j in 0..i {
                    let similarity = jaccard(&texts[i], &texts[j]);
                    if similarity >= threshold && best.is_none_or(|(_, most)| similarity > most) {
                        best = Some((j, similarity));
                    }
                }
                assert_eq!(near.find(i), best, "{threshold} {i}");
                found += usize::from(best.is_some());
                near.add(i);
            }
            assert!(found > 10, "{threshold}: {found}");
        }
    }
}
