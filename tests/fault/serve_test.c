/* For every k: the k-th allocation, read, write, connect, accept, name query, read transaction or record fails while a
 * worker serves a request of each kind, over each kind of listener and protocol. Then
 *
 * - the client got the right answer to the byte, or an error (502, 503, 504; in a stream an error event), or its
 *   connection, or stream of HTTP/2, was closed: never a wrong answer, never silence;
 * - the books hold: each request that was counted left one record (or one dropped record, counted), of the same
 *   outcome and cost; gauges and buffered bytes are back at zero;
 * - the same worker serves the next request as if nothing had happened;
 * - at the end nothing has leaked (LeakSanitizer).
 *
 * Allocations are the worker's own and those of libuv, OpenSSL, c-ares and curl. Items with many of them are swept with a
 * stride from the same offsets each time; FAIRLEAD_FAULT_ALL=1 takes every one, FAIRLEAD_FAULT_SEED=N others, and
 * arguments name the items to run. */
#include "tests/fault/client.h"

#define REQUEST_MAX    (512u << 10)
#define ANSWERS_MAX    4u
#define POINTS_DEFAULT 80u /* failures tried of one item and kind, unless all are */

struct item {
    const char *name, *model, *content;
    const char *get;   /* a path instead of a question */
    unsigned requests; /* at once; 0: one */
    size_t padding;    /* more bytes of prompt */
    unsigned status;   /* expected; 0: 200 */
    struct manner comes;
    bool stream, chunked, expects, stranger;
    bool silent;    /* asks nothing: shakes hands */
    bool leaves;    /* when the first byte of the answer has come; of HTTP/2, cancels the stream */
    bool publishes; /* a new table is to be taken up first */
    bool cold;      /* by lanes that have made nothing yet: TLS's context, the resolver, curl's handles */
};
#define HTTP2                                                                                                          \
    {                                                                                                                  \
        .at = WORLD_HTTP2, .http2 = true                                                                               \
    }
#define HTTP2_TLS                                                                                                      \
    {                                                                                                                  \
        .at = WORLD_TLS, .http2 = true                                                                                 \
    }
