//! The WebSocket under a link: RFC 6455 case by case, and beside another implementation.

#[cfg(test)]
mod oracle;
#[cfg(test)]
mod reading;
#[cfg(test)]
mod writing;
