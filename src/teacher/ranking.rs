//! Rankings of several solutions: what a judge's ranking says, in which orders solutions are shown, and how far rankings agree.

use super::judge::{Preferred, place_p};
use super::{Reply, Stop};

/// The orders in which `count` solutions are shown, at most twice `count`: 0, 1, 2 and so on, its reverse, both turned by one place,
/// and so on, so that no solution keeps a place.
pub fn orders(count: usize, orders: usize) -> Vec<Vec<usize>> {
    let order = |index: usize| {
        let mut order: Vec<usize> = (0..count).map(|place| (place + index / 2) % count).collect();
        if index % 2 == 1 {
            order.reverse();
        }
        order
    };
    (0..orders.min(2 * count)).map(order).collect()
}

/// Reads a reply's last `Ranking:` line, such as `B > A = C`: the rank of each of the `count` solutions shown, 0 for the best, equal
/// ranks for equals. In any case, with or without Markdown and the word "Solution"; also from worst to best with `<`. None for a reply
/// that was cut or refused, and for a line that does not name each solution once.
pub fn read(reply: &Reply, count: usize) -> Option<Vec<usize>> {
    if reply.stop != Stop::End {
        return None;
    }
    let text = reply.text.to_ascii_lowercase().replace(['*', '`', '_', '#'], "");
    let line = text.lines().rev().find(|line| line.contains("ranking:"))?;
    let [_, ranking] = line.split("ranking:").collect::<Vec<_>>()[..] else { return None };
    let ranking: String = ranking.replace("solution", "").chars().filter(|c| !c.is_whitespace()).collect();
    let ranking = ranking.trim_end_matches('.');
    let rising = ranking.contains('<');
    if rising && ranking.contains('>') {
        return None;
    }
    let groups: Vec<&str> = ranking.split(['<', '>']).collect();
    let mut ranks = vec![None; count];
    for (place, group) in groups.iter().enumerate() {
        for letter in group.split('=') {
            let &[letter] = letter.as_bytes() else { return None };
            let rank = ranks.get_mut(usize::from(letter.checked_sub(b'a')?))?;
            if rank.replace(if rising { groups.len() - 1 - place } else { place }).is_some() {
                return None;
            }
        }
    }
    ranks.into_iter().collect()
}

/// The preference between two ranks, smaller ones being better.
fn preferred(a: usize, b: usize) -> Preferred {
    match a.cmp(&b) {
        std::cmp::Ordering::Less => Preferred::First,
        std::cmp::Ordering::Greater => Preferred::Second,
        std::cmp::Ordering::Equal => Preferred::Tie,
    }
}

/// A group of solutions, ranked in several orders.
#[derive(Debug, Clone, Default)]
pub struct Ranked {
    /// For each order, the solutions in the order in which they were shown, and the rank of each solution (not of each place), if
    /// the ranking could be read.
    pub rankings: Vec<(Vec<usize>, Option<Vec<usize>>)>,
}

impl Ranked {
    /// Adds a judge's reply to solutions shown in this order.
    pub fn add(&mut self, order: Vec<usize>, reply: &Reply) {
        let by_solution = read(reply, order.len()).map(|by_place| {
            let mut ranks = vec![0; order.len()];
            order.iter().zip(by_place).for_each(|(solution, rank)| ranks[*solution] = rank);
            ranks
        });
        self.rankings.push((order, by_solution));
    }

    /// What each ranking says about solutions `a` and `b`, `a` seen as the first.
    pub fn votes(&self, a: usize, b: usize) -> Vec<Preferred> {
        let vote =
            |ranks: &Option<Vec<usize>>| ranks.as_ref().map_or(Preferred::Unreadable, |ranks| preferred(ranks[a], ranks[b]));
        self.rankings.iter().map(|(_, ranks)| vote(ranks)).collect()
    }
}