static const struct item items[] = {
    { .name = "whole", .model = "a/m", .content = "hello" },
    { .name = "fresh", .model = "a/m", .content = "close" },
    { .name = "over-tls", .model = "a/m", .content = "hello", .comes = { .at = WORLD_TLS } },
    { .name = "over-h2", .model = "a/m", .content = "hello", .comes = HTTP2 },
    { .name = "stream", .model = "a/m", .content = "hello", .stream = true },
    { .name = "fresh-stream", .model = "a/m", .content = "close", .stream = true },
    { .name = "long", .model = "a/m", .content = "hello", .padding = 200000 },
    { .name = "chunked", .model = "a/m", .content = "hello", .padding = 30000, .chunked = true },
    { .name = "expects", .model = "a/m", .content = "hello", .expects = true },
    { .name = "big", .model = "a/m", .content = "big" },
    { .name = "named", .model = "b/m", .content = "close" },
    { .name = "failover", .model = "chat", .content = "close" },
    { .name = "failover-stream", .model = "chat", .content = "close", .stream = true },
    { .name = "pipelined", .model = "a/m", .content = "hello", .requests = 3 },
    { .name = "cut", .model = "a/m", .content = "cut", .stream = true },
    { .name = "leaves", .model = "a/m", .content = "wait", .stream = true, .leaves = true },
    { .name = "stranger", .model = "a/m", .content = "hello", .status = 401, .stranger = true },
    { .name = "unknown", .model = "chatt", .content = "hello", .status = 404 },
    { .name = "models", .get = "/v1/models" },
    { .name = "table", .model = "a/m", .content = "hello", .publishes = true },
    { .name = "tls", .model = "c/m", .content = "hello" },
    { .name = "fresh-tls", .model = "c/m", .content = "close", .stream = true },
    { .name = "cold-tls", .model = "c/m", .content = "close", .cold = true },
    { .name = "cold-named", .model = "b/m", .content = "close", .cold = true },
    { .name = "cold-curl", .model = "d/m", .content = "close", .cold = true },
    { .name = "curl", .model = "d/m", .content = "close", .stream = true },
    { .name = "tls-stream", .model = "a/m", .content = "hello", .stream = true, .comes = { .at = WORLD_TLS } },
    { .name = "tls12", .model = "a/m", .content = "hello", .comes = { .at = WORLD_TLS, .tls12 = true } },
    { .name = "tls-resumed", .model = "a/m", .content = "hello", .comes = { .at = WORLD_TLS, .resumes = true } },
    { .name = "tls-handshake", .silent = true, .comes = { .at = WORLD_TLS } },
    { .name = "tls-certificate", .model = "a/m", .content = "hello", .comes = { WORLD_TLS, .certificate = true } },
    { .name = "tls-big", .model = "a/m", .content = "big", .padding = 30000, .comes = { .at = WORLD_TLS } },
    { .name = "h2-streams", .model = "a/m", .content = "hello", .stream = true, .requests = 2, .comes = HTTP2 },
    { .name = "h2-cancel", .model = "a/m", .content = "wait", .stream = true, .leaves = true, .comes = HTTP2 },
    { .name = "h2-upload", .model = "a/m", .content = "hello", .padding = 200000, .comes = HTTP2 },
    { .name = "h2-big", .model = "a/m", .content = "big", .comes = HTTP2 },
    { .name = "h2-tls", .model = "a/m", .content = "hello", .requests = 2, .comes = HTTP2_TLS },
    { .name = "h2-tls-cancel", .model = "a/m", .content = "wait", .stream = true, .leaves = true, .comes = HTTP2_TLS },
    { .name = "h2-tls-upload", .model = "a/m", .content = "hello", .padding = 100000, .comes = HTTP2_TLS },
    { .name = "proxied", .model = "a/m", .content = "hello", .comes = { .at = WORLD_PROXIED } },
    { .name = "unix", .model = "a/m", .content = "hello", .stream = true, .comes = { .at = WORLD_UNIX } },
};
static const struct {
    enum fault_kind kind;
    const char *name;
    uint64_t count; /* in a row */
} kinds[] = {
    { FAULT_ALLOC, "alloc", 1 },     { FAULT_ALLOC, "allocs", 5 },    { FAULT_READ, "read", 1 },
    { FAULT_WRITE, "write", 1 },     { FAULT_CONNECT, "connect", 1 }, { FAULT_ACCEPT, "accept", 1 },
    { FAULT_RESOLVE, "resolve", 1 }, { FAULT_STORE, "store", 1 },     { FAULT_RECORD, "record", 1 },
};

#define ITEM_WHOLE      0
#define ITEM_FRESH      1
#define ITEM_OVER_TLS   2
#define ITEM_OVER_HTTP2 3

static struct provider_process provider;
static struct world world;
static struct visitor client;
static bool all_points;
static unsigned served, refused, broken_off; /* answers of the sweep under way */
static struct prng prng;
static const char *now_item, *now_kind;
static uint64_t now_k;
#define FAIL(format, ...)                                                                                              \
    fail_msg("%s, %s %llu: " format "\n%.3000s", now_item, now_kind, (unsigned long long)now_k, __VA_ARGS__,           \
             client.heard[0].text)

/* ---- requests ---- */

static unsigned requests_of(const struct item *item)
{
    return item->silent ? 0 : item->requests ? item->requests : 1;
}

static size_t write_body(const struct item *item, char *out)
{
    int n = snprintf(out, REQUEST_MAX, "{\"model\":\"%s\",%s\"messages\":[{\"role\":\"user\",\"content\":\"%s",
                     item->model, item->stream ? "\"stream\":true," : "", item->content);
    memset(out + n, 'p', item->padding);
    n += (int)item->padding;
    return (size_t)n + (size_t)snprintf(out + n, REQUEST_MAX - (size_t)n, "\"}]}");
}

