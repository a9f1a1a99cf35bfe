//! What a link holds: alone in its program, since the allocator counts for the whole of it.

#[cfg(test)]
mod never_reads;
