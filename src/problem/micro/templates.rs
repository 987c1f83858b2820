//! The programs of the suite, each with its sentence.
//!
//! Capital letters stand for names that a problem draws: `F` the function, `L M` lists, `S` a text, `W` a list of words,
//! `N K H` whole numbers, `X Y` items, `R Q` results, `I J` positions, `C D` constants with `C < D`. A template has variants:
//! `@` stands for a phrase in the sentence and for code in the program, `#` for a second piece of code.

mod numbers;
mod texts;

use Input::{Filled, Int, List, Positive};

/// What a parameter is given in tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// Up to six numbers from -4 to 9.
    List,
    /// The same, at least two of them.
    Filled,
    /// A number from -6 to 9.
    Int,
    /// A number from 0 to 9.
    Natural,
    /// A number from 1 to 12.
    Positive,
    /// A number from 0 to 999.
    Large,
    /// Up to seven letters.
    Text,
    /// The same, at least two of them.
    FilledText,
    /// Up to four short words.
    Words,
}

/// A family of programs.
#[derive(Debug)]
pub struct Template {
    /// Its name in the records.
    pub name: &'static str,
    /// What the function must do, after "Return ".
    pub says: &'static str,
    /// The program.
    pub code: &'static str,
    /// `@` in the sentence, `@` in the program, `#` in the program.
    pub variants: &'static [(&'static str, &'static str, &'static str)],
    /// One for each parameter.
    pub inputs: &'static [Input],
}

type Variants = &'static [(&'static str, &'static str, &'static str)];

const ONE: Variants = &[("", "", "")];

/// Tests of an item X against K.
const BY_K: Variants = &[
    ("greater than K", "X > K", ""),
    ("less than K", "X < K", ""),
    ("at least K", "X >= K", ""),
    ("at most K", "X <= K", ""),
    ("equal to K", "X == K", ""),
    ("not equal to K", "X != K", ""),
];

/// Tests of an item X alone.
const ALONE: Variants = &[
    ("even", "X % 2 == 0", ""),
    ("odd", "X % 2 == 1", ""),
    ("positive", "X > 0", ""),
    ("negative", "X < 0", ""),
    ("divisible by C", "X % C == 0", ""),
    ("greater than C", "X > C", ""),
    ("less than C", "X < C", ""),
    ("from C to D", "X >= C and X <= D", ""),
    ("below C or above D", "X < C or X > D", ""),
];

const fn template(
    name: &'static str,
    says: &'static str,
    code: &'static str,
    variants: Variants,
    inputs: &'static [Input],
) -> Template {
    Template { name, says, code, variants, inputs }
}

/// Every template.
pub fn all() -> impl Iterator<Item = &'static Template> {
    [LISTS, numbers::NUMBERS, texts::TEXTS].into_iter().flatten()
}

