#include "dataplane/worker/exchange_internal.h"

#define MODELS_BODY_MAX (8u << 20) /* RESOLVE_LIST_MAX names with their frames */

static enum err write_list(struct exchange *x, struct buf *body, int64_t made_s)
{
    bool more = false;
    struct arena arena;
    arena_init(&arena, RESOLVE_LIST_MAX * 128u); /* for the length of this call: too much for every request's own */
    struct resolve_entry *entries = ARENA_ARRAY(&arena, RESOLVE_LIST_MAX, struct resolve_entry);
    struct openai_chat_listed *items = ARENA_ARRAY(&arena, RESOLVE_LIST_MAX, struct openai_chat_listed);
    enum err err = ERR_NOMEM;
    if (entries && items) {
        size_t count = resolve_list(x->arm, &x->principal, entries, RESOLVE_LIST_MAX, RESOLVE_SCAN_MAX, &more);
        for (size_t i = 0; i < count; i++)
            items[i] = (struct openai_chat_listed){ .id = entries[i].name, .owned_by = "fairlead" };
        err = openai_chat_write_models(body, items, count, made_s, more);
    }
    arena_release(&arena);
    return err;
}

void exchange_models(struct exchange *x)
{
    struct buf body = BUF_INIT(MODELS_BODY_MAX);
    int64_t made_s = x->table->head->made_at_ms / 1000;
    enum err err = OK;
    if (x->place.endpoint == ENDPOINT_MODELS) {
        err = write_list(x, &body, made_s);
    } else {
        struct resolved found;
        if (resolve_name(x->arm, &x->principal, x->place.model, &found)) {
            exchange_refuse(x, &(struct reply_error){ .outcome = OUTCOME_UNKNOWN_MODEL,
                                                      .message = resolve_not_found_message(
                                                          &x->arena, x->arm, &x->principal, x->place.model),
                                                      .param = "model" });
            return;
        }
        err = openai_chat_write_model(
            &body, &(struct openai_chat_listed){ .id = x->place.model, .owned_by = "fairlead" }, made_s);
    }
    buf_clear(&x->core->lines);
    if (err == OK)
        err = exchange_own_headers(x, true, &x->core->lines);
    if (err == OK)
        err = exchange_send_whole(x, 200, SPAN("application/json"), &body);
    buf_release(&body);
    if (err)
        exchange_refuse_with(x, OUTCOME_BUSY, NULL);
    else
        exchange_finish(x, OUTCOME_OK, NULL, false);
}
