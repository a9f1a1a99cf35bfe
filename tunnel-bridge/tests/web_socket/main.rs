//! The WebSocket under a link: RFC 6455 case by case, and beside another implementation.

mod oracle;
mod reading;
mod writing;
