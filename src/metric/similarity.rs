//! How near an answer is to the reference as a text: exact match and edit similarity, what repository-level completion is measured
//! with (RepoCoder, Zhang et al., EMNLP 2023).

use super::tokens::{Comments, lex};

/// Whether two programs are the same but for comments and white space. What that means depends on the language:
///
/// - C-like ones: the same tokens;
/// - Python: the same tokens in the same logical lines at the same depths;
/// - others: the same lines, once each is trimmed and empty ones are dropped (RepoCoder's rule).
///
/// A string is compared as it stands, quotes included; a docstring is a string.
pub fn exact_match(answer: &str, reference: &str, language: &str) -> bool {
    match comments(language) {
        Comments::Hash => logical_lines(answer) == logical_lines(reference),
        Comments::Slashes => tokens(answer) == tokens(reference),
        Comments::Unknown => lines(answer) == lines(reference),
    }
}

/// Levenshtein's distance over the longer length, taken from 1, in characters of the texts with lines trimmed and empty lines dropped;
/// from 0 to 1. RepoCoder's measure, except that it first cuts an answer to the reference's number of lines, because its models go on
/// after the end of what was asked: answers here end where they end. Two empty texts are the same.
pub fn edit_similarity(answer: &str, reference: &str) -> f64 {
    let [a, b] = [answer, reference].map(|text| lines(text).join("\n").chars().collect::<Vec<char>>());
    let longer = a.len().max(b.len());
    if longer == 0 {
        return 1.0;
    }
    // The distance takes time like the product of the lengths, and a repair leaves most of a program as it was: what both begin and
    // end with is part of some shortest way.
    let start = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    let (a, b) = (&a[start..], &b[start..]);
    let end = a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count();
    let (a, b) = (&a[..a.len() - end], &b[..b.len() - end]);
    1.0 - strsim::generic_levenshtein(&a.to_vec(), &b.to_vec()) as f64 / longer as f64
}

fn comments(language: &str) -> Comments {
    match language {
        "python" => Comments::Hash,
        "c" | "cpp" | "c++" | "csharp" | "go" | "java" | "javascript" | "js" | "kotlin" | "rust" | "scala" | "swift"
        | "typescript" | "ts" => Comments::Slashes,
        _ => Comments::Unknown,
    }
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect()
}

fn tokens(text: &str) -> Vec<&str> {
    lex(text, Comments::Slashes).into_iter().map(|(_, token)| token).collect()
}

/// Python's logical lines: the depth of each, and its tokens. A line goes on after a backslash and inside brackets.
fn logical_lines(text: &str) -> Vec<(usize, Vec<&str>)> {
    let mut lines: Vec<(usize, Vec<&str>)> = Vec::new();
    // The widths of the open blocks.
    let mut blocks: Vec<usize> = Vec::new();
    let (mut brackets, mut end, mut goes_on) = (0usize, 0, false);
    for (at, token) in lex(text, Comments::Hash) {
        let fresh = lines.is_empty() || text[end..at].contains('\n') && brackets == 0 && !goes_on;
        end = at + token.len();
        goes_on = token == "\\" && text[end..].trim_start_matches([' ', '\t', '\r']).starts_with('\n');
        if goes_on {
            continue;
        }
        if fresh {
            let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
            let width = width(&text[start..at]);
            while blocks.last().is_some_and(|block| *block > width) {
                blocks.pop();
            }
            if blocks.last().is_none_or(|block| *block < width) {
                blocks.push(width);
            }
            lines.push((blocks.len(), Vec::new()));
        }
        match token {
            "(" | "[" | "{" => brackets += 1,
            ")" | "]" | "}" => brackets = brackets.saturating_sub(1),
            _ => {}
        }
        if let Some((_, tokens)) = lines.last_mut() {
            tokens.push(token);
        }
    }
    lines
}

/// Columns of an indentation; a tab goes to the next multiple of 8, as Python has it.
fn width(indentation: &str) -> usize {
    indentation.chars().fold(0, |width, c| if c == '\t' { (width / 8 + 1) * 8 } else { width + 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_matches_in_its_blocks_and_not_in_its_layout() {
        let reference = "def f(a):\n    if a:\n        a = [1,\n  2]\n    return a  # done\n";
        for same in [
            "def f(a):\n\tif a:\n\t\ta = [1, 2]\n\treturn a",
            "# first\n\ndef f( a ):\n  if a:\n    a = [ 1 , 2 ]\n\n  return \\\n a\n",
        ] {
            assert!(exact_match(same, reference, "python"), "{same}");
        }
        for other in [
            "def f(a):\n    if a:\n        a = [1, 2]\n        return a\n",
            "def f(a):\n    if a:\n        a = [1, 3]\n    return a\n",
            "def f(a):\n    if a:\n        a = [1, 2] return a\n",
            "",
        ] {
            assert!(!exact_match(other, reference, "python"), "{other}");
        }
        assert!(!exact_match("x = '#'", "x = '# '", "python"));
        assert!(exact_match("", "# nothing\n", "python"));
    }

    #[test]
    fn c_like_code_matches_by_tokens_and_other_text_by_lines() {
        assert!(exact_match("int f(){return 1;}//x", "/* y */ int f( ) {\n  return 1;\n}", "java"));
        assert!(!exact_match("int f(){return 1;}", "int f(){return 11;}", "java"));
        assert!(!exact_match("s = \"//\";", "s = \"\";", "cpp"));
        assert!(exact_match("  a b\n\n c", "a b\nc\n", "lean"));
        assert!(!exact_match("a  b", "a b", "lean"));
    }

    #[test]
    fn edit_similarity_of_hand_worked_cases() {
        // kitten to sitting takes 3 edits, and the longer has 7 characters. One of 4 characters differs; all of 3 do.
        let cases = [
            ("kitten", "sitting", 1.0 - 3.0 / 7.0),
            ("  ab\n\n cé", "ab\nce", 0.8),
            ("", "abc", 0.0),
            ("", " \n", 1.0),
            ("a", "a", 1.0),
        ];
        for (answer, reference, expected) in cases {
            assert!((edit_similarity(answer, reference) - expected).abs() < 1e-15, "{answer}");
        }
        // With much in common at both ends, and where those overlap, as without looking at the ends.
        for (answer, reference) in
            [("abcabcab", "abcab"), ("aaa", "aaaaa"), ("xaby", "xby"), ("return a - b", "return b + a"), ("ab", "ba")]
        {
            assert!(
                (edit_similarity(answer, reference) - strsim::normalized_levenshtein(answer, reference)).abs() < 1e-15,
                "{answer}"
            );
        }
    }
}
