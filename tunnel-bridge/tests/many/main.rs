//! Many streams on one link: what each holds, and that none leaves anything behind. Alone in its program, since the allocator counts for
//! the whole of it.

#[cfg(test)]
mod streams;
