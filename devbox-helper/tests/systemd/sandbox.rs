//! What the service may not do, tried by a script in its place.

use std::fs;

use crate::stage::{SERVICE, Stage, helper_pid, told};

/// Each line: what is tried, and the command. `may` is what the helper does itself, so that a sandbox in which nothing works is seen.
const PROBE: &str = "#!/bin/sh
try() {
    what=$1
    shift
    if \"$@\" >/dev/null 2>&1; then echo \"done $what\"; else echo \"refused $what\"; fi
}
b=/program/busybox
try may:etc touch /etc/devbox-probe
rm -f /etc/devbox-probe
try may:state touch /var/lib/devbox/probe
rm -f /var/lib/devbox/probe
try may:interface ip link add devboxprobe type dummy
ip link del devboxprobe 2>/dev/null
try not:usr touch /usr/probe
try not:boot touch /boot/probe
try not:homes ls /home/ana/catalog.yaml
try not:mount $b mount -t tmpfs none /mnt
try not:namespace $b unshare -n true
try not:device $b mknod /etc/devbox-probe c 1 1
try not:disk head -c 1 /dev/vda
try not:kernel-log $b dmesg
try not:sysctl sh -c 'echo 1 >/proc/sys/kernel/panic'
try not:cgroup mkdir /sys/fs/cgroup/probe
try not:hostname $b hostname probe
# busybox says so, and calls it a success.
try not:clock sh -c '/program/busybox date -s 2001-01-01; test $(date +%Y) = 2001'
try not:setuid-file sh -c 'touch /etc/devbox-probe && chmod u+s /etc/devbox-probe'
rm -f /etc/devbox-probe
try not:raw-packets perl -MSocket -e 'socket(my $s, 17, SOCK_RAW, 0) or exit 1'
try not:other-user setpriv --reuid=1000 true
try not:module $b insmod /program/none.ko
try not:reboot $b reboot -f -n
";

pub(crate) fn refuses(_: &mut Stage) {
    let pid = helper_pid().unwrap();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{line}: {status}");
    }
    // The same unit, with another program.
    let unit = fs::read_to_string("/etc/systemd/system/devbox-helper.service").unwrap();
    let mut probe = String::new();
    for line in unit.lines() {
        if line.starts_with("ExecStart=") {
            probe.push_str("ExecStart=/bin/sh /run/probe.sh\nStandardOutput=truncate:/run/probe.out\n");
        } else if line == "Type=simple" {
            probe.push_str("Type=oneshot\n");
        } else if !["Restart=", "Requires=", "After="]
            .iter()
            .any(|key| line.starts_with(key))
        {
            probe.push_str(line);
            probe.push('\n');
        }
    }
    fs::write("/run/systemd/system/devbox-probe.service", probe).unwrap();
    fs::write("/run/probe.sh", PROBE).unwrap();
    told("systemctl", &["daemon-reload"]);
    told("systemctl", &["start", "devbox-probe.service"]);
    let out = fs::read_to_string("/run/probe.out").unwrap();
    fs::remove_file("/run/systemd/system/devbox-probe.service").unwrap();
    told("systemctl", &["daemon-reload"]);
    assert_eq!(out.lines().count(), PROBE.matches("\ntry ").count(), "{out}");
    let wrong: Vec<&str> = out
        .lines()
        .filter(|line| line.starts_with("done not:") || line.starts_with("refused may:"))
        .collect();
    assert!(wrong.is_empty(), "{out}");
    exposure();
}

/// systemd's own opinion, from 0 (nothing) to 10 (everything); around 9 without any protection.
fn exposure() {
    let text = told("systemd-analyze", &["security", "--no-pager", SERVICE]);
    let last = text.lines().last().unwrap();
    let number = last
        .split_whitespace()
        .find_map(|word| word.parse::<f32>().ok())
        .unwrap();
    println!("  {}", last.trim());
    assert!(number < 3.0, "{text}");
}