static size_t write_request(const struct item *item, char *out)
{
    static char body[REQUEST_MAX];
    const char *key = item->stranger ? "fl-nobody" : world.rig.key;
    const bool certificate = item->comes.certificate; /* instead of a key */
    if (item->get)
        return (size_t)snprintf(out, REQUEST_MAX, "GET %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n",
                                item->get, key);
    const size_t len = write_body(item, body);
    int n = snprintf(out, REQUEST_MAX, "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n%s%s\r\n%s",
                     certificate ? "X-No" : "Authorization: Bearer ", certificate ? ": key" : key,
                     item->expects ? "Expect: 100-continue\r\n" : "");
    size_t at = (size_t)n;
    if (!item->chunked) {
        at += (size_t)snprintf(out + at, REQUEST_MAX - at, "Content-Length: %zu\r\n\r\n", len);
        memcpy(out + at, body, len);
        return at + len;
    }
    at += (size_t)snprintf(out + at, REQUEST_MAX - at, "Transfer-Encoding: chunked\r\n\r\n");
    for (size_t done = 0; done < len;) {
        const size_t part = size_min(len - done, 7000);
        at += (size_t)snprintf(out + at, REQUEST_MAX - at, "%zx\r\n%.*s\r\n", part, (int)part, body + done);
        done += part;
    }
    return at + (size_t)snprintf(out + at, REQUEST_MAX - at, "0\r\n\r\n");
}

/* ---- answers ---- */

struct answer {
    unsigned status;
    bool complete;
    char id[40];
    const char *body; /* without chunks' frames, and without comments in a stream */
    size_t body_len;
};
static char decoded[CLIENT_TEXT_MAX];

static bool decode_chunks(const char *at, const char *end, struct answer *answer, size_t *ret_used)
{
    const char *start = at;
    while (at < end) {
        char *data;
        const char *line = memchr(at, '\n', (size_t)(end - at));
        if (!line)
            return false;
        const size_t size = strtoul(at, &data, 16);
        at = line + 1;
        const size_t there = size_min(size, (size_t)(end - at));
        memcpy(decoded + answer->body_len, at, there);
        answer->body_len += there;
        if ((size_t)(end - at) < size + 2)
            return false;
        at += size + 2;
        if (size == 0) {
            *ret_used = (size_t)(at - start);
            return true;
        }
    }
    return false;
}

static void drop_comments(struct answer *answer)
{
    size_t to = 0;
    for (size_t from = 0; from < answer->body_len;) {
        const char *end = memmem(decoded + from, answer->body_len - from, "\n\n", 2);
        const size_t len = end ? (size_t)(end - decoded) + 2 - from : answer->body_len - from;
        if (decoded[from] != ':') {
            memmove(decoded + to, decoded + from, len);
            to += len;
        }
        from += len;
    }
    answer->body_len = to;
}

/* The answer that begins there; returns the bytes it takes, 0 when its head is not whole. */
static size_t read_answer(const char *text, size_t len, struct answer *ret)
{
    const char *head_end = strstr(text, "\r\n\r\n");
    *ret = (struct answer){ .body = decoded };
    if (!head_end)
        return 0;
    const size_t head_len = (size_t)(head_end - text) + 4;
    ret->status = (unsigned)strtoul(text + strlen("HTTP/1.1 "), NULL, 10);
    if (ret->status == 100) {
        const size_t more = read_answer(text + head_len, len - head_len, ret);
        return more ? head_len + more : 0;
    }
    const char *id = strstr(text, "x-request-id: ");
    if (id && id < head_end)
        (void)sscanf(id, "x-request-id: %39[^\r]", ret->id);
    const char *length = strcasestr(text, "content-length: ");
    if (length && length < head_end) {
        const size_t body = strtoul(length + strlen("content-length: "), NULL, 10);
        ret->body = text + head_len;
        ret->body_len = size_min(body, len - head_len);
        ret->complete = ret->body_len == body;
        return head_len + ret->body_len;
    }
    size_t used = len - head_len;
    ret->complete = decode_chunks(text + head_len, text + len, ret, &used);
    drop_comments(ret);
    return head_len + used;
}

