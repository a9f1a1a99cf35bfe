//! What ends a helper: the service control manager, or Ctrl-C.

use std::ffi::OsString;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use windows_service::service::{
    ServiceControl, ServiceControlAccept, ServiceExitCode, ServiceState, ServiceStatus, ServiceType,
};
use windows_service::service_control_handler::{self, ServiceControlHandlerResult, ServiceStatusHandle};
use windows_service::{define_windows_service, service_dispatcher};
use windows_sys::Win32::System::Console::SetConsoleCtrlHandler;

/// The service's name.
pub(crate) const NAME: &str = "devbox-helper";
/// How long everything may take to be undone.
const UNDOING: Duration = Duration::from_secs(30);

type End = Box<dyn FnOnce() + Send>;
type Run = Box<dyn FnOnce() -> Result<(), crate::Error> + Send>;

/// What is called when the helper is to end.
static END: Mutex<Option<End>> = Mutex::new(None);
/// What the service does: the system calls a function that takes nothing of ours.
static RUN: Mutex<Option<Run>> = Mutex::new(None);
/// What came of it.
static RESULT: Mutex<Option<crate::Error>> = Mutex::new(None);

/// Has `end` called once, when somebody ends this process in a way that leaves it time.
pub(super) fn on_end(end: impl FnOnce() + Send + 'static) -> io::Result<()> {
    *END.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(end));
    // SAFETY: the function lives as long as the program.
    if unsafe { SetConsoleCtrlHandler(Some(interrupted), 1) } == 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Ctrl-C, or the console's end.
unsafe extern "system" fn interrupted(_: u32) -> i32 {
    stop();
    1
}

fn stop() {
    let end = END.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(end) = end {
        end();
    }
}

/// Runs as the service that the service control manager has started this program for.
pub(crate) fn as_service(
    run: impl FnOnce() -> Result<(), crate::Error> + Send + 'static,
) -> Result<(), crate::Error> {
    *RUN.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(run));
    service_dispatcher::start(NAME, service_main)
        .map_err(|error| crate::Error::Listen(io::Error::other(error)))?;
    match RESULT.lock().unwrap_or_else(PoisonError::into_inner).take() {
        None => Ok(()),
        Some(error) => Err(error),
    }
}

define_windows_service!(service_main, serve);

fn serve(_: Vec<OsString>) {
    let result = (|| {
        let status = service_control_handler::register(NAME, |control| match control {
            ServiceControl::Stop | ServiceControl::Shutdown => {
                stop();
                ServiceControlHandlerResult::NoError
            }
            ServiceControl::Interrogate => ServiceControlHandlerResult::NoError,
            _ => ServiceControlHandlerResult::NotImplemented,
        })
        .map_err(|error| crate::Error::Listen(io::Error::other(error)))?;
        tell(&status, ServiceState::Running, 0);
        let run = RUN.lock().unwrap_or_else(PoisonError::into_inner).take();
        let result = run.map_or(Ok(()), |run| run());
        tell(&status, ServiceState::Stopped, u32::from(result.is_err()));
        result
    })();
    *RESULT.lock().unwrap_or_else(PoisonError::into_inner) = result.err();
}

/// A manager that cannot be told has given the service up, which changes nothing about what is to be done.
fn tell(status: &ServiceStatusHandle, state: ServiceState, code: u32) {
    let accepted = match state {
        ServiceState::Running => ServiceControlAccept::STOP | ServiceControlAccept::SHUTDOWN,
        _ => ServiceControlAccept::empty(),
    };
    let told = status.set_service_status(ServiceStatus {
        service_type: ServiceType::OWN_PROCESS,
        current_state: state,
        controls_accepted: accepted,
        exit_code: if code == 0 {
            ServiceExitCode::NO_ERROR
        } else {
            ServiceExitCode::ServiceSpecific(code)
        },
        checkpoint: 0,
        wait_hint: UNDOING,
        process_id: None,
    });
    told.ok();
}
