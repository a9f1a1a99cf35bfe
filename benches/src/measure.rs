//! Warm-up, medians, percentiles, processor time and memory.

use std::fs;
use std::time::{Duration, Instant};

/// Runs `work` a few times without measuring, then `runs` times measured, and takes the median.
///
/// The median, because one sample in ten coincides with other work on the machine.
pub fn median_time<T>(warm_up: usize, runs: usize, mut work: impl FnMut() -> T) -> Duration {
    for _ in 0..warm_up {
        std::hint::black_box(work());
    }
    let times: Vec<f64> = (0..runs.max(1))
        .map(|_| {
            let start = Instant::now();
            std::hint::black_box(work());
            start.elapsed().as_secs_f64()
        })
        .collect();
    Duration::from_secs_f64(median(&times))
}

/// The middle value, or the mean of the two in the middle. 0 if there are no values.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        length if length % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// The value that `share` (0 to 1) of the values do not exceed. 0 if there are no values.
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    // Nearest rank: the smallest value with at least that share at or below it.
    let at_or_below = |index: usize| (index + 1) as f64 >= share * sorted.len() as f64;
    (0..sorted.len())
        .find(|index| at_or_below(*index))
        .or(sorted.len().checked_sub(1))
        .map_or(0.0, |index| sorted[index])
}

/// Seconds of processor time that a process and all its living descendants have used, as Linux counts it (in 10 ms steps); 0 if
/// it cannot be read.
pub fn cpu_seconds(processes: &[u32]) -> f64 {
    with_descendants(processes)
        .iter()
        .filter_map(|process| stat(*process))
        .map(|stat| stat.cpu_seconds)
        .sum()
}

/// The most memory that a process ever held, in KiB (`VmHWM`); `None` if it cannot be read.
pub fn peak_memory_kib(process: u32) -> Option<u64> {
    status_kib(process, "VmHWM:")
}

/// The memory that a process holds, in KiB (`VmRSS`); `None` if it cannot be read.
pub fn memory_kib(process: u32) -> Option<u64> {
    status_kib(process, "VmRSS:")
}

/// The memory that a process holds and no other one shares, in KiB (`RssAnon`); `None` if it cannot be read.
pub fn own_memory_kib(process: u32) -> Option<u64> {
    status_kib(process, "RssAnon:")
}

/// The memory that a process and all its living descendants hold, in KiB, where all run the same program: its pages, which they share, count
/// once.
pub fn memory_of_all_kib(process: u32) -> u64 {
    let descendants = with_descendants(&[process]).into_iter().skip(1);
    let own = descendants.filter_map(own_memory_kib).sum::<u64>();
    memory_kib(process).unwrap_or(0) + own
}

/// The additional memory, in KiB, that `work` needed at its peak in this process; `None` if it cannot be read.
///
/// Memory that an earlier part of the program has freed but not returned hides some of it, so measure the largest first, or in a
/// separate process.
pub fn peak_memory_of<T>(work: impl FnOnce() -> T) -> (T, Option<u64>) {
    // "5" resets the peak to the current value: proc(5), /proc/pid/clear_refs.
    let reset = fs::write("/proc/self/clear_refs", "5").is_ok();
    let process = std::process::id();
    let before = memory_kib(process);
    let result = work();
    let after = peak_memory_kib(process);
    let needed = before
        .zip(after)
        .filter(|_| reset)
        .map(|(before, after)| after.saturating_sub(before));
    (result, needed)
}

fn status_kib(process: u32, field: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().trim_end_matches("kB").trim().parse().ok()
}

struct Stat {
    parent: u32,
    cpu_seconds: f64,
}

/// Ticks per second in /proc: USER_HZ, which is 100 on every architecture of Linux.
const TICKS_PER_SECOND: f64 = 100.0;

fn stat(process: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name in brackets may contain anything, even brackets; fields are counted after the last one. proc(5): 4 parent, 14 utime,
    // 15 stime, 16 and 17 the same for children that were waited for.
    let fields: Vec<&str> = text.rsplit(')').next()?.split_whitespace().collect();
    let ticks: f64 = fields
        .get(11..15)?
        .iter()
        .filter_map(|field| field.parse::<f64>().ok())
        .sum();
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        cpu_seconds: ticks / TICKS_PER_SECOND,
    })
}

fn with_descendants(processes: &[u32]) -> Vec<u32> {
    let all: Vec<(u32, u32)> = fs::read_dir("/proc").map_or_else(
        |_| Vec::new(),
        |entries| {
            let ids = entries
                .flatten()
                .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
            ids.filter_map(|id| Some((id, stat(id)?.parent))).collect()
        },
    );
    let mut found = processes.to_vec();
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        let children = all
            .iter()
            .filter(|(id, of)| *of == parent && *id != parent)
            .map(|(id, _)| *id);
        for child in children.collect::<Vec<_>>() {
            if !found.contains(&child) {
                found.push(child);
            }
        }
        next += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
    }

    #[test]
    fn a_percentile_is_a_value_that_was_seen() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&values, 0.5), 50.0);
        assert_eq!(percentile(&values, 0.99), 99.0);
        assert_eq!(percentile(&values, 1.0), 100.0);
        assert_eq!(percentile(&[7.0], 0.5), 7.0);
        assert_eq!(percentile(&[], 0.5), 0.0);
    }

    #[test]
    fn memory_that_is_taken_is_seen() {
        let (length, peak) = peak_memory_of(|| std::hint::black_box(vec![1_u8; 64 << 20]).len());
        assert_eq!(length, 64 << 20);
        // `None` if there is no such file, or it cannot be written.
        assert!(peak.is_none_or(|peak| peak >= 60 << 10), "{peak:?}");
    }

    #[test]
    fn work_costs_processor_time() {
        let own = [std::process::id()];
        let before = cpu_seconds(&own);
        let start = Instant::now();
        let mut x = 1_u64;
        while start.elapsed() < Duration::from_millis(200) {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
        let used = cpu_seconds(&own) - before;
        let readable = stat(own[0]).is_some();
        assert!(!readable || used > 0.02, "{used}");
    }

    #[test]
    fn the_median_time_is_that_of_the_work() {
        let took = median_time(1, 3, || std::thread::sleep(Duration::from_millis(5)));
        assert!(took >= Duration::from_millis(5), "{took:?}");
    }
}