/* Goes through all answers, of all streams: false when there is no more. */
struct reader {
    unsigned text;
    size_t at;
};
static bool next_answer(struct reader *reader, struct answer *ret)
{
    for (; reader->text < client.texts; reader->text++, reader->at = 0) {
        const struct heard *heard = &client.heard[reader->text];
        const size_t n =
            reader->at < heard->len ? read_answer(heard->text + reader->at, heard->len - reader->at, ret) : 0;
        reader->at += n;
        if (n)
            return true;
    }
    return false;
}

static unsigned complete_answers(void)
{
    struct reader reader = { 0 };
    struct answer answer;
    unsigned count = 0;
    while (next_answer(&reader, &answer))
        count += answer.complete;
    return count;
}

static size_t heard_bytes(void)
{
    size_t sum = 0;
    for (unsigned i = 0; i < client.texts; i++)
        sum += client.heard[i].len;
    return sum;
}

/* Each that was asked for has begun: the first bytes of its body are there. */
static bool all_began(void)
{
    for (unsigned i = 0; i < client.texts; i++)
        if (client.http2 ? !client.heard[i].data : !client.heard[i].len)
            return false;
    return true;
}

/* ---- what is right ---- */

struct reference {
    char *bytes;
    size_t len;
};
static struct reference references[ARRAY_LEN(items)], stream_reference;

static bool begins_right(const struct answer *answer, const struct reference *right, size_t len)
{
    return len <= right->len && memcmp(answer->body, right->bytes, len) == 0;
}

static bool ends_with_error(const struct answer *answer)
{
    return memmem(answer->body, answer->body_len, "data: {\"error\"", 14);
}

/* A stream that ends well ends as all do, or with an error after a part of the right one. */
static bool stream_is_right(const struct answer *answer)
{
    const char *error = memmem(answer->body, answer->body_len, "data: {\"error\"", 14);
    if (!answer->complete)
        return begins_right(answer, &stream_reference, error ? (size_t)(error - answer->body) : answer->body_len);
    if (!error)
        return answer->body_len == stream_reference.len && begins_right(answer, &stream_reference, answer->body_len);
    const size_t before = (size_t)(error - answer->body);
    const char *end = memmem(error, answer->body_len - before, "\n\n", 2);
    return begins_right(answer, &stream_reference, before) && end == answer->body + answer->body_len - 2;
}

static bool error_is_right(const struct item *item, const struct answer *answer)
{
    const bool ours = answer->status == 502 || answer->status == 503 || answer->status == 504;
    if (!ours && answer->status != item->status)
        return false;
    return !answer->complete || memmem(answer->body, answer->body_len, "\"error\"", 7);
}

static void check_answer(const struct item *item, const struct reference *right, const struct answer *answer)
{
    bool good;
    if (answer->status != 200)
        good = error_is_right(item, answer);
    else if (item->stream)
        good = stream_is_right(answer);
    else
        good = begins_right(answer, right, answer->body_len) && (!answer->complete || answer->body_len == right->len);
    if (!good)
        FAIL("a wrong answer (status %u, %zu bytes, %s)", answer->status, answer->body_len,
             answer->complete ? "complete" : "broken off");
}

/* ---- books ---- */

struct books {
    uint64_t requests, ok, client_errors, cancelled, errors, cost, dropped;
};

static struct books books_now(void)
{
    struct rig *rig = &world.rig;
    return (struct books){ .requests = counted(rig, SERIES_REQUESTS),
                           .ok = counted(rig, SERIES_OK),
                           .client_errors = counted(rig, SERIES_CLIENT_ERRORS),
                           .cancelled = counted(rig, SERIES_CANCELLED),
                           .errors = counted(rig, SERIES_ERRORS),
                           .cost = counted(rig, SERIES_COST_NANO),
                           .dropped = world_gauge(&world, WORKER_RECORDS_DROPPED) };
}

