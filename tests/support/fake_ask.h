/* fake_ask.h - reads a request's body into what the answer needs to know. */
#pragma once
#include "tests/support/fake_answer.h"

struct arena;

/* Fills *answer, whose shape and id the caller has set; directives in the last user message, prompt, input, `user` or
 * `metadata` change the shape. ERR_INVALID: *ret_message (from the arena) says why. Nothing in *answer borrows from
 * body or arena. */
MUST_CHECK enum err fake_ask(struct arena *arena, struct span body, struct span name, struct fake_answer *answer,
                             const char **ret_message);
