#pragma once
#include <zlib.h>

// inflateInit2 is a macro, which Swift doesn't see. Negative window bits: a raw deflate stream, as in zip archives.
static inline int apus_inflate_init_raw(z_streamp stream) { return inflateInit2(stream, -MAX_WBITS); }