static unsigned lines_with(const char *text, const char *a, const char *b)
{
    unsigned count = 0;
    for (const char *line = text; *line;) {
        const char *end = strchr(line, '\n');
        const char *at = memmem(line, (size_t)(end - line), a, strlen(a));
        count += at && (!b || memmem(line, (size_t)(end - line), b, strlen(b)));
        line = end + 1;
    }
    return count;
}

static uint64_t cost_of_lines(const char *text)
{
    uint64_t sum = 0;
    static const char name[] = "\"cost_nano_usd\":";
    for (const char *at = text; (at = strstr(at, name)); at += sizeof(name) - 1)
        sum += strtoull(at + sizeof(name) - 1, NULL, 10);
    return sum;
}

static void check_books(const struct item *item, const struct books *before, bool may_drop)
{
    struct buf lines;
    struct books now = books_now();
    const unsigned count = records(&world.rig, &lines);
    const char *text = count ? buf_cstr(&lines) : "";
    const uint64_t requests = now.requests - before->requests, dropped = now.dropped - before->dropped;
    if (requests != count + dropped || (dropped && !may_drop))
        FAIL("%llu requests, %u records, %llu dropped", (unsigned long long)requests, count,
             (unsigned long long)dropped);
    if (requests > requests_of(item))
        FAIL("%llu requests are counted", (unsigned long long)requests);
    const uint64_t outcomes = now.ok - before->ok + now.client_errors - before->client_errors + now.cancelled -
                              before->cancelled + now.errors - before->errors;
    if (outcomes != requests)
        FAIL("%llu outcomes of %llu requests", (unsigned long long)outcomes, (unsigned long long)requests);
    if (!dropped && cost_of_lines(text) != now.cost - before->cost)
        FAIL("records say %llu nano-USD, counters %llu", (unsigned long long)cost_of_lines(text),
             (unsigned long long)(now.cost - before->cost));
    if (lines_with(text, "\"outcome\":\"ok\"", NULL) + dropped < now.ok - before->ok)
        FAIL("%llu went well, records say otherwise: %s", (unsigned long long)(now.ok - before->ok), text);
    struct answer answer;
    for (struct reader reader = { 0 }; next_answer(&reader, &answer);) {
        const unsigned of_it = lines_with(text, answer.id, NULL);
        const bool whole = answer.complete && answer.status == 200 && !ends_with_error(&answer);
        if (of_it > 1 || (whole && !dropped && lines_with(text, answer.id, "\"outcome\":\"ok\"") != 1))
            FAIL("%u records of %s: %s", of_it, answer.id, text);
    }
    buf_release(&lines);
}

/* ---- one run ---- */

/* The worker as it was: a model that has failed is not avoided by the next request. */
static void forgive(void)
{
    struct core *core = &world.rig.core;
    memset(core->cool_until_ms, 0, MODELS_MAX * sizeof(*core->cool_until_ms));
    for (uint32_t label = 0; label < 16; label++)
        atomic_store(&board_model(core->board, label)->breaker, 0);
}

/* A stream that its client cancelled is left by the worker, too, though its connection stays. */
static bool left(void)
{
    return world_gauge(&world, WORKER_REQUESTS_OPEN) == 0;
}

static unsigned closed_streams(void)
{
    unsigned count = 0;
    for (unsigned i = 0; i < client.texts; i++)
        count += client.heard[i].closed;
    return count;
}

