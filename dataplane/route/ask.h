/* ask.h - reads what is asked for from a request's body, by its index; changes nothing.
 *
 * Only fields that we act on are looked at; the others pass unread. A field that we read and that stands twice is
 * refused: the provider may read the other one, and would then do something that was never judged.
 * Pure: the clock, the table and the network are not known here. */
#pragma once
#include "dataplane/dialect/chat.h"

/* Who the client says is asking: `user`, else `metadata.user_id`, else "". Borrows from the ask and arena. */
struct span ask_user(struct arena *arena, const struct ask *ask);
/* endpoint: CHAT, COMPLETIONS or EMBEDDINGS. Everything in *ret_ask borrows from body and arena.
 * ERR_SYNTAX: no JSON. ERR_TOO_LARGE, ERR_TOO_DEEP, ERR_TOO_MANY: over `limits` (NULL: the defaults). ERR_DUPLICATE.
 * ERR_INVALID: something we need is missing or of a wrong type. For all of these *ret_error says what to do.
 * ERR_NOMEM. *ret_ask is untouched on error. */
MUST_CHECK enum err ask_read(struct arena *arena, enum endpoint endpoint, struct span body,
                             const struct json_limits *limits, struct ask *ret_ask, struct ask_error *ret_error);
