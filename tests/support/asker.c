/* asker - asks a control plane's admin link what standard input says, one JSON object a line, and prints one JSON
 * object for each answer, in order. For tests that need more commands, or stranger ones, than the CLI sends.
 *
 *   in:  {"id": "request-1", "command": "providers.drain", "args": {"name": "fake"}, "timeout_ms": 5000}
 *   out: {"err": "ok", "status": 0, "message": "...", "result": {...}}   err other than "ok": no answer came */
#include "common/arena.h"
#include "common/json.h"
#include "common/opts.h"
#include "proto/channel.h"
#include "proto/wire.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define ARENA_MAX  ((size_t)256 << 20)
#define TIMEOUT_MS 10000u

static const struct opt options[] = {
    { "address", 0, OPT_TEXT, "ADDRESS", "the admin link, e.g. ipc:///home/run/admin.ipc" },
};

struct asker {
    struct channel_client *client;
    int woken; /* eventfd */
    struct arena *arena;
    bool answered;
    enum err err;
    struct span reply; /* in the arena */
};

static void wake(void *user)
{
    const struct asker *asker = user;
    const uint64_t one = 1;
    ssize_t n;
    do
        n = write(asker->woken, &one, sizeof(one));
    while (n < 0 && errno == EINTR);
}

static void on_answer(void *user, enum err err, struct span reply)
{
    struct asker *asker = user;
    asker->answered = true;
    asker->err = err;
    asker->reply = err ? SPAN("") : arena_dup(asker->arena, reply);
}

static enum err text_of(struct arena *arena, const struct json_index *ix, const char *name, struct span *ret)
{
    const uint32_t token = json_get(ix, 0, span_cstr(name));
    *ret = SPAN("");
    return token == JSON_NONE ? OK : json_string(arena, ix, token, ret);
}

static enum err read_args(struct arena *arena, const struct json_index *ix, struct admin_request *request)
{
    const uint32_t args = json_get(ix, 0, SPAN("args"));
    if (args == JSON_NONE || json_kind(ix, args) != JSON_OBJECT)
        return OK;
    request->args = ARENA_ARRAY(arena, ix->tokens[args].count + 1, struct admin_arg);
    if (!request->args)
        return ERR_NOMEM;
    for (uint32_t key = json_first(ix, args); key != JSON_NONE;) {
        const uint32_t value = json_next(ix, args, key);
        struct admin_arg *arg = &request->args[request->arg_count++];
        enum err err = json_string(arena, ix, key, &arg->name);
        if (!err)
            err = json_string(arena, ix, value, &arg->value);
        if (err)
            return err;
        key = json_next(ix, args, value);
    }
    return OK;
}

static enum err ask(struct asker *asker, struct span line)
{
    struct json_index ix;
    struct admin_request request = { .protocol = LINK_PROTOCOL, .user = SPAN("asker") };
    struct buf out = BUF_INIT(FRAME_BYTES_MAX);
    uint64_t timeout_ms = TIMEOUT_MS;
    enum err err = json_index(asker->arena, line, &json_limits_default, &ix, NULL);
    if (!err)
        err = text_of(asker->arena, &ix, "id", &request.request_id);
    if (!err)
        err = text_of(asker->arena, &ix, "command", &request.command);
    if (!err)
        err = read_args(asker->arena, &ix, &request);
    if (!err && json_get(&ix, 0, SPAN("timeout_ms")) != JSON_NONE)
        err = json_u64(&ix, json_get(&ix, 0, SPAN("timeout_ms")), &timeout_ms);
    if (!err)
        err = wire_encode_admin_request(&request, &out);
    asker->answered = false;
    if (!err)
        err = channel_send(asker->client, buf_span(&out), (uint32_t)timeout_ms, on_answer, asker);
    buf_release(&out);
    while (!err && !asker->answered) {
        struct pollfd fd = { .fd = asker->woken, .events = POLLIN };
        uint64_t count;
        if (poll(&fd, 1, -1) > 0 && read(asker->woken, &count, sizeof(count)) > 0)
            channel_client_dispatch(asker->client);
    }
    return err ? err : asker->err;
}

static enum err print(struct asker *asker, enum err err)
{
    struct buf out = BUF_INIT(FRAME_BYTES_MAX);
    struct json_writer w;
    struct admin_reply *reply = NULL;
    if (!err)
        err = wire_decode_admin_reply(asker->arena, asker->reply, &reply);
    json_writer_init(&w, &out);
    json_object_open(&w);
    json_member_cstr(&w, "err", err_name(err));
    if (!err) {
        json_member_u64(&w, "status", reply->status);
        json_member_string(&w, "message", reply->message);
        json_key(&w, SPAN("result"));
        json_put_raw(&w, span_empty(reply->result) ? SPAN("null") : reply->result);
    }
    json_object_close(&w);
    err = json_writer_end(&w);
    if (!err) {
        (void)fwrite(buf_span(&out).ptr, 1, out.len, stdout);
        (void)fputc('\n', stdout);
        (void)fflush(stdout);
    }
    buf_release(&out);
    return err;
}

/* Nothing here needs an orderly end. */
static void on_term(UNUSED int number)
{
    _exit(0);
}

int main(int argc, char **argv)
{
    struct opts_result given;
    struct arena arena;
    struct asker asker = { .woken = eventfd(0, EFD_CLOEXEC), .arena = &arena };
    char *message = NULL, *line = NULL;
    size_t capacity = 0;
    ssize_t len;
    if (opts_parse(options, ARRAY_LEN(options), argc, argv, &given, &message) || !opts_text(&given, "address", NULL)) {
        fprintf(stderr, "asker: %s\n", message ? message : "--address ADDRESS");
        free(message);
        return 2;
    }
    const struct channel_client_options client = {
        .address = opts_text(&given, "address", NULL), .parallel = 1, .wake = wake, .wake_user = &asker
    };
    enum err err = asker.woken < 0 ? ERR_IO : channel_client_open(&client, &asker.client);
    arena_init(&arena, ARENA_MAX);
    (void)signal(SIGTERM, on_term);
    while (!err && (len = getline(&line, &capacity, stdin)) > 0) {
        err = print(&asker, ask(&asker, span_trim(span_of(line, (size_t)len))));
        arena_reset(&arena);
    }
    free(line);
    if (asker.client)
        channel_client_close(asker.client);
    arena_release(&arena);
    if (err)
        fprintf(stderr, "asker: %s\n", err_name(err));
    return err ? 1 : 0;
}