/// Kendall's tau-b of two rankings of the same solutions: 1 for the same order, -1 for the reverse. None where one of them ranks all
/// alike.
pub fn tau(a: &[usize], b: &[usize]) -> Option<f64> {
    let (mut sum, mut ordered_a, mut ordered_b) = (0.0, 0.0, 0.0);
    for j in 0..a.len() {
        for i in 0..j {
            let sign = |ranks: &[usize]| (ranks[i] as f64 - ranks[j] as f64).clamp(-1.0, 1.0);
            let (x, y) = (sign(a), sign(b));
            sum += x * y;
            ordered_a += x * x;
            ordered_b += y * y;
        }
    }
    (ordered_a > 0.0 && ordered_b > 0.0).then(|| sum / f64::sqrt(ordered_a * ordered_b))
}

/// Counts over groups. Position bias shows as first-place wins far from their share.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tally {
    /// Rankings asked for.
    pub rankings: usize,
    /// Rankings that cannot be read.
    pub unreadable: usize,
    /// Pairs of solutions in pairs of rankings of one group, both readable.
    pub pairs: usize,
    /// Of those, pairs on which both rankings say the same, a tie in both included.
    pub agreed: usize,
    /// Kendall's tau of each two rankings of one group, where it is defined.
    pub taus: Vec<f64>,
    /// Rankings with one winner that it was shown first in.
    pub first: usize,
    /// For each ranking with one winner, the first place's fair share: one over the solutions shown.
    pub shares: Vec<f64>,
}

impl Tally {
    /// Counts a group.
    pub fn count(&mut self, group: &Ranked) {
        self.rankings += group.rankings.len();
        let readable: Vec<(&[usize], &[usize])> = group
            .rankings
            .iter()
            .filter_map(|(order, ranks)| ranks.as_ref().map(|ranks| (order.as_slice(), ranks.as_slice())))
            .collect();
        self.unreadable += group.rankings.len() - readable.len();
        for (index, (order, ranks)) in readable.iter().enumerate() {
            if ranks.iter().filter(|rank| **rank == 0).count() == 1 {
                self.shares.push(1.0 / order.len() as f64);
                self.first += usize::from(ranks[order[0]] == 0);
            }
            for (_, earlier) in &readable[..index] {
                self.taus.extend(tau(ranks, earlier));
                for j in 0..ranks.len() {
                    self.pairs += j;
                    self.agreed +=
                        (0..j).filter(|i| preferred(ranks[*i], ranks[j]) == preferred(earlier[*i], earlier[j])).count();
                }
            }
        }
    }

    /// Agreed pairs of all pairs that two rankings are about; none without any.
    pub fn agreement(&self) -> Option<f64> {
        (self.pairs > 0).then(|| self.agreed as f64 / self.pairs as f64)
    }

    /// The mean of the taus; none without any.
    pub fn kendall_tau(&self) -> Option<f64> {
        (!self.taus.is_empty()).then(|| self.taus.iter().sum::<f64>() / self.taus.len() as f64)
    }

    /// Rankings won by the one shown first, of those with one winner; none without any.
    pub fn first_place(&self) -> Option<f64> {
        (!self.shares.is_empty()).then(|| self.first as f64 / self.shares.len() as f64)
    }

    /// See [`place_p`].
    pub fn first_place_p(&self) -> Option<f64> {
        place_p(self.first, &self.shares)
    }
}

#[cfg(test)]
mod tests {
    use super::Preferred::*;
    use super::*;

    fn reply(text: &str) -> Reply {
        Reply { text: text.into(), ..Reply::default() }
    }

    #[test]
    fn no_solution_keeps_a_place() {
        assert_eq!(orders(3, 2), [vec![0, 1, 2], vec![2, 1, 0]]);
        let all = orders(3, 9);
        assert_eq!(all, [[0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 2, 1], [2, 0, 1], [1, 0, 2]]);
        for place in 0..3 {
            assert_eq!((0..3).map(|x| all.iter().filter(|order| order[place] == x).count()).collect::<Vec<_>>(), [2, 2, 2]);
        }
    }

