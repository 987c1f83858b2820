//! The programs of the suite, each with its sentence.
//!
//! Capital letters stand for names that a problem draws: `F` the function, `L M` lists, `S` a text, `W` a list of words,
//! `N K H` whole numbers, `X Y` items, `R Q` results, `I J` positions, `C D` constants with `C < D`. A template has variants:
//! `@` stands for a phrase in the sentence and for code in the program, `#` for a second piece of code.

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

use Input::{Filled, FilledText, Int, Large, List, Natural, Positive, Text, Words};

/// Every template.
pub const TEMPLATES: &[Template] = &[
    // Lists, one pass.
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
        "def F(L):\n    R = 0\n    Q = 0\n    for X in L:\n        if @:\n            Q += 1\n        else:\n            Q = 0\n        R = max(R, Q)\n    return R",
        ALONE,
        &[List],
    ),
    template(
        "alternating",
        "the sum of L with items at @ indices subtracted",
        "def F(L):\n    R = 0\n    for I in range(len(L)):\n        if I % 2 == @:\n            R += L[I]\n        else:\n            R -= L[I]\n    return R",
        &[("odd", "0", ""), ("even", "1", "")],
        &[List],
    ),
    template(
        "partition",
        "the items of L that are @, then the others",
        "def F(L):\n    R = []\n    Q = []\n    for X in L:\n        if @:\n            R.append(X)\n        else:\n            Q.append(X)\n    return R + Q",
        ALONE,
        &[List],
    ),
    template(
        "replace",
        "L with each K replaced by N",
        "def F(L, K, N):\n    R = []\n    for X in L:\n        if X == K:\n            R.append(N)\n        else:\n            R.append(X)\n    return R",
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
        "def F(L, K):\n    R = 0\n    for I in range(len(L)):\n        for J in range(I):\n            if L[I] + L[J] == K:\n                R += 1\n    return R",
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
        "def F(L, K):\n    if not L:\n        return 0\n    if L[0] == K:\n        return 1 + F(L[1:], K)\n    return F(L[1:], K)",
        ONE,
        &[List, Int],
    ),
    // Numbers, loops.
    template(
        "up_to",
        "the @ of the numbers from 1 to N",
        "def F(N):\n    R = #\n    for I in range(1, N + 1):\n        R @ I\n    return R",
        &[("sum", "+=", "0"), ("product", "*=", "1")],
        &[Natural],
    ),
    template(
        "sum_to_mapped",
        "the sum of the @ of the numbers from 1 to N",
        "def F(N):\n    R = 0\n    for I in range(1, N + 1):\n        R += #\n    return R",
        &[("squares", "", "I * I"), ("doubles", "", "I * 2"), ("cubes", "", "I * I * I")],
        &[Natural],
    ),
    template(
        "multiples",
        "@ from 1 to N that are divisible by K",
        "def F(N, K):\n    R = 0\n    for I in range(1, N + 1):\n        if I % K == 0:\n            R += #\n    return R",
        &[("how many numbers", "", "1"), ("the sum of the numbers", "", "I")],
        &[Natural, Positive],
    ),
    template(
        "between_sum",
        "@ from N to K inclusive",
        "def F(N, K):\n    R = 0\n    for I in range(N, K + 1):\n        if I % C == 0:\n            R += #\n    return R",
        &[("how many multiples of C are", "", "1"), ("the sum of the multiples of C", "", "I")],
        &[Natural, Positive],
    ),
    template(
        "divisors",
        "@ of N",
        "def F(N):\n    R = 0\n    for I in range(1, N + 1):\n        if N % I == 0:\n            R += #\n    return R",
        &[("the number of divisors", "", "1"), ("the sum of the divisors", "", "I")],
        &[Positive],
    ),
    template(
        "prime",
        "whether N is prime",
        "def F(N):\n    for I in range(2, N):\n        if N % I == 0:\n            return False\n    return N > 1",
        ONE,
        &[Natural],
    ),
    template(
        "fibonacci",
        "Fibonacci number N, counting from 0 and 1",
        "def F(N):\n    R, Q = 0, 1\n    for I in range(N):\n        R, Q = Q, R + Q\n    return R",
        ONE,
        &[Natural],
    ),
    template(
        "power",
        "N to the power K",
        "def F(N, K):\n    R = 1\n    for I in range(K):\n        R *= N\n    return R",
        ONE,
        &[Int, Natural],
    ),
    template(
        "squares",
        "the @ of the numbers below N",
        "def F(N):\n    R = []\n    for I in range(N):\n        R.append(#)\n    return R",
        &[("squares", "", "I * I"), ("multiples by C", "", "I * C"), ("remainders by C", "", "I % C")],
        &[Natural],
    ),
    template(
        "table",
        "the first N multiples of K, from K on",
        "def F(N, K):\n    R = []\n    for I in range(1, N + 1):\n        R.append(I * K)\n    return R",
        ONE,
        &[Natural, Int],
    ),
    template(
        "countdown",
        "the numbers from N down to 1",
        "def F(N):\n    R = []\n    while N > 0:\n        R.append(N)\n        N -= 1\n    return R",
        ONE,
        &[Natural],
    ),
    template(
        "digits",
        "@ of N",
        "def F(N):\n    R = 0\n    while N > 0:\n        R += #\n        N //= 10\n    return R",
        &[("the sum of the digits", "", "N % 10"), ("the number of digits", "", "1")],
        &[Large],
    ),
    template(
        "reverse_digits",
        "N with its digits reversed",
        "def F(N):\n    R = 0\n    while N > 0:\n        R = R * 10 + N % 10\n        N //= 10\n    return R",
        ONE,
        &[Large],
    ),
    template(
        "digit_count",
        "how many digits of N are @",
        "def F(N):\n    R = 0\n    while N > 0:\n        if #:\n            R += 1\n        N //= 10\n    return R",
        &[("even", "", "N % 10 % 2 == 0"), ("equal to C", "", "N % 10 == C"), ("greater than C", "", "N % 10 > C")],
        &[Large],
    ),
    template(
        "halvings",
        "how often N is divided by C until it is below C",
        "def F(N):\n    R = 0\n    while N >= C:\n        N //= C\n        R += 1\n    return R",
        ONE,
        &[Large],
    ),
    template(
        "doublings",
        "the first of 1, C, C * C, ... that is at least N",
        "def F(N):\n    R = 1\n    while R < N:\n        R *= C\n    return R",
        ONE,
        &[Large],
    ),
    template(
        "gcd",
        "the greatest common divisor of N and K",
        "def F(N, K):\n    while K:\n        N, K = K, N % K\n    return N",
        ONE,
        &[Positive, Positive],
    ),
    // Numbers, recursion.
    template(
        "up_to_recursive",
        "the @ of the numbers from 1 to N",
        "def F(N):\n    if N == 0:\n        return #\n    return N @ F(N - 1)",
        &[("sum", "+", "0"), ("product", "*", "1")],
        &[Natural],
    ),
    template(
        "fibonacci_recursive",
        "Fibonacci number N, counting from 0 and 1",
        "def F(N):\n    if N < 2:\n        return N\n    return F(N - 1) + F(N - 2)",
        ONE,
        &[Natural],
    ),
    template(
        "power_recursive",
        "N to the power K",
        "def F(N, K):\n    if K == 0:\n        return 1\n    return N * F(N, K - 1)",
        ONE,
        &[Int, Natural],
    ),
    template(
        "gcd_recursive",
        "the greatest common divisor of N and K",
        "def F(N, K):\n    if K == 0:\n        return N\n    return F(K, N % K)",
        ONE,
        &[Positive, Positive],
    ),
    template(
        "digits_recursive",
        "@ of N",
        "def F(N):\n    if N < 10:\n        return #\n    return @ + F(N // 10)",
        &[("the number of digits", "1", "1"), ("the sum of the digits", "N % 10", "N")],
        &[Large],
    ),
    // Numbers, branches.
    template("absolute", "N without its sign", "def F(N):\n    if N < 0:\n        return -N\n    return N", ONE, &[Int]),
    template(
        "sign",
        "1 if N is positive, -1 if negative, else 0",
        "def F(N):\n    if N > 0:\n        return 1\n    if N < 0:\n        return -1\n    return 0",
        ONE,
        &[Int],
    ),
    template(
        "choose",
        "the @ of N and K",
        "def F(N, K):\n    if N @ K:\n        return N\n    return K",
        &[("larger", ">", ""), ("smaller", "<", "")],
        &[Int, Int],
    ),
    template(
        "of_three",
        "the @ of N, K and H",
        "def F(N, K, H):\n    R = N\n    if K @ R:\n        R = K\n    if H @ R:\n        R = H\n    return R",
        &[("largest", ">", ""), ("smallest", "<", "")],
        &[Int, Int, Int],
    ),
    template(
        "clamp",
        "N, but K if N is less and H if N is greater than H",
        "def F(N, K, H):\n    if N < K:\n        return K\n    if N > H:\n        return H\n    return N",
        ONE,
        &[Int, Natural, Positive],
    ),
    template(
        "inside",
        "whether N is @",
        "def F(N, K, H):\n    return #",
        &[
            ("between K and H inclusive", "", "N >= K and N <= H"),
            ("strictly between K and H", "", "N > K and N < H"),
            ("less than K or greater than H", "", "N < K or N > H"),
        ],
        &[Int, Natural, Positive],
    ),
    template(
        "even_or",
        "N halved if N is even, else N times C plus 1",
        "def F(N):\n    if N % 2 == 0:\n        return N // 2\n    return N * C + 1",
        ONE,
        &[Natural],
    ),
    template(
        "label",
        "'@' if N is greater than C, else 'low'",
        "def F(N):\n    return '@' if N > C else 'low'",
        &[("high", "high", ""), ("big", "big", "")],
        &[Natural],
    ),
    template(
        "grade",
        "'high' from D on, 'mid' from C on, else 'low'",
        "def F(N):\n    if N >= D:\n        return 'high'\n    if N >= C:\n        return 'mid'\n    return 'low'",
        ONE,
        &[Positive],
    ),
    template(
        "price",
        "K times N, minus D if N is at least C",
        "def F(N, K):\n    R = K * N\n    if N >= C:\n        R -= D\n    return R",
        ONE,
        &[Positive, Positive],
    ),
    template(
        "formula",
        "@",
        "def F(N, K):\n    return #",
        &[
            ("twice the sum of N and K", "", "2 * (N + K)"),
            ("N times K plus C", "", "N * K + C"),
            ("N minus K times C", "", "N - K * C"),
            ("the square of N minus K", "", "N * N - K"),
            ("the difference of N and K without sign", "", "abs(N - K)"),
            ("N divided by K, rounded up", "", "(N + K - 1) // K"),
            ("the remainder of N times C by K", "", "N * C % K"),
        ],
        &[Int, Positive],
    ),
    template(
        "divides",
        "whether N is divisible by @",
        "def F(N):\n    return N % C == 0 # N % D == 0",
        &[("C or D", "", "or"), ("C and D", "", "and")],
        &[Large],
    ),
    // Texts and words.
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