/// Programs on lists of numbers.
const LISTS: &[Template] = &[
    // One pass.
    template(
        "fold",
        "the @ of the items of L",
        "def F(L):\n    R = #\n    for X in L:\n        R @ X\n    return R",
        &[("sum", "+=", "0"), ("product", "*=", "1")],
        &[List],
    ),
    template(
        "sum_mapped",
        "the sum of the items of L @",
        "def F(L):\n    R = 0\n    for X in L:\n        R += @\n    return R",
        &[("squared", "X * X", ""), ("times C", "X * C", ""), ("plus C", "X + C", ""), ("without sign", "abs(X)", "")],
        &[List],
    ),
    template(
        "count_by",
        "how many items of L are @",
        "def F(L, K):\n    R = 0\n    for X in L:\n        if @:\n            R += 1\n    return R",
        BY_K,
        &[List, Int],
    ),
    template(
        "count",
        "how many items of L are @",
        "def F(L):\n    R = 0\n    for X in L:\n        if @:\n            R += 1\n    return R",
        ALONE,
        &[List],
    ),
    template(
        "sum_by",
        "the sum of the items of L that are @",
        "def F(L, K):\n    R = 0\n    for X in L:\n        if @:\n            R += X\n    return R",
        BY_K,
        &[List, Int],
    ),
    template(
        "sum_some",
        "the sum of the items of L that are @",
        "def F(L):\n    R = 0\n    for X in L:\n        if @:\n            R += X\n    return R",
        ALONE,
        &[List],
    ),
    template(
        "keep_by",
        "the items of L that are @",
        "def F(L, K):\n    R = []\n    for X in L:\n        if @:\n            R.append(X)\n    return R",
        BY_K,
        &[List, Int],
    ),
    template("keep", "the items of L that are @", "def F(L):\n    return [X for X in L if @]", ALONE, &[List]),
    template(
        "map_by",
        "the items of L @",
        "def F(L, K):\n    R = []\n    for X in L:\n        R.append(@)\n    return R",
        &[("plus K", "X + K", ""), ("minus K", "X - K", ""), ("times K", "X * K", ""), ("capped at K", "min(X, K)", "")],
        &[List, Int],
    ),
    template(
        "map",
        "the items of L @",
        "def F(L):\n    return [@ for X in L]",
        &[
            ("plus C", "X + C", ""),
            ("times C", "X * C", ""),
            ("squared", "X * X", ""),
            ("modulo C", "X % C", ""),
            ("halved", "X // 2", ""),
            ("times C plus D", "X * C + D", ""),
        ],
        &[List],
    ),
    template(
        "extreme",
        "the @ item of L",
        "def F(L):\n    R = L[0]\n    for X in L:\n        if X @ R:\n            R = X\n    return R",
        &[("largest", ">", ""), ("smallest", "<", "")],
        &[Filled],
    ),
    template(
        "extreme_at",
        "the first index of the @ item of L",
        "def F(L):\n    R = 0\n    for I in range(len(L)):\n        if L[I] @ L[R]:\n            R = I\n    return R",
        &[("largest", ">", ""), ("smallest", "<", "")],
        &[Filled],
    ),
    template(
        "first_by",
        "the first item of L that is @, or -1",
        "def F(L, K):\n    for X in L:\n        if @:\n            return X\n    return -1",
        &[
            ("greater than K", "X > K", ""),
            ("less than K", "X < K", ""),
            ("at least K", "X >= K", ""),
            ("divisible by K", "X % K == 0", ""),
        ],
        &[List, Positive],
    ),
    template(
        "index_of",
        "the first index of K in L, or -1",
        "def F(L, K):\n    for I in range(len(L)):\n        if L[I] == K:\n            return I\n    return -1",
        ONE,
        &[List, Int],
    ),
    template(
        "last_index",
        "the last index of K in L, or -1",
        "def F(L, K):\n    R = -1\n    for I in range(len(L)):\n        if L[I] == K:\n            R = I\n    return R",
        ONE,
        &[List, Int],
    ),
    template(
        "any",
        "whether any item of L is @",
        "def F(L):\n    for X in L:\n        if @:\n            return True\n    return False",
        ALONE,
        &[List],
    ),
    template(
        "all_by",
        "whether every item of L is @",
        "def F(L, K):\n    for X in L:\n        if @:\n            return False\n    return True",
        &[
            ("greater than K", "X <= K", ""),
            ("less than K", "X >= K", ""),
            ("at most K", "X > K", ""),
            ("equal to K", "X != K", ""),
        ],
        &[List, Int],
    ),
    template(
        "member",
        "whether K is in @",
        "def F(L, M, K):\n    return K in L # K in M",
        &[("L or M", "", "or"), ("both L and M", "", "and")],
        &[List, List, Int],
    ),
    template(
        "reverse",
        "the items of L in reverse order",
        "def F(L):\n    R = []\n    for X in L:\n        R = [X] + R\n    return R",
        ONE,
        &[List],
    ),
    template(
        "every_second",
        "the items of L at @ indices",
        "def F(L):\n    R = []\n    for I in range(@, len(L), 2):\n        R.append(L[I])\n    return R",
        &[("even", "0", ""), ("odd", "1", "")],
        &[List],
    ),
    template(
        "neighbours",
        "each item of L @ the item before it",
        "def F(L):\n    R = []\n    for I in range(1, len(L)):\n        R.append(L[I] @ L[I - 1])\n    return R",
        &[("minus", "-", ""), ("plus", "+", ""), ("times", "*", "")],
        &[List],
    ),
    template(
        "count_rises",
        "how many items of L are @ than the item before",
        "def F(L):\n    R = 0\n    for I in range(1, len(L)):\n        if L[I] @ L[I - 1]:\n            R += 1\n    return R",
        &[("greater", ">", ""), ("less", "<", "")],
        &[List],
    ),
    template(
        "ordered",
        "whether L never @",
        "def F(L):\n    for I in range(1, len(L)):\n        if L[I] @ L[I - 1]:\n            return False\n    return True",
        &[("falls", "<", ""), ("rises", ">", "")],
        &[List],
    ),
    template(
        "running",
        "the running @ of L",
        "def F(L):\n    R = []\n    Q = #\n    for X in L:\n        Q @ X\n        R.append(Q)\n    return R",
        &[("sum", "+=", "0"), ("product", "*=", "1")],
        &[List],
    ),
    template(
        "running_extreme",
        "the @ running sum of L, or 0",
        "def F(L):\n    R = 0\n    Q = 0\n    for X in L:\n        Q += X\n        R = @(R, Q)\n    return R",
        &[("largest", "max", ""), ("smallest", "min", "")],
        &[List],
    ),
    template(
        "longest_run",
        "the length of the longest run of items of L that are @",
        concat!(
            "def F(L):\n",
            "    R = 0\n",
            "    Q = 0\n",
            "    for X in L:\n",
            "        if @:\n",
            "            Q += 1\n",
            "        else:\n",
            "            Q = 0\n",
            "        R = max(R, Q)\n",
            "    return R",
        ),
        ALONE,
        &[List],
    ),
    template(
        "alternating",
        "the sum of L with items at @ indices subtracted",
        concat!(
            "def F(L):\n",
            "    R = 0\n",
            "    for I in range(len(L)):\n",
            "        if I % 2 == @:\n",
            "            R += L[I]\n",
            "        else:\n",
            "            R -= L[I]\n",
            "    return R",
        ),
        &[("odd", "0", ""), ("even", "1", "")],
        &[List],
    ),
    template(
        "partition",
        "the items of L that are @, then the others",
        concat!(
            "def F(L):\n",
            "    R = []\n",
            "    Q = []\n",
            "    for X in L:\n",
            "        if @:\n",
            "            R.append(X)\n",
            "        else:\n",
            "            Q.append(X)\n",
            "    return R + Q",
        ),
        ALONE,
        &[List],
    ),
    template(
        "replace",
        "L with each K replaced by N",
        concat!(
            "def F(L, K, N):\n",
            "    R = []\n",
            "    for X in L:\n",
            "        if X == K:\n",
            "            R.append(N)\n",
            "        else:\n",
            "            R.append(X)\n",
            "    return R",
        ),
        ONE,
        &[List, Int, Int],
    ),
    template(
        "distinct",
        "the items of L without repeats",
        "def F(L):\n    R = []\n    for X in L:\n        if X not in R:\n            R.append(X)\n    return R",
        ONE,
        &[List],
    ),
    // Two lists.
    template(
        "common",
        "the items of L that are @ M",
        "def F(L, M):\n    R = []\n    for X in L:\n        if X @ M:\n            R.append(X)\n    return R",
        &[("in", "in", ""), ("not in", "not in", "")],
        &[List, List],
    ),
    template(
        "dot",
        "the sum of the products of L and M by index",
        "def F(L, M):\n    R = 0\n    for I in range(min(len(L), len(M))):\n        R += L[I] * M[I]\n    return R",
        ONE,
        &[List, List],
    ),
    template(
        "pairwise",
        "the @ of L and M by index",
        "def F(L, M):\n    R = []\n    for I in range(min(len(L), len(M))):\n        R.append(#)\n    return R",
        &[
            ("larger", "", "max(L[I], M[I])"),
            ("smaller", "", "min(L[I], M[I])"),
            ("difference", "", "L[I] - M[I]"),
            ("sum", "", "L[I] + M[I]"),
        ],
        &[List, List],
    ),
    template(
        "equal_pairs",
        "how many pairs of an item of L and an item of M @",
        "def F(L, M):\n    R = 0\n    for X in L:\n        for Y in M:\n            if #:\n                R += 1\n    return R",
        &[("are equal", "", "X == Y"), ("add up to C", "", "X + Y == C"), ("have the first greater", "", "X > Y")],
        &[List, List],
    ),
    template(
        "pairs_with_sum",
        "how many pairs of items of L add up to K",
        concat!(
            "def F(L, K):\n",
            "    R = 0\n",
            "    for I in range(len(L)):\n",
            "        for J in range(I):\n",
            "            if L[I] + L[J] == K:\n",
            "                R += 1\n",
            "    return R",
        ),
        ONE,
        &[List, Int],
    ),
    // Lists, one line.
    template("spread", "the largest item of L minus the smallest", "def F(L):\n    return max(L) - min(L)", ONE, &[Filled]),
    template(
        "mean",
        "the sum of L divided by its length, rounded down",
        "def F(L):\n    return sum(L) // len(L)",
        ONE,
        &[Filled],
    ),
    template(
        "ends",
        "the first item of L @ the last",
        "def F(L):\n    return L[0] @ L[-1]",
        &[("plus", "+", ""), ("minus", "-", ""), ("times", "*", "")],
        &[Filled],
    ),
    template(
        "take",
        "the sum of the @ items of L",
        "def F(L, K):\n    return sum(L[#])",
        &[("first K", "", ":K"), ("last K", "", "-K:")],
        &[Filled, Positive],
    ),
    template(
        "rotate",
        "L with its first K items moved to the end",
        "def F(L, K):\n    return L[K:] + L[:K]",
        ONE,
        &[Filled, Positive],
    ),
    template(
        "nth_sorted",
        "the @ item of L in sorted order",
        "def F(L):\n    return sorted(L)[#]",
        &[("second", "", "1"), ("last but one", "", "-2"), ("middle", "", "len(L) // 2")],
        &[Filled],
    ),
    template(
        "swap_ends",
        "L with its first and last items swapped",
        "def F(L):\n    L[0], L[-1] = L[-1], L[0]\n    return L",
        ONE,
        &[Filled],
    ),
    template(
        "sum_list_recursive",
        "the @ of the items of L",
        "def F(L):\n    if not L:\n        return #\n    return L[0] @ F(L[1:])",
        &[("sum", "+", "0"), ("product", "*", "1")],
        &[List],
    ),
    template(
        "count_recursive",
        "how often K is in L",
        concat!(
            "def F(L, K):\n",
            "    if not L:\n",
            "        return 0\n",
            "    if L[0] == K:\n",
            "        return 1 + F(L[1:], K)\n",
            "    return F(L[1:], K)",
        ),
        ONE,
        &[List, Int],
    ),
];
