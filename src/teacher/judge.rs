//! What a judgment says, when several judgments of one pair make a label, and whether places win by chance.

use super::{Reply, Stop};

/// What a judge preferred, by the place in which it was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preferred {
    /// The one shown first, as A.
    First,
    /// The one shown second, as B.
    Second,
    /// Neither.
    Tie,
    /// The text does not say.
    Unreadable,
}

impl Preferred {
    /// Reads a reply's last `Ranking:` line: `A > B`, `B > A` or `A = B`, in any case, with or without Markdown and the word
    /// "Solution". A reply that was cut or refused, or whose last such line says anything else, is unreadable.
    pub fn read(reply: &Reply) -> Preferred {
        if reply.stop != Stop::End {
            return Preferred::Unreadable;
        }
        let text = reply.text.to_ascii_lowercase().replace(['*', '`', '_', '#'], "");
        let Some(line) = text.lines().rev().find(|line| line.contains("ranking:")) else { return Preferred::Unreadable };
        let parts: Vec<&str> = line.split("ranking:").collect();
        // The instruction repeated, with its three forms on one line, is no answer.
        let [_, ranking] = parts[..] else { return Preferred::Unreadable };
        let ranking: String = ranking.replace("solution", "").chars().filter(|c| !c.is_whitespace()).collect();
        match ranking.trim_end_matches('.') {
            "a>b" | "b<a" => Preferred::First,
            "b>a" | "a<b" => Preferred::Second,
            "a=b" | "b=a" => Preferred::Tie,
            _ => Preferred::Unreadable,
        }
    }

    /// The same preference where the pair had been shown the other way round.
    pub fn swapped(self) -> Preferred {
        match self {
            Preferred::First => Preferred::Second,
            Preferred::Second => Preferred::First,
            other => other,
        }
    }

    /// The label of one judgment alone: 1 if the one shown first is better, 0 if the other; a tie gives none, or 0.5 with
    /// `keep_ties`; what cannot be read gives none.
    pub fn label(self, keep_ties: bool) -> Option<f64> {
        match self {
            Preferred::First => Some(1.0),
            Preferred::Second => Some(0.0),
            Preferred::Tie => keep_ties.then_some(0.5),
            Preferred::Unreadable => None,
        }
    }
}

/// The label of a pair that was shown both ways: `forward` with y_a first, `backward` with y_b first. 1 if both prefer y_a, 0 if
/// both prefer y_b. Disagreement and ties give none, or 0.5 with `keep_ties`; a judgment that cannot be read gives none.
pub fn combine(forward: Preferred, backward: Preferred, keep_ties: bool) -> Option<f64> {
    match (forward, backward.swapped()) {
        (Preferred::Unreadable, _) | (_, Preferred::Unreadable) => None,
        (a, b) if a == b => a.label(keep_ties),
        _ => keep_ties.then_some(0.5),
    }
}

/// Counts over the pairs that were shown both ways. Position bias shows as first-place wins far from half.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Pairs judged.
    pub pairs: usize,
    /// Pairs whose two judgments could be read.
    pub readable: usize,
    /// Of those, pairs whose two judgments say the same, a tie both ways included.
    pub agreed: usize,
    /// Judgments, two a pair, that name a winner.
    pub decided: usize,
    /// Of those, judgments won by the one shown first.
    pub first: usize,
    /// Judgments that cannot be read.
    pub unreadable: usize,
}

impl Tally {
    /// Counts a pair's two judgments.
    pub fn count(&mut self, forward: Preferred, backward: Preferred) {
        self.pairs += 1;
        let both = [forward, backward];
        self.first += both.iter().filter(|judgment| **judgment == Preferred::First).count();
        self.decided += both.iter().filter(|judgment| matches!(judgment, Preferred::First | Preferred::Second)).count();
        let unreadable = both.iter().filter(|judgment| **judgment == Preferred::Unreadable).count();
        self.unreadable += unreadable;
        if unreadable == 0 {
            self.readable += 1;
            self.agreed += usize::from(forward == backward.swapped());
        }
    }

    /// Agreed pairs of the readable ones; none without any.
    pub fn agreement(&self) -> Option<f64> {
        (self.readable > 0).then(|| self.agreed as f64 / self.readable as f64)
    }

    /// Judgments won by the one shown first, of those that name a winner; none without any.
    pub fn first_place(&self) -> Option<f64> {
        (self.decided > 0).then(|| self.first as f64 / self.decided as f64)
    }
}

/// The label of a pair that was judged several times, each seen with y_a first: [`combine`] for any number of judgments.
pub fn unanimous(votes: &[Preferred], keep_ties: bool) -> Option<f64> {
    let first = *votes.first()?;
    if votes.contains(&Preferred::Unreadable) {
        None
    } else if votes.iter().all(|vote| *vote == first) {
        first.label(keep_ties)
    } else {
        keep_ties.then_some(0.5)
    }
}