    #[test]
    fn the_last_ranking_line_is_read() {
        let cases: [(&str, Option<[usize; 3]>); 12] = [
            ("Ranking: B > A = C", Some([1, 0, 1])),
            ("x\n**Ranking:** Solution C > Solution B > Solution A.", Some([2, 1, 0])),
            ("Ranking: A = B = C", Some([0, 0, 0])),
            ("ranking: a<b<c", Some([2, 1, 0])),
            ("Ranking: A > B > C\nRanking: C = A > B", Some([0, 1, 0])),
            ("Ranking: A > B", None),
            ("Ranking: A > B > C > D", None),
            ("Ranking: A > B > A", None),
            ("Ranking: A > B < C", None),
            ("Ranking: A > > C", None),
            ("Ranking: A > B > C Ranking: B > A > C", None),
            ("A > B > C", None),
        ];
        for (text, expected) in cases {
            assert_eq!(read(&reply(text), 3), expected.map(Vec::from), "{text:?}");
        }
        assert_eq!(read(&Reply { stop: Stop::Length, ..reply("Ranking: A > B > C") }, 3), None);
        assert_eq!(read(&Reply { stop: Stop::Refusal, ..reply("Ranking: A > B > C") }, 3), None);
    }

    #[test]
    fn kendalls_tau_by_hand() {
        assert_eq!(tau(&[0, 1, 2], &[0, 1, 2]), Some(1.0));
        assert_eq!(tau(&[0, 1, 2], &[2, 1, 0]), Some(-1.0));
        // Of three pairs two agree, one does not.
        assert!((tau(&[0, 1, 2], &[0, 2, 1]).unwrap() - 1.0 / 3.0).abs() < 1e-15);
        // One pair is tied in the second: 2 / sqrt(3 * 2).
        assert!((tau(&[0, 1, 2], &[0, 1, 1]).unwrap() - 2.0 / 6f64.sqrt()).abs() < 1e-15);
        assert_eq!(tau(&[0, 0, 0], &[0, 1, 2]), None);
    }

    #[test]
    fn rankings_become_votes_and_rates() {
        // Shown 0 1 2: "B > A = C" says 1 first, 0 and 2 equal. Shown 2 1 0: "B > C > A" says 1, then 0, then 2.
        let mut group = Ranked::default();
        group.add(vec![0, 1, 2], &reply("Ranking: B > A = C"));
        group.add(vec![2, 1, 0], &reply("Ranking: B > C > A"));
        assert_eq!(group.rankings[1].1, Some(vec![1, 0, 2]));
        assert_eq!(group.votes(0, 1), [Second, Second]);
        assert_eq!(group.votes(0, 2), [Tie, First]);
        assert_eq!(group.votes(1, 2), [First, First]);
        let mut tally = Tally::default();
        tally.count(&group);
        assert_eq!((tally.rankings, tally.unreadable, tally.pairs, tally.agreed), (2, 0, 3, 2));
        assert!((tally.kendall_tau().unwrap() - 2.0 / 6f64.sqrt()).abs() < 1e-15);
        assert_eq!((tally.first, tally.first_place()), (0, Some(0.0)));

        // Whatever is shown, the first is the best: pairs never agree, and the first place wins four of four.
        let mut biased = Ranked::default();
        for order in orders(2, 2) {
            biased.add(order, &reply("Ranking: A > B"));
        }
        biased.add(vec![0, 1], &reply("no idea"));
        assert_eq!(biased.votes(0, 1), [First, Second, Unreadable]);
        let mut tally = Tally::default();
        (0..2).for_each(|_| tally.count(&biased));
        assert_eq!((tally.rankings, tally.unreadable, tally.agreement()), (6, 2, Some(0.0)));
        assert_eq!((tally.first_place(), tally.kendall_tau(), tally.first_place_p()), (Some(1.0), Some(-1.0), Some(0.125)));
    }
}
