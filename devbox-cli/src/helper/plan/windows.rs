//! The helper as a service of Windows.

use super::{File, Plan};

const PROGRAM: &str = r"C:\Program Files\devbox\devbox-helper.exe";
const FOLDER: &str = r"C:\ProgramData\devbox";
const EVENTS: &str = r"HKLM\SYSTEM\CurrentControlSet\Services\EventLog\Application\devbox-helper";
/// A path with blanks is quoted: otherwise `C:\Program.exe` would be tried first.
const COMMAND: &str = r#""C:\Program Files\devbox\devbox-helper.exe" service"#;

pub(super) fn plan(user: &str) -> Plan {
    let policy = File {
        path: r"C:\ProgramData\devbox\policy.toml".into(),
        text: devbox_helper::default_policy(user),
        keep: true,
    };
    Plan {
        program: PROGRAM,
        before: vec![
            // This waits until it has ended.
            vec!["net.exe", "stop", "devbox-helper"],
            vec!["sc.exe", "delete", "devbox-helper"],
        ],
        files: vec![policy],
        start: vec![
            // Everybody may make files in a new folder there, unless it is told who may: the system (S-1-5-18) and administrators
            // (S-1-5-32-544) write, users (S-1-5-32-545) read.
            vec![
                "icacls.exe",
                FOLDER,
                "/inheritance:r",
                "/grant:r",
                "*S-1-5-18:(OI)(CI)F",
                "*S-1-5-32-544:(OI)(CI)F",
                "*S-1-5-32-545:(OI)(CI)RX",
            ],
            vec!["icacls.exe", FOLDER, "/setowner", "*S-1-5-32-544", "/T"],
            vec![
                "reg.exe",
                "add",
                EVENTS,
                "/v",
                "EventMessageFile",
                "/t",
                "REG_EXPAND_SZ",
                "/d",
                MESSAGES,
                "/f",
            ],
            vec![
                "reg.exe",
                "add",
                EVENTS,
                "/v",
                "TypesSupported",
                "/t",
                "REG_DWORD",
                "/d",
                "7",
                "/f",
            ],
            vec![
                "sc.exe",
                "create",
                "devbox-helper",
                "binPath=",
                COMMAND,
                "start=",
                "auto",
                "DisplayName=",
                "devbox helper",
            ],
            vec![
                "sc.exe",
                "description",
                "devbox-helper",
                "Changes this machine for devbox sessions, and undoes it",
            ],
            // One that is killed comes back, undoes what is in its journal, and its callers connect again.
            vec![
                "sc.exe",
                "failure",
                "devbox-helper",
                "reset=",
                "60",
                "actions=",
                "restart/100/restart/1000/restart/5000",
            ],
            // Of all that the system may do: to learn who has opened the pipe, and to load Wintun's driver.
            vec![
                "sc.exe",
                "privs",
                "devbox-helper",
                "SeChangeNotifyPrivilege/SeImpersonatePrivilege/SeLoadDriverPrivilege",
            ],
            vec!["sc.exe", "start", "devbox-helper"],
        ],
        stop: vec![
            vec!["net.exe", "stop", "devbox-helper"],
            vec!["sc.exe", "delete", "devbox-helper"],
            vec![PROGRAM, "sweep"],
        ],
        forget: vec![vec!["reg.exe", "delete", EVENTS, "/f"]],
        folders: vec![FOLDER.into(), r"C:\Program Files\devbox".into()],
    }
}

/// Its messages 1 to 1000 consist of what they are given.
const MESSAGES: &str = r"%SystemRoot%\System32\EventCreate.exe";