/// How likely a number of first-place wins at least as unlikely as `first` is, if the place did not matter: the exact two-sided
/// binomial test, where judgment i, of `chances.len()`, is won by the first place with probability `chances[i]`: a half for a pair,
/// 1/k for k solutions. None without judgments.
pub fn place_p(first: usize, chances: &[f64]) -> Option<f64> {
    if chances.is_empty() {
        return None;
    }
    // wins[n]: the probability of n wins.
    let mut wins = vec![1.0];
    for chance in chances {
        wins.push(0.0);
        for n in (0..wins.len()).rev() {
            wins[n] = wins[n] * (1.0 - chance) + if n > 0 { wins[n - 1] * chance } else { 0.0 };
        }
    }
    // Equal probabilities may differ in their last bits.
    let limit = wins[first] * (1.0 + 1e-9);
    Some(wins.iter().filter(|p| **p <= limit).sum::<f64>().min(1.0))
}

#[cfg(test)]
mod tests {
    use super::Preferred::*;
    use super::*;

    fn read(text: &str, stop: Stop) -> Preferred {
        Preferred::read(&Reply { text: text.into(), stop, ..Reply::default() })
    }

    #[test]
    fn the_last_ranking_line_counts() {
        let cases = [
            ("A is right.\nRanking: A > B", First),
            ("Ranking: A > B\nOn reflection:\n**Ranking: B > A**\n", Second),
            ("ranking:a=b.", Tie),
            ("Ranking: Solution B > Solution A", Second),
            ("Ranking: A < B", Second),
            ("**Ranking:** `B < A`\nThanks!", First),
            ("Ranking: A > B > C", Unreadable),
            ("Ranking: A > B, Ranking: B > A or Ranking: A = B.", Unreadable),
            ("Ranking: A > B\nRanking: neither", Unreadable),
            ("A > B", Unreadable),
            ("", Unreadable),
        ];
        for (text, expected) in cases {
            assert_eq!(read(text, Stop::End), expected, "{text:?}");
        }
        assert_eq!(read("Ranking: A > B", Stop::Length), Unreadable);
        assert_eq!(read("Ranking: A > B", Stop::Refusal), Unreadable);
    }

    #[test]
    fn only_agreement_makes_a_label() {
        let table = [
            ((First, Second), [Some(1.0), Some(1.0)]),
            ((Second, First), [Some(0.0), Some(0.0)]),
            ((First, First), [None, Some(0.5)]),
            ((Second, Second), [None, Some(0.5)]),
            ((Tie, Tie), [None, Some(0.5)]),
            ((First, Tie), [None, Some(0.5)]),
            ((First, Unreadable), [None, None]),
            ((Unreadable, Unreadable), [None, None]),
        ];
        let mut tally = Tally::default();
        for ((forward, backward), [dropped, kept]) in table {
            assert_eq!(combine(forward, backward, false), dropped, "{forward:?} {backward:?}");
            assert_eq!(combine(forward, backward, true), kept, "{forward:?} {backward:?}");
            tally.count(forward, backward);
        }
        assert_eq!(tally, Tally { pairs: 8, readable: 6, agreed: 3, decided: 10, first: 6, unreadable: 3 });
        assert_eq!((tally.agreement(), tally.first_place()), (Some(0.5), Some(0.6)));
        assert_eq!((Tally::default().agreement(), Tally::default().first_place()), (None, None));
    }

    #[test]
    fn all_votes_have_to_agree() {
        assert_eq!(unanimous(&[First, First, First], false), Some(1.0));
        assert_eq!(unanimous(&[Second, Second], false), Some(0.0));
        assert_eq!(unanimous(&[First, Tie, First], false), None);
        assert_eq!(unanimous(&[First, Second, First], true), Some(0.5));
        assert_eq!(unanimous(&[Tie, Tie], true), Some(0.5));
        assert_eq!(unanimous(&[First, Unreadable], true), None);
        assert_eq!(unanimous(&[], true), None);
    }

    #[test]
    fn places_are_tested_exactly() {
        let near = |p: Option<f64>, expected: f64| assert!((p.unwrap() - expected).abs() < 1e-12, "{p:?} {expected}");
        // Of four fair judgments: 1, 4, 6, 4, 1 sixteenths.
        near(place_p(4, &[0.5; 4]), 2.0 / 16.0);
        near(place_p(3, &[0.5; 4]), 10.0 / 16.0);
        near(place_p(2, &[0.5; 4]), 1.0);
        // Of two thirds: none 4/9, one 4/9, two 1/9.
        near(place_p(2, &[1.0 / 3.0; 2]), 1.0 / 9.0);
        near(place_p(0, &[1.0 / 3.0; 2]), 1.0);
        // A half and a quarter: none 3/8, one 4/8, two 1/8.
        near(place_p(0, &[0.5, 0.25]), 0.5);
        assert_eq!(place_p(0, &[]), None);
    }
}
