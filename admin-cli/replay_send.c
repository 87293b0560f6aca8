#include "admin-cli/replay_send.h"
#include "common/buf.h"
#include "common/clock.h"
#include "common/fault.h"
#include "common/json.h"
#include <curl/curl.h>

#define TOKENS_MAX      2000000u /* of one prompt: a trace's typing error must not fill the memory */
#define BYTES_PER_TOKEN 4u       /* as everywhere a size is estimated from text */
#define BODY_BYTES_MAX  ((size_t)TOKENS_MAX * BYTES_PER_TOKEN + 4096)
#define PROGRESS_US     200000u
#define WAIT_MS_MOST    100
#define CONNECT_MS      10000L

struct replay_call { /* one request */
    CURL *easy;
    struct replay_run *run;
    struct replay_call *next; /* of the free ones */
    struct replay_call *all;  /* the one made before */
    struct buf body;
    uint64_t begun_us, first_us;
};
struct replay_run {
    const struct replay_options *options;
    const struct replay_trace *trace;
    struct replay_result *out;
    CURLM *multi;
    struct curl_slist *headers;
    struct replay_call *spare, *made;
    struct buf url;
    uint64_t begun_us, told_us;
    bool stopped;
};

static uint64_t now_us(void)
{
    return clock_ns() / 1000;
}

static size_t on_body(UNUSED char *bytes, size_t one, size_t count, void *user)
{
    struct replay_call *call = user;
    if (call->first_us == 0)
        call->first_us = now_us();
    call->run->out->bytes_in += one * count;
    return one * count;
}

/* Words of four letters' length, so that most tokenizers count about one for each. */
static enum err put_prompt(struct buf *out, uint32_t tokens)
{
    static const char words[] = "rope line deck mast sail keel helm hull ";
    char *at;
    const size_t bytes = (size_t)(tokens < TOKENS_MAX ? tokens : TOKENS_MAX) * BYTES_PER_TOKEN;
    if (bytes == 0)
        return OK;
    const enum err err = buf_reserve(out, bytes, &at);
    if (err)
        return err;
    for (size_t i = 0; i < bytes; i++)
        at[i] = words[i % (sizeof(words) - 1)];
    buf_commit(out, bytes);
    return OK;
}

static enum err make_body(const struct replay_run *run, const struct replay_item *item, struct buf *out)
{
    const struct span model = run->options->model ? span_cstr(run->options->model) : run->trace->models[item->model];
    struct json_writer w;
    buf_clear(out);
    json_writer_init(&w, out);
    json_object_open(&w);
    json_member_string(&w, "model", model);
    json_member_bool(&w, "stream", item->stream);
    if (item->output_tokens > 0)
        json_member_u64(&w, "max_tokens", item->output_tokens);
    json_key(&w, SPAN("messages"));
    if (w.err)
        return w.err;
    enum err err = buf_append_cstr(out, "[{\"role\":\"user\",\"content\":\"");
    if (!err)
        err = put_prompt(out, item->input_tokens);
    return err ? err : buf_append_cstr(out, "\"}]}");
}

static void free_call(struct replay_call *call)
{
    if (call->easy)
        curl_easy_cleanup(call->easy);
    buf_release(&call->body);
    free(call);
}

static struct replay_call *take_call(struct replay_run *run)
{
    struct replay_call *call = run->spare;
    if (call) {
        run->spare = call->next;
        return call;
    }
    call = fault_calloc(1, sizeof(*call));
    if (!call)
        return NULL;
    call->run = run;
    buf_init(&call->body, BODY_BYTES_MAX);
    call->easy = curl_easy_init();
    if (!call->easy) {
        free_call(call);
        return NULL;
    }
    curl_easy_setopt(call->easy, CURLOPT_URL, run->url.data + run->url.start);
    curl_easy_setopt(call->easy, CURLOPT_HTTPHEADER, run->headers);
    curl_easy_setopt(call->easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(call->easy, CURLOPT_WRITEDATA, call);
    curl_easy_setopt(call->easy, CURLOPT_PRIVATE, call);
    curl_easy_setopt(call->easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(call->easy, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_MS);
    curl_easy_setopt(call->easy, CURLOPT_PROTOCOLS_STR, "http,https");
    call->all = run->made;
    run->made = call;
    return call;
}

static enum err send_one(struct replay_run *run, const struct replay_item *item, uint64_t due_us)
{
    struct replay_result *out = run->out;
    const uint64_t late = now_us() - due_us;
    out->late_us_most = late > out->late_us_most ? late : out->late_us_most;
    if (out->open >= REPLAY_OPEN_MAX) {
        out->not_sent++;
        return OK;
    }
    struct replay_call *call = take_call(run);
    if (!call)
        return ERR_NOMEM;
    const enum err err = make_body(run, item, &call->body);
    if (err)
        return err;
    curl_easy_setopt(call->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)call->body.len);
    curl_easy_setopt(call->easy, CURLOPT_POSTFIELDS, call->body.data + call->body.start);
    call->begun_us = now_us();
    call->first_us = 0;
    if (curl_multi_add_handle(run->multi, call->easy) != CURLM_OK)
        return ERR_IO;
    out->sent++;
    out->open++;
    out->input_tokens += item->input_tokens;
    out->output_tokens += item->output_tokens;
    return OK;
}

static void judge(struct replay_run *run, struct replay_call *call, CURLcode code)
{
    struct replay_result *out = run->out;
    const uint64_t end_us = now_us();
    long status = 0;
    (void)curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &status);
    out->open--;
    if (code != CURLE_OK) {
        out->broken++;
        return;
    }
    out->answered++;
    if (status >= 200 && status < 300) {
        out->good++;
        hist_add(&out->ttft, (call->first_us ? call->first_us : end_us) - call->begun_us);
        hist_add(&out->total, end_us - call->begun_us);
    } else if (status == 429) {
        out->limited++;
    } else if (status >= 500) {
        out->server_errors++;
    } else {
        out->client_errors++;
    }
}

