#include "controlplane/policy/diag.h"
#include "common/arena.h"
#include "common/buf.h"
#include "common/json.h"
#include "common/yaml.h"
#include <stdarg.h>

void diags_init(struct diags *diags, struct arena *arena)
{
    memset(diags, 0, sizeof *diags);
    diags->arena = arena;
    strmap_init(&diags->seen, arena);
}

static const char *severity_name(enum diag_severity severity)
{
    switch (severity) {
    case DIAG_ERROR:
        return "error";
    case DIAG_WARNING:
        return "warning";
    }
    return "error";
}

/* Names are bounded, but what stands for a name may not be: longer messages are cut rather than refused. */
#define MESSAGE_BYTES 600

/* The same complaint comes back when several entries inherit one bad value; it is counted once. */
static bool said_already(struct diags *diags, const char *file, uint32_t line, uint32_t column, const char *message)
{
    const char *id = arena_printf(diags->arena, "%s:%u:%u:%s", file, line, column, message);
    if (!id) {
        diags->failed = true;
        return true;
    }
    enum err err = strmap_put(&diags->seen, span_cstr(id), diags);
    if (err && err != ERR_EXISTS)
        diags->failed = true;
    return err != OK;
}

static void add(struct diags *diags, enum diag_severity severity, const char *file, uint32_t line, uint32_t column,
                const char *fmt, va_list args)
{
    char text[MESSAGE_BYTES];
    /* NOLINTNEXTLINE(clang-analyzer-valist.Uninitialized): every caller starts it; the analyzer loses that */
    vsnprintf(text, sizeof text, fmt, args);
    for (char *at = text; *at; at++) { /* a name may have a line end in it; a diagnostic is one line */
        if (*at == '\n' || *at == '\r' || *at == '\t')
            *at = ' ';
    }
    if (severity == DIAG_ERROR ? diags->errors > 10 * DIAGS_MAX : diags->count == DIAGS_MAX) {
        /* Far too many to keep, or to keep apart: only counted. */
        severity == DIAG_ERROR ? diags->errors++ : diags->warnings++;
        return;
    }
    const char *message = arena_printf(diags->arena, "%s", text);
    if (!message)
        diags->failed = true;
    if (!message || said_already(diags, file, line, column, message))
        return;
    severity == DIAG_ERROR ? diags->errors++ : diags->warnings++;
    struct diag *slot = NULL;
    if (diags->count < DIAGS_MAX) {
        slot = &diags->items[diags->count++];
    } else {
        /* Warnings make room for errors. */
        for (uint32_t i = 0; i < DIAGS_MAX && !slot; i++)
            slot = diags->items[i].severity == DIAG_WARNING ? &diags->items[i] : NULL;
    }
    if (slot)
        *slot = (struct diag){ .severity = severity, .file = file, .line = line, .column = column, .message = message };
}

void diag_error(struct diags *diags, const struct yaml_node *node, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    add(diags, DIAG_ERROR, node ? node->file : "", node ? node->line : 0, node ? node->column : 0, fmt, args);
    va_end(args);
}

void diag_warning(struct diags *diags, const struct yaml_node *node, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    add(diags, DIAG_WARNING, node ? node->file : "", node ? node->line : 0, node ? node->column : 0, fmt, args);
    va_end(args);
}

void diag_at(struct diags *diags, enum diag_severity severity, const char *file, uint32_t line, uint32_t column,
             const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    add(diags, severity, file, line, column, fmt, args);
    va_end(args);
}

void diag_unreadable(struct diags *diags, const char *file, enum err err)
{
    const char *why = err == ERR_NOT_FOUND ? "it is not there"
                      : err == ERR_DENIED  ? "permission denied"
                      : err == ERR_IO      ? "it is a directory, or the disk failed"
                                           : err_name(err);
    diag_at(diags, DIAG_ERROR, file, 0, 0, "cannot read this file: %s", why);
}

bool diags_bad(const struct diags *diags)
{
    return diags->errors > 0 || diags->failed;
}

static int by_place(const void *a, const void *b)
{
    const struct diag *x = a, *y = b;
    int order = strcmp(x->file, y->file);
    if (order != 0)
        return order;
    if (x->line != y->line)
        return x->line < y->line ? -1 : 1;
    if (x->column != y->column)
        return x->column < y->column ? -1 : 1;
    if (x->severity != y->severity)
        return x->severity < y->severity ? -1 : 1;
    return strcmp(x->message, y->message);
}

void diags_sort(struct diags *diags)
{
    qsort(diags->items, diags->count, sizeof diags->items[0], by_place);
}

static uint32_t beyond(const struct diags *diags)
{
    return diags->errors + diags->warnings - diags->count;
}

enum err diags_text(struct diags *diags, struct buf *out)
{
    diags_sort(diags);
    for (uint32_t i = 0; i < diags->count; i++) {
        const struct diag *d = &diags->items[i];
        enum err err = OK;
        if (d->line > 0)
            err = buf_printf(out, "%s:%u:%u: ", d->file, d->line, d->column);
        else if (d->file[0])
            err = buf_printf(out, "%s: ", d->file);
        if (!err)
            err = buf_printf(out, "%s: %s\n", severity_name(d->severity), d->message);
        if (err)
            return err;
    }
    if (diags->failed)
        return buf_append_cstr(out, "error: out of memory while checking; this list is not complete\n");
    return beyond(diags) > 0 ? buf_printf(out, "... and %u more\n", beyond(diags)) : OK;
}

void diags_json(struct diags *diags, struct json_writer *w)
{
    diags_sort(diags);
    json_object_open(w);
    json_member_u64(w, "errors", diags->errors + (diags->failed ? 1 : 0));
    json_member_u64(w, "warnings", diags->warnings);
    json_key(w, SPAN("items"));
    json_array_open(w);
    for (uint32_t i = 0; i < diags->count; i++) {
        const struct diag *d = &diags->items[i];
        json_object_open(w);
        json_member_cstr(w, "severity", severity_name(d->severity));
        json_member_cstr(w, "file", d->file);
        json_member_u64(w, "line", d->line);
        json_member_u64(w, "column", d->column);
        json_member_cstr(w, "message", d->message);
        json_object_close(w);
    }
    json_array_close(w);
    json_object_close(w);
}
