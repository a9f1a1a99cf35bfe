//! A catalog file as a provider.

#[cfg(test)]
mod file;
