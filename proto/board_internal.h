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
void board_hist_fold(struct board_hist *into, const struct board_hist *from);
/* board_arms.c */
void board_arms_fold(struct board_region *into, const struct board_region *from);
