/* board_internal.h - what board*.c share; nobody else includes it. */
#pragma once
#include "proto/board.h"

struct board_budget {
    _Atomic uint64_t key; /* of the id; 0: free */
    _Atomic int64_t spent_nano;
};

/* board.c */
struct board_budget *board_budgets(const struct board *board); /* BOARD_BUDGETS_MAX of them */
uint64_t board_hash(const struct board *board, struct span text);
void board_hist_fold(struct board_hist *into, struct board_hist *from);
/* board_arms.c */
void board_arms_fold(struct board_region *into, struct board_region *from);

/* A count is taken out before it is added: who is killed between the two loses that one, and who folds the rest
 * afterwards counts nothing twice. The order holds in the mapped file, which is what outlives a process. */
static inline void board_move(_Atomic uint64_t *into, _Atomic uint64_t *from)
{
    if (atomic_load_explicit(from, memory_order_relaxed) !=
        0) /* nothing is written where nothing was: holes stay holes */
        board_add(into, atomic_exchange_explicit(from, 0, memory_order_acq_rel));
}
