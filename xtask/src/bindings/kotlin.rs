//! What is changed in the generated Kotlin code: each call made a structure for its outcome, which JNA gives memory of its own.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};

const GENERATED: &str = "    var status = UniffiRustCallStatus()
    val return_value = callback(status)
    uniffiCheckCallStatus(errorHandler, status)
    return return_value
";

/// `CallStatuses` is in the module's own sources.
const CHEAPER: &str = "    val statuses = CallStatuses.ofThisThread()
    val status = statuses.take()
    try {
        val return_value = callback(status)
        uniffiCheckCallStatus(errorHandler, status)
        return return_value
    } finally {
        statuses.giveBack(status)
    }
";

/// Has calls take these structures from a stock.
pub(super) fn make_calls_cheaper(file: &Path) -> Result<()> {
    let text = fs::read_to_string(file)?;
    ensure!(
        text.matches(GENERATED).count() == 1,
        "{} is not what it was: look at `CallStatuses`, and at whether it is still needed",
        file.display()
    );
    fs::write(file, text.replace(GENERATED, CHEAPER))?;
    Ok(())
}
