//! Where an axis has its ticks: at multiples of 1, 2 or 5 times a power of ten.

/// An axis' ends and its ticks.
#[derive(Debug, Clone, PartialEq)]
pub struct Ticks {
    /// The lower end.
    pub low: f64,
    /// The upper end, above the lower.
    pub high: f64,
    /// The distance between ticks.
    pub step: f64,
    /// The ticks, rising, between the ends.
    pub at: Vec<f64>,
}

impl Ticks {
    /// Ticks for values from `low` to `high`, about `count` of them. With `round` the ends are ticks themselves. Equal or reversed
    /// ends are pulled apart.
    pub fn new(low: f64, high: f64, count: usize, whole: bool, round: bool) -> Ticks {
        let (low, high) = apart(low, high);
        let mut step = nice((high - low) / count.max(1) as f64);
        if whole {
            step = step.max(1.0);
        }
        // A value that is a tick but for rounding is that tick.
        let (first, last) = match round {
            true => ((low / step + 1e-9).floor(), (high / step - 1e-9).ceil()),
            false => ((low / step - 1e-9).ceil(), (high / step + 1e-9).floor()),
        };
        let at = (0..=(last - first).max(0.0) as usize).map(|index| (first + index as f64) * step).collect();
        let (low, high) = if round { (first * step, last * step) } else { (low, high) };
        Ticks { low, high, step, at }
    }
}

fn apart(low: f64, high: f64) -> (f64, f64) {
    if high > low {
        (low, high)
    } else if low == 0.0 {
        (0.0, 1.0)
    } else {
        (low - 0.1 * low.abs(), low + 0.1 * low.abs())
    }
}

/// The least of 1, 2, 5 times a power of ten that is not below `x`.
fn nice(x: f64) -> f64 {
    let power = 10f64.powf(x.log10().floor());
    // 10^floor may miss by one where the logarithm is rounded.
    [1.0, 2.0, 5.0, 10.0, 20.0].into_iter().map(|times| times * power).find(|step| *step >= x * (1.0 - 1e-9)).unwrap_or(x)
}

/// A tick's value in as few letters as tell it from its neighbours `step` away.
pub fn label(value: f64, step: f64) -> String {
    let value = if value.abs() < step * 1e-6 { 0.0 } else { value };
    if value == 0.0 {
        return "0".into();
    }
    if step < 1e-3 || value.abs() >= 1e9 {
        let digits = (value.abs().log10().floor() - step.log10().floor()).clamp(0.0, 6.0) as usize;
        let text = format!("{value:.digits$e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let mantissa = if mantissa.contains('.') { mantissa.trim_end_matches('0').trim_end_matches('.') } else { mantissa };
        return format!("{mantissa}e{exponent}");
    }
    for (unit, name) in [(1e6, "M"), (1e3, "k")] {
        if value.abs() >= unit && step >= unit / 10.0 {
            let decimals = usize::from(step < unit);
            return format!("{:.decimals$}{name}", value / unit);
        }
    }
    let decimals = (-(step.log10() + 1e-9).floor()).max(0.0) as usize;
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(ticks: &Ticks) -> Vec<String> {
        ticks.at.iter().map(|value| label(*value, ticks.step)).collect()
    }

    #[test]
    fn ticks_are_round_numbers() {
        let ticks = Ticks::new(0.13, 0.87, 4, false, true);
        assert_eq!((ticks.low, ticks.high, ticks.step), (0.0, 1.0, 0.2));
        assert_eq!(labels(&ticks), ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        // Without rounding the ends stay and ticks lie inside.
        let ticks = Ticks::new(1.0, 20.0, 4, true, false);
        assert_eq!((ticks.low, ticks.high, labels(&ticks)), (1.0, 20.0, ["5", "10", "15", "20"].map(String::from).to_vec()));
        // Counts have no halves.
        assert_eq!(labels(&Ticks::new(1.0, 3.0, 5, true, false)), ["1", "2", "3"]);
        assert_eq!(labels(&Ticks::new(-0.3, 0.6, 4, false, true)), ["-0.5", "0", "0.5", "1.0"].map(String::from));
    }

    #[test]
    fn small_and_large_values_have_short_labels() {
        assert_eq!(labels(&Ticks::new(0.0, 1e-5, 4, false, true)), ["0", "5e-6", "1e-5"]);
        assert_eq!(labels(&Ticks::new(0.0, 12_000.0, 3, false, true)), ["0", "5k", "10k", "15k"]);
        assert_eq!(labels(&Ticks::new(1.2e-5, 1.6e-5, 4, false, true)), ["1.2e-5", "1.3e-5", "1.4e-5", "1.5e-5", "1.6e-5"]);
    }

    #[test]
    fn a_constant_has_an_axis_too() {
        let ticks = Ticks::new(2.0, 2.0, 4, false, true);
        assert!(ticks.low < 2.0 && ticks.high > 2.0 && ticks.at.len() >= 3, "{ticks:?}");
        assert_eq!((Ticks::new(0.0, 0.0, 4, false, true).low, Ticks::new(0.0, 0.0, 4, false, true).high), (0.0, 1.0));
    }
}
