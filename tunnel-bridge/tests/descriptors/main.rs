//! A process without a free file descriptor, which must be one of its own.

#[cfg(test)]
mod none_left;
