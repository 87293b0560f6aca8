#include "dataplane/dialect/openai_chat.h"

/* Undoes what was appended when something failed half-way. */
static enum err settled(struct buf *out, size_t before, enum err err)
{
    if (err)
        buf_truncate(out, before);
    return err;
}

enum err openai_chat_write_error(struct buf *out, const struct openai_chat_error *error)
{
    size_t before = out->len;
    struct json_writer w;
    json_writer_init(&w, out);
    json_object_open(&w);
    json_key(&w, SPAN("error"));
    json_object_open(&w);
    json_member_string(&w, "message", error->message);
    json_member_cstr(&w, "type", error->type);
    json_member_cstr(&w, "param", error->param);
    json_member_cstr(&w, "code", error->code);
    json_object_close(&w);
    json_object_close(&w);
    return settled(out, before, json_writer_end(&w));
}

enum err openai_chat_write_error_event(struct buf *out, const struct openai_chat_error *error)
{
    size_t before = out->len;
    enum err err = buf_append(out, SPAN("data: "));
    if (!err)
        err = openai_chat_write_error(out, error); /* the writer escapes line feeds: it stays one line */
    if (!err)
        err = buf_append(out, SPAN("\n\n"));
    return settled(out, before, err);
}

static void write_model(struct json_writer *w, const struct openai_chat_listed *item, int64_t created_s)
{
    json_object_open(w);
    json_member_string(w, "id", item->id);
    json_member_cstr(w, "object", "model");
    json_member_i64(w, "created", created_s);
    json_member_cstr(w, "owned_by", item->owned_by);
    json_object_close(w);
}

enum err openai_chat_write_model(struct buf *out, const struct openai_chat_listed *item, int64_t created_s)
{
    size_t before = out->len;
    struct json_writer w;
    json_writer_init(&w, out);
    write_model(&w, item, created_s);
    return settled(out, before, json_writer_end(&w));
}

enum err openai_chat_write_models(struct buf *out, const struct openai_chat_listed *items, size_t count,
                                  int64_t created_s, bool more)
{
    size_t before = out->len;
    struct json_writer w;
    json_writer_init(&w, out);
    json_object_open(&w);
    json_member_cstr(&w, "object", "list");
    json_key(&w, SPAN("data"));
    json_array_open(&w);
    for (size_t i = 0; i < count; i++)
        write_model(&w, &items[i], created_s);
    json_array_close(&w);
    if (more)
        json_member_bool(&w, "has_more", true);
    json_object_close(&w);
    return settled(out, before, json_writer_end(&w));
}
