/* fault.h - the Nth allocation or system call of a kind fails, on demand. Compiled in always, one predictable branch
 * when off.
 *
 * Armed by tests in-process, or by the environment variable FAIRLEAD_FAULT="kind:after[:count][,kind:after...]" read by
 * fault_from_env, which only acts when FAIRLEAD_FAULT_ENABLE=1 too (so that a stray variable harms nobody); count is 1
 * when left out. Kinds: alloc, read, write, connect, accept, resolve (a name is asked for), commit, fsync, store (a read
 * transaction begins), record (a record is put on the board), crash_table (a worker aborts when it takes a new table),
 * drain (a worker that is told to drain loses its connection to the master before it understands).
 * Thread-safe. */
#pragma once
#include "common/base.h"
#include "common/err.h"
#include "common/span.h"

enum fault_kind {
    FAULT_ALLOC,
    FAULT_READ,
    FAULT_WRITE,
    FAULT_CONNECT,
    FAULT_ACCEPT,
    FAULT_RESOLVE,
    FAULT_COMMIT,
    FAULT_FSYNC,
    FAULT_STORE,
    FAULT_RECORD,
    FAULT_CRASH_TABLE,
    FAULT_DRAIN,
    FAULT_KINDS
};

extern bool fault_armed_any; /* read by fault_hit only */
bool fault_hit_slow(enum fault_kind kind);
/* True: behave as if this operation failed now. */
static inline bool fault_hit(enum fault_kind kind)
{
    return UNLIKELY(__atomic_load_n(&fault_armed_any, __ATOMIC_RELAXED)) && fault_hit_slow(kind);
}
/* The operations after..after+count-1 (from 0, counted from now) fail. count 0: none. */
void fault_arm(enum fault_kind kind, uint64_t after, uint64_t count);
void fault_disarm_all(void);
uint64_t fault_seen(enum fault_kind kind); /* operations since the kind was armed */
MUST_CHECK enum err fault_from_env(void);  /* ERR_SYNTAX */
/* malloc and friends with FAULT_ALLOC in front. All of Fairlead's own code allocates through these. */
void *fault_malloc(size_t bytes);
void *fault_calloc(size_t count, size_t bytes);
void *fault_realloc(void *ptr, size_t bytes);