static void wait_for_answers(const struct item *item)
{
    const uint64_t until_ms = clock_ms() + WORLD_WAIT_MS;
    bool cancelled = false;
    size_t seen = SIZE_MAX;
    while (!client.ended && !client.wrong) {
        const bool news = heard_bytes() != seen;
        seen = heard_bytes();
        if (item->silent ? client.ready
            : cancelled  ? left()
                         : news && !item->leaves && complete_answers() >= requests_of(item))
            return;
        if (item->leaves && !cancelled && all_began()) {
            if (!client.http2)
                return;
            client_cancel(&client);
            cancelled = true;
        }
        if (client.http2 && !cancelled && closed_streams() == client.texts)
            return;
        client_turn(&client, 100);
        if (clock_ms() > until_ms)
            FAIL("%u complete answers, then silence", complete_answers());
    }
    if (client.wrong)
        FAIL("the client got %s", client.wrong);
}

static void rest(void)
{
    const uint64_t until_ms = clock_ms() + WORLD_WAIT_MS;
    client_hang_up(&client);
    while (!world_rests(&world)) {
        client_turn(&client, 100);
        if (clock_ms() > until_ms)
            FAIL("never at rest: %llu connections, %llu requests, %llu bytes",
                 (unsigned long long)world_gauge(&world, WORKER_CONNECTIONS_OPEN),
                 (unsigned long long)world_gauge(&world, WORKER_REQUESTS_OPEN),
                 (unsigned long long)world_gauge(&world, WORKER_BYTES_BUFFERED));
    }
}

static void play(const struct item *item)
{
    static char request[REQUEST_MAX], authorization[80];
    bool sent = true;
    client_connect(&client, &item->comes);
    if (item->comes.http2) {
        snprintf(authorization, sizeof(authorization), "Bearer %s", world.rig.key);
        const size_t len = write_body(item, request);
        for (unsigned i = 0; i < requests_of(item); i++)
            client_ask(&client, authorization, span_of(request, len));
    } else if (!item->silent) {
        const size_t len = write_request(item, request);
        for (unsigned i = 0; i < requests_of(item) && sent; i++)
            sent = client_say(&client, request, len);
    }
    if (sent || client.ended)
        wait_for_answers(item);
    rest();
}

/* Without a fault: the answer is the reference. */
static void serve_right(const struct item *item, struct reference *right)
{
    struct answer answer;
    struct reader reader = { 0 };
    const struct books before = books_now();
    play(item);
    forgive();
    check_books(item, &before, false);
    if (item->comes.resumes && !client.reused)
        FAIL("%s", "without a fault: no session was resumed");
    if (item->silent) {
        if (!client.ready)
            FAIL("%s", "without a fault: no handshake");
        return;
    }
    if (!next_answer(&reader, &answer) || answer.status != (item->status ? item->status : 200) ||
        (!answer.complete && !item->leaves))
        FAIL("without a fault: status %u", answer.status);
    if (right->bytes) {
        check_answer(item, right, &answer);
        return;
    }
    right->len = answer.body_len;
    right->bytes = malloc(answer.body_len + 1);
    assert_non_null(right->bytes);
    memcpy(right->bytes, answer.body, answer.body_len);
    if (item->stream && !stream_reference.bytes)
        stream_reference = *right;
}

static void prepare(const struct item *item)
{
    if (item->publishes)
        rig_publish(&world.rig);
    if (!item->cold)
        return;
    core_close(&world.rig.core);
    world_renew_lane(&world);
}

/* True: the fault was reached. */
static bool serve_faulty(const struct item *item, const struct reference *right, enum fault_kind kind, uint64_t k,
                         uint64_t in_a_row)
{
    struct answer answer;
    const struct books before = books_now();
    const uint64_t generation = world.rig.generation;
    now_k = k;
    prepare(item);
    fault_arm(kind, k, in_a_row);
    play(item);
    const bool reached = fault_seen(kind) > k;
    fault_disarm_all();
    unsigned count = 0;
    for (struct reader reader = { 0 }; next_answer(&reader, &answer); count++) {
        check_answer(item, right, &answer);
        *(!answer.complete || ends_with_error(&answer) ? &broken_off : answer.status == 200 ? &served : &refused) += 1;
    }
    broken_off += !count;
    if (count > requests_of(item))
        FAIL("%u answers", count);
    check_books(item, &before, kind == FAULT_RECORD);
    forgive();
    /* In the same manner. Where the item is to connect, nothing is left in the pool. */
    const size_t next = item->comes.at == WORLD_TLS ? ITEM_OVER_TLS
                        : item->comes.http2         ? ITEM_OVER_HTTP2
                        : strstr(item->content ? item->content : "", "close") ? ITEM_FRESH
                                                                              : ITEM_WHOLE;
    serve_right(&items[next], &references[next]);
    if (item->publishes && world.rig.core.loader.version.generation != generation + 1)
        FAIL("the table of generation %llu is not served", (unsigned long long)generation + 1);
    return reached;
}