static void collect(struct replay_run *run)
{
    int left;
    for (const CURLMsg *message; (message = curl_multi_info_read(run->multi, &left));) {
        char *private = NULL;
        const CURLcode code = message->data.result;
        CURL *easy = message->easy_handle;
        if (message->msg != CURLMSG_DONE || curl_easy_getinfo(easy, CURLINFO_PRIVATE, &private) != CURLE_OK)
            continue;
        struct replay_call *call = (struct replay_call *)(void *)private;
        curl_multi_remove_handle(run->multi, easy);
        judge(run, call, code);
        call->next = run->spare;
        run->spare = call;
    }
}

static void tell(struct replay_run *run, bool now)
{
    const uint64_t at = now_us();
    if (!now && at - run->told_us < PROGRESS_US)
        return;
    run->told_us = at;
    run->out->elapsed_us = at - run->begun_us;
    run->stopped |= run->options->progress(run->options->user, run->options, run->out->elapsed_us);
}

/* Until `until_us` (0: for a moment), or something happens. */
static enum err turn(struct replay_run *run, uint64_t until_us)
{
    int running, changed;
    const uint64_t at = now_us();
    uint64_t wait_ms = until_us > at ? (until_us - at) / 1000 : 0;
    if (curl_multi_perform(run->multi, &running) != CURLM_OK)
        return ERR_IO;
    collect(run);
    wait_ms = wait_ms < WAIT_MS_MOST ? wait_ms : WAIT_MS_MOST;
    if (curl_multi_poll(run->multi, NULL, 0, (int)wait_ms, &changed) != CURLM_OK)
        return ERR_IO;
    tell(run, false);
    return OK;
}

static enum err send_all(struct replay_run *run)
{
    const struct replay_trace *trace = run->trace;
    const size_t count = run->options->limit && run->options->limit < trace->count ? run->options->limit : trace->count;
    enum err err = OK;
    for (size_t i = 0; i < count && !err && !run->stopped; i++) {
        const struct replay_item *item = &trace->items[i];
        const uint64_t due_us = run->begun_us + (uint64_t)((double)item->at_us / run->options->speed);
        while (!err && !run->stopped && now_us() < due_us)
            err = turn(run, due_us);
        if (!err && !run->stopped)
            err = send_one(run, item, due_us);
        if (!err && i % 16 == 15) /* a burst: answers are read all the same */
            err = turn(run, 0);
    }
    while (!err && !run->stopped && run->out->open > 0)
        err = turn(run, now_us() + WAIT_MS_MOST * 1000u);
    return err;
}

static enum err prepare(struct replay_run *run)
{
    char authorization[512];
    const struct span base = span_cstr(run->options->url);
    const bool slash = span_ends(base, SPAN("/"));
    const struct span bare = slash ? span_head(base, base.len - 1) : base;
    enum err err = buf_append(&run->url, bare);
    if (!err)
        err = buf_append_cstr(&run->url, span_ends(bare, SPAN("/v1")) ? "/chat/completions" : "/v1/chat/completions");
    if (!err)
        err = buf_append(&run->url, span_of("", 1));
    run->headers = curl_slist_append(NULL, "content-type: application/json");
    if (run->options->key && run->headers) {
        (void)snprintf(authorization, sizeof(authorization), "authorization: Bearer %s", run->options->key);
        struct curl_slist *more = curl_slist_append(run->headers, authorization);
        err = more ? err : ERR_NOMEM;
        explicit_bzero(authorization, sizeof(authorization));
    }
    return run->headers ? err : ERR_NOMEM;
}

enum err replay_send(const struct replay_trace *trace, const struct replay_options *options, struct replay_result *ret)
{
    struct replay_run run = { .options = options, .trace = trace, .out = ret, .url = BUF_INIT(8192) };
    *ret = (struct replay_result){ .sent = 0 };
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
        return ERR_IO;
    run.multi = curl_multi_init();
    enum err err = run.multi ? prepare(&run) : ERR_NOMEM;
    if (!err) {
        curl_multi_setopt(run.multi, CURLMOPT_MAXCONNECTS, (long)REPLAY_OPEN_MAX);
        run.begun_us = now_us();
        err = send_all(&run);
        tell(&run, true);
    }
    for (struct replay_call *call; (call = run.made);) { /* what is still open is given up */
        run.made = call->all;
        curl_multi_remove_handle(run.multi, call->easy);
        free_call(call);
    }
    if (run.multi)
        curl_multi_cleanup(run.multi);
    curl_slist_free_all(run.headers);
    buf_release(&run.url);
    curl_global_cleanup();
    return err;
}
