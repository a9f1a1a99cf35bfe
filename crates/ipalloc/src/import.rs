//! Reading what other programs mapped.
