//! Programs on texts and words.

use super::Input::{FilledText, Positive, Text, Words};
use super::{ONE, Template, template};

/// Letters of a text, words of a list.
pub const TEXTS: &[Template] = &[
    template(
        "count_letter",
        "how often '@' is in S",
        "def F(S):\n    R = 0\n    for X in S:\n        if X == '@':\n            R += 1\n    return R",
        &[("a", "a", ""), ("b", "b", ""), ("e", "e", "")],
        &[Text],
    ),
    template(
        "vowels",
        "how many letters of S are @",
        "def F(S):\n    R = 0\n    for X in S:\n        if X @ 'aeiou':\n            R += 1\n    return R",
        &[("vowels", "in", ""), ("not vowels", "not in", "")],
        &[Text],
    ),
    template(
        "drop_letter",
        "S without the letter '@'",
        "def F(S):\n    R = ''\n    for X in S:\n        if X != '@':\n            R += X\n    return R",
        &[("a", "a", ""), ("b", "b", ""), ("e", "e", "")],
        &[Text],
    ),
    template(
        "reverse_text",
        "S in reverse order",
        "def F(S):\n    R = ''\n    for X in S:\n        R = X + R\n    return R",
        ONE,
        &[Text],
    ),
    template(
        "double_letters",
        "S with every letter doubled",
        "def F(S):\n    R = ''\n    for X in S:\n        R += X + X\n    return R",
        ONE,
        &[Text],
    ),
    template(
        "palindrome",
        "whether S reads the same in both directions",
        "def F(S):\n    for I in range(len(S) // 2):\n        if S[I] != S[-1 - I]:\n            return False\n    return True",
        ONE,
        &[Text],
    ),
    template(
        "ends_equal",
        "whether S starts and ends with the same letter",
        "def F(S):\n    return S[0] == S[-1]",
        ONE,
        &[FilledText],
    ),
    template(
        "cut",
        "S @ its first K letters",
        "def F(S, K):\n    return S[K:]#",
        &[("without", "", ""), ("rotated by", "", " + S[:K]")],
        &[FilledText, Positive],
    ),
    template(
        "repeats",
        "how many letters of S equal the letter before",
        "def F(S):\n    R = 0\n    for I in range(1, len(S)):\n        if S[I] == S[I - 1]:\n            R += 1\n    return R",
        ONE,
        &[Text],
    ),
    template(
        "longest",
        "the first @ word of W",
        "def F(W):\n    R = W[0]\n    for X in W:\n        if len(X) @ len(R):\n            R = X\n    return R",
        &[("longest", ">", ""), ("shortest", "<", "")],
        &[Words],
    ),
    template(
        "count_words",
        "how many words of W have @ K letters",
        "def F(W, K):\n    R = 0\n    for X in W:\n        if len(X) @ K:\n            R += 1\n    return R",
        &[("more than", ">", ""), ("less than", "<", ""), ("exactly", "==", "")],
        &[Words, Positive],
    ),
    template(
        "total_length",
        "the number of letters in all words of W",
        "def F(W):\n    R = 0\n    for X in W:\n        R += len(X)\n    return R",
        ONE,
        &[Words],
    ),
    template(
        "initials",
        "the @ letters of the words of W",
        "def F(W):\n    R = ''\n    for X in W:\n        R += X[#]\n    return R",
        &[("first", "", "0"), ("last", "", "-1")],
        &[Words],
    ),
    template(
        "lengths",
        "the lengths of the words of W",
        "def F(W):\n    R = []\n    for X in W:\n        R.append(len(X))\n    return R",
        ONE,
        &[Words],
    ),
    template(
        "keep_words",
        "the words of W @",
        "def F(W):\n    return [X for X in W if '#' @ X]",
        &[("with the letter a", "in", "a"), ("without the letter a", "not in", "a"), ("with the letter b", "in", "b")],
        &[Words],
    ),
];
