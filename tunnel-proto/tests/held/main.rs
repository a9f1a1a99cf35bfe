//! What a connection costs in memory, in a process of its own whose allocator counts.

#[cfg(test)]
mod unread;
