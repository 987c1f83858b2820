//! Stop strings in text that comes in pieces: they are never told, not even a beginning of one.

/// Looks for stop strings in the text of one answer.
pub(super) struct Stops {
    strings: Vec<String>,
    /// Text that was not told yet, since it may be the beginning of a stop string.
    held: String,
}

impl Stops {
    pub fn new(strings: Vec<String>) -> Stops {
        Stops { strings, held: String::new() }
    }

    /// Takes a piece of text: what can be told now, and whether a stop string ends the answer. Of several, the first in the text ends it.
    pub fn push(&mut self, piece: &str) -> (String, bool) {
        self.held += piece;
        if let Some(at) = self.strings.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let begins = |start: &usize| self.strings.iter().any(|stop| stop.starts_with(&self.held[*start..]));
        let safe = self.held.char_indices().map(|(start, _)| start).find(begins).unwrap_or(self.held.len());
        let rest = self.held.split_off(safe);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// The end of the text: what was held back.
    pub fn finish(self) -> String {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let mut matcher = Stops::new(stops.iter().map(|stop| stop.to_string()).collect());
        let mut text = String::new();
        for piece in pieces {
            let (part, stopped) = matcher.push(piece);
            text += &part;
            if stopped {
                return (text, true);
            }
        }
        (text + &matcher.finish(), false)
    }

    #[test]
    fn a_stop_string_is_found_over_any_boundary_and_never_told() {
        let whole = "ab\n\n日本END rest";
        let cuts: Vec<usize> = whole.char_indices().map(|(at, _)| at).collect();
        for cut in &cuts {
            for other in cuts.iter().filter(|other| *other >= cut) {
                let pieces = [&whole[..*cut], &whole[*cut..*other], &whole[*other..]];
                assert_eq!(told(&["END", "本EN!"], &pieces), ("ab\n\n日本".into(), true));
                assert_eq!(told(&["本END", "END"], &pieces), ("ab\n\n日".into(), true));
                assert_eq!(told(&["\n\n\n"], &pieces), (whole.into(), false));
            }
        }
    }

    #[test]
    fn only_what_may_begin_a_stop_string_is_held() {
        let mut stops = Stops::new(vec!["aab".into()]);
        assert_eq!(stops.push("xa"), ("x".into(), false));
        assert_eq!(stops.push("a"), ("".into(), false));
        assert_eq!(stops.push("a"), ("a".into(), false));
        assert_eq!(stops.push("c"), ("aac".into(), false));
        assert_eq!(stops.push("aa"), ("".into(), false));
        assert_eq!(stops.finish(), "aa");
    }
}
