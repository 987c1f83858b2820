//! Durations, sizes and rates as a person reads them.

use std::path::Path;

/// `0.4 s`, `42 s`, `1 min 12 s`, `2 h 5 min`, `3 d 4 h`.
pub fn duration(seconds: f64) -> String {
    // To the tenth below ten seconds; a negative or unreal number is no duration.
    let tenths = (seconds.max(0.0) * 10.0).round() as u64;
    if tenths < 100 {
        return format!("{}.{} s", tenths / 10, tenths % 10);
    }
    let whole = seconds.round() as u64;
    let two = |large: u64, small: u64, names: [&str; 2]| match small {
        0 => format!("{large} {}", names[0]),
        small => format!("{large} {} {small} {}", names[0], names[1]),
    };
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => two(whole / 60, whole % 60, ["min", "s"]),
        3600..86400 => two(whole / 3600, whole % 3600 / 60, ["h", "min"]),
        _ => two(whole / 86400, whole % 86400 / 3600, ["d", "h"]),
    }
}

/// `84 kB`, `1.2 MB`, `65.5 GB`: powers of 1000.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if count < 1000 {
        return format!("{count} B");
    }
    let (mut value, mut unit) = (count as f64 / 1e3, 0);
    while value >= 999.5 && unit + 1 < UNITS.len() {
        (value, unit) = (value / 1e3, unit + 1);
    }
    // One decimal where it says something: not in 84.3 kB, but in 65.5 GB.
    if value < 9.95 || (unit >= 2 && value < 99.95) {
        format!("{value:.1} {}", UNITS[unit])
    } else {
        format!("{value:.0} {}", UNITS[unit])
    }
}

/// `1234 tokens/s`, `2.4 answers/s`, `3.1 answers/min`, `0.5 answers/h`.
pub fn rate(per_second: f64, unit: &str) -> String {
    let (value, per) = match per_second {
        fast if fast >= 0.95 => (fast, "s"),
        slow if slow * 60.0 >= 0.95 => (slow * 60.0, "min"),
        slower => (slower * 3600.0, "h"),
    };
    if value < 9.95 { format!("{value:.1} {unit}/{per}") } else { format!("{value:.0} {unit}/{per}") }
}

/// Bytes of a file, or of all files below a folder; what cannot be read counts nothing.
pub fn size(path: &Path) -> u64 {
    match std::fs::read_dir(path) {
        Ok(entries) => entries.flatten().map(|entry| size(&entry.path())).sum(),
        Err(_) => std::fs::metadata(path).map_or(0, |data| data.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units_at_most() {
        let seconds = [0.0, 0.04, 0.26, 9.94, 9.95, 59.4, 59.6, 72.0, 3600.0, 7530.0, 86400.0, 273_600.0, f64::NAN, -1.0];
        let expected = [
            "0.0 s",
            "0.0 s",
            "0.3 s",
            "9.9 s",
            "10 s",
            "59 s",
            "1 min",
            "1 min 12 s",
            "1 h",
            "2 h 5 min",
            "1 d",
            "3 d 4 h",
            "0.0 s",
            "0.0 s",
        ];
        assert_eq!(seconds.map(duration), expected);
    }

    #[test]
    fn sizes_are_short() {
        let counts = [0, 999, 1000, 1234, 84_300, 999_499, 999_600, 1_234_567, 65_500_000_000, 2_000_000_000_000];
        let expected = ["0 B", "999 B", "1.0 kB", "1.2 kB", "84 kB", "999 kB", "1.0 MB", "1.2 MB", "65.5 GB", "2.0 TB"];
        assert_eq!(counts.map(bytes), expected);
    }

    #[test]
    fn slow_rates_are_told_by_the_minute_or_the_hour() {
        let rates = [1234.4, 9.96, 2.44, 0.96, 0.5, 0.02, 0.001].map(|per_second| rate(per_second, "answers"));
        let expected = [
            "1234 answers/s",
            "10 answers/s",
            "2.4 answers/s",
            "1.0 answers/s",
            "30 answers/min",
            "1.2 answers/min",
            "3.6 answers/h",
        ];
        assert_eq!(rates, expected);
    }

    #[test]
    fn a_folder_is_as_large_as_its_files() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("inner")).unwrap();
        std::fs::write(folder.path().join("a"), [0; 5]).unwrap();
        std::fs::write(folder.path().join("inner/b"), [0; 7]).unwrap();
        assert_eq!((size(folder.path()), size(&folder.path().join("a")), size(&folder.path().join("none"))), (12, 5, 0));
    }
}
