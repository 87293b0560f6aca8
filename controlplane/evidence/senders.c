#include "controlplane/evidence/senders.h"

static bool same(const char *kept, struct span told)
{
    return kept[0] && span_eq(span_cstr(kept), span_head(told, SENDER_INCARNATION_BYTES_MAX));
}

enum sender_word sender_mark_look(const struct sender_mark *mark, struct span incarnation, uint64_t seq)
{
    if (same(mark->incarnation, incarnation))
        return seq > mark->seq ? SENDER_NEXT : SENDER_OLD;
    for (unsigned i = 0; i < SENDER_RETIRED_KEPT; i++) {
        if (same(mark->retired[i], incarnation))
            return SENDER_OLD;
    }
    return SENDER_REBORN;
}

void sender_mark_take(struct sender_mark *mark, struct span incarnation, uint64_t seq)
{
    if (!same(mark->incarnation, incarnation)) {
        memcpy(mark->retired[mark->retired_at], mark->incarnation, sizeof mark->incarnation);
        mark->retired_at = (mark->retired_at + 1) % SENDER_RETIRED_KEPT;
        snprintf(mark->incarnation, sizeof mark->incarnation, SPAN_FMT,
                 SPAN_ARG(span_head(incarnation, SENDER_INCARNATION_BYTES_MAX)));
    }
    mark->seq = seq;
}