/* How many times it happens while the item is served. */
static uint64_t count_points(const struct item *item, enum fault_kind kind)
{
    prepare(item);
    const struct books before = books_now();
    fault_arm(kind, 0, 0);
    play(item);
    const uint64_t seen = fault_seen(kind);
    fault_disarm_all();
    check_books(item, &before, false);
    forgive();
    return seen;
}

static void sweep(size_t at, enum fault_kind kind, uint64_t in_a_row)
{
    const struct item *item = &items[at];
    serve_right(item, &references[at]);
    const uint64_t points = count_points(item, kind);
    const uint64_t stride = all_points || points <= POINTS_DEFAULT ? 1 : points / POINTS_DEFAULT + 1;
    const uint64_t since_ms = clock_ms();
    uint64_t tried = 0;
    served = refused = broken_off = 0;
    for (uint64_t k = stride > 1 ? prng_u64(&prng) % stride : 0; serve_faulty(item, &references[at], kind, k, in_a_row);
         k += stride)
        tried++;
    if (points)
        print_message("%-16s %-8s %5llu points, %5llu tried: %u served, %u refused, %u broken off; %llu ms\n",
                      item->name, now_kind, (unsigned long long)points, (unsigned long long)tried, served, refused,
                      broken_off, (unsigned long long)(clock_ms() - since_ms));
}

static bool chosen(const char *name, int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], name) == 0)
            return true;
    return argc <= 1;
}

static int the_argc;
static char **the_argv;

static void every_operation_fails_once(void **state)
{
    (void)state;
    now_kind = "none";
    world_open(&world, &provider);
    client_open(&client, &world);
    /* Twice: what is made once and kept is made before the first count. */
    for (unsigned twice = 0; twice < 2; twice++)
        for (size_t i = 0; i < ARRAY_LEN(items); i++) {
            now_item = items[i].name;
            serve_right(&items[i], &references[i]);
        }
    for (size_t i = 0; i < ARRAY_LEN(items); i++) {
        now_item = items[i].name;
        for (size_t j = 0; j < ARRAY_LEN(kinds) && chosen(now_item, the_argc, the_argv); j++) {
            now_kind = kinds[j].name;
            sweep(i, kinds[j].kind, kinds[j].count);
        }
    }
    client_close(&client);
    world_close(&world);
    for (size_t i = 0; i < ARRAY_LEN(items); i++)
        free(references[i].bytes);
}

int main(int argc, char **argv)
{
    if (!world_replace_allocators())
        return 1;
    the_argc = argc;
    the_argv = argv;
    signal(SIGPIPE, SIG_IGN);
    const char *text = getenv("FAIRLEAD_FAULT_SEED");
    const uint64_t seed = text ? strtoull(text, NULL, 10) : 1;
    all_points = getenv("FAIRLEAD_FAULT_ALL") != NULL;
    prng_seed(&prng, seed);
    print_message("FAIRLEAD_FAULT_SEED=%llu\n", (unsigned long long)seed);
    provider_start(&provider);
    const struct CMUnitTest tests[] = { cmocka_unit_test(every_operation_fails_once) };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    provider_stop(&provider);
    curl_global_cleanup();
    ares_library_cleanup();
    return failed;
}
