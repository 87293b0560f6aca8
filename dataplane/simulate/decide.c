#include "common/arena.h"
#include "common/clock.h"
#include "common/file.h"
#include "dataplane/account/usage.h"
#include "dataplane/simulate/files.h"
#include "dataplane/simulate/tool.h"
#include "proto/simulation.h"
#include <stdio.h>

#define INPUT_BYTES_MAX  (16u << 20) /* a file of tests is written by hand */
#define OUTPUT_BYTES_MAX (64u << 20)
#define ARENA_MAX        ((size_t)256 << 20)

struct decide {
    struct arena arena, scratch;
    struct setting *setting;
    struct json_index in;
    struct json_writer out;
    int64_t now_ms;
};
struct request {
    struct span team;
    struct ask ask;
};

static uint64_t number(const struct decide *d, uint32_t object, const char *name, uint64_t otherwise)
{
    uint64_t value;
    const uint32_t token = json_get(&d->in, object, span_cstr(name));
    return token != JSON_NONE && json_u64(&d->in, token, &value) == OK ? value : otherwise;
}

/* Of tokens, as a request's own are capped: "no limit" is not to wrap around. */
static uint64_t tokens(const struct decide *d, uint32_t object, const char *name)
{
    const uint64_t value = number(d, object, name, 0);
    return value < USAGE_TOKENS_MAX ? value : USAGE_TOKENS_MAX;
}

static bool flag(const struct decide *d, uint32_t object, const char *name)
{
    const uint32_t token = json_get(&d->in, object, span_cstr(name));
    return token != JSON_NONE && json_kind(&d->in, token) == JSON_TRUE;
}

static struct span text(struct decide *d, uint32_t object, const char *name)
{
    struct span value;
    const uint32_t token = json_get(&d->in, object, span_cstr(name));
    return token != JSON_NONE && json_string(&d->scratch, &d->in, token, &value) == OK ? value : SPAN("");
}

static struct request read_request(struct decide *d, uint32_t token)
{
    const struct span endpoint = text(d, token, "endpoint");
    struct request r = { .team = text(d, token, "team") };
    r.ask = (struct ask){ .endpoint = span_eq(endpoint, SPAN("embeddings"))    ? ENDPOINT_EMBEDDINGS
                                      : span_eq(endpoint, SPAN("completions")) ? ENDPOINT_COMPLETIONS
                                                                               : ENDPOINT_CHAT,
                          .model = text(d, token, "model"),
                          .stream = flag(d, token, "stream"),
                          .has_tools = flag(d, token, "tools"),
                          .has_images = flag(d, token, "images"),
                          .has_audio = flag(d, token, "audio"),
                          .wants_json = flag(d, token, "json"),
                          .max_output_tokens = tokens(d, token, "max_output"),
                          .choices = (uint32_t)number(d, token, "choices", 1) };
    r.ask.input_bytes = tokens(d, token, "input_tokens") * USAGE_BYTES_PER_TOKEN;
    return r;
}

static void put_candidate(struct decide *d, const struct plan_step *step, uint32_t first_ppb)
{
    const struct arm_view *arm = setting_arm(d->setting);
    const struct artifact *a = arm->compiled->artifact;
    const struct model *model = &a->models[step->model];
    const struct provider *provider = &a->providers[model->provider];
    struct json_writer *w = &d->out;
    json_object_open(w);
    json_member_string(w, "model", model->name);
    json_member_string(w, "provider", provider->name);
    json_key(w, SPAN("regions"));
    json_array_open(w);
    for (uint32_t i = 0; i < provider->data.regions.count; i++)
        json_put_string(w, provider->data.regions.items[i]);
    json_array_close(w);
    json_member_u64(w, "tier", step->tier + 1u);
    json_member_bool(w, "eligible", step->reason == PLAN_NONE);
    json_member_cstr(w, "reason", plan_reason_name(step->reason));
    json_member_decimal(w, "first", first_ppb, 9);
    json_member_decimal(w, "estimate_usd", step->estimate_nano, 9);
    json_object_close(w);
}

