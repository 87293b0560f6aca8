/* senders.h - recognises repeated and late reports of one sender by (incarnation, seq). Incarnations have no order, so
 * those that were followed by another are kept for a while. */
#pragma once
#include "common/base.h"
#include "common/span.h"

#define SENDER_RETIRED_KEPT          4u
#define SENDER_INCARNATION_BYTES_MAX 64u /* compared as far as this */

struct sender_mark { /* all zero: never heard of */
    char incarnation[SENDER_INCARNATION_BYTES_MAX + 1];
    char retired[SENDER_RETIRED_KEPT][SENDER_INCARNATION_BYTES_MAX + 1];
    unsigned retired_at;
    uint64_t seq;
};
enum sender_word {
    SENDER_REBORN /* first word of an incarnation */,
    SENDER_NEXT,
    SENDER_OLD /* was heard, or is overtaken */
};

enum sender_word sender_mark_look(const struct sender_mark *mark, struct span incarnation, uint64_t seq);
void sender_mark_take(struct sender_mark *mark, struct span incarnation, uint64_t seq);