static enum err answer(struct decide *d, uint32_t token)
{
    struct setting_answer a;
    arena_reset(&d->scratch);
    const struct request r = read_request(d, token);
    const enum err err = setting_decide(d->setting, &d->scratch, r.team, SPAN(""), &r.ask, d->now_ms, &a);
    if (err)
        return err;
    struct json_writer *w = &d->out;
    json_object_open(w);
    json_member_cstr(w, "verdict", setting_verdict_name(a.verdict));
    json_member_cstr(w, "reason", a.verdict == SETTING_REFUSED ? plan_reason_name(a.reason) : NULL);
    json_member_cstr(w, "why", setting_explain(d->setting, &d->scratch, r.team, SPAN(""), &r.ask, d->now_ms, &a));
    json_member_string(w, "route", a.target.route ? a.target.route->name : SPAN(""));
    json_key(w, SPAN("candidates"));
    json_array_open(w);
    for (uint32_t i = 0; i < a.distribution.all_count; i++)
        put_candidate(d, &a.distribution.all[i], a.distribution.first_ppb[i]);
    json_array_close(w);
    json_object_close(w);
    return OK;
}

static enum err answer_all(struct decide *d)
{
    const uint32_t requests = json_get(&d->in, 0, SPAN("requests"));
    enum err err = requests == JSON_NONE ? ERR_INVALID : OK;
    json_object_open(&d->out);
    json_key(&d->out, SPAN("answers"));
    json_array_open(&d->out);
    for (uint32_t t = err ? JSON_NONE : json_first(&d->in, requests); t != JSON_NONE && !err;
         t = json_next(&d->in, requests, t))
        err = answer(d, t);
    json_array_close(&d->out);
    json_object_close(&d->out);
    return err ? err : json_writer_end(&d->out);
}

static enum err read_setting(struct decide *d, const char *dir, const char **ret_why)
{
    struct buf artifact = BUF_INIT(ARTIFACT_BYTES_MAX), directory = BUF_INIT(FRAME_BYTES_MAX);
    enum err err = files_read(dir, SIMULATION_CANDIDATE, artifact.max, &artifact);
    if (!err)
        err = files_read(dir, SIMULATION_DIRECTORY, directory.max, &directory);
    if (!err) {
        const struct setting_objects objects = { .artifact = buf_span(&artifact), .directory = buf_span(&directory) };
        err = setting_new(&objects, &d->setting, ret_why);
    }
    buf_release(&artifact);
    buf_release(&directory);
    return err;
}

int decide_tool(const char *dir)
{
    struct decide d = { .now_ms = clock_wall_ms() };
    struct buf in = BUF_INIT(INPUT_BYTES_MAX), out = BUF_INIT(OUTPUT_BYTES_MAX);
    const char *why = NULL;
    arena_init(&d.arena, ARENA_MAX);
    arena_init(&d.scratch, ARENA_MAX);
    json_writer_init(&d.out, &out);
    enum err err = read_setting(&d, dir, &why);
    if (!err)
        err = file_read("-", INPUT_BYTES_MAX, &in);
    if (!err)
        err = json_index(&d.arena, buf_span(&in), &json_limits_default, &d.in, NULL);
    if (!err)
        err = answer_all(&d);
    if (err) {
        buf_clear(&out);
        json_writer_init(&d.out, &out);
        json_object_open(&d.out);
        json_member_cstr(&d.out, "error", why ? why : err_name(err));
        json_object_close(&d.out);
    }
    (void)fwrite(buf_span(&out).ptr, 1, out.len, stdout);
    (void)fputs("\n", stdout);
    const bool told = fflush(stdout) == 0;
    setting_free(d.setting);
    arena_release(&d.scratch);
    arena_release(&d.arena);
    buf_release(&in);
    buf_release(&out);
    return err || !told;
}
