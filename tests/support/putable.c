/* putable - puts a small table into a node's store, as a control plane would: one provider, one model, one route, one
 * team, one key. For tests of the node alone; not while its master runs. */
#include "common/opts.h"
#include "proto/home.h"
#include "proto/tablestore.h"
#include "proto/wire.h"
#include <unistd.h>

static const struct opt options[] = {
    { "home", 0, OPT_TEXT, "DIR", "the node's home" },
    { "port", 0, OPT_TEXT, "PORT", "where the provider listens on 127.0.0.1" },
    { "key", 0, OPT_TEXT, "TEXT", "the client key that is let in" },
    { "generation", 0, OPT_TEXT, "N", "of the head (default: 1)" },
};

static struct span_list names(struct span *items)
{
    return (struct span_list){ .items = items, .count = 1 };
}

static enum err put(struct tablestore *store, uint64_t port, const char *key_text, uint64_t generation)
{
    struct buf artifact_bytes = BUF_INIT(ARTIFACT_BYTES_MAX), head_bytes = BUF_INIT(HEAD_BYTES_MAX);
    struct span any[] = { SPAN("*") };
    char url[64];
    (void)snprintf(url, sizeof(url), "http://127.0.0.1:%u/v1", (unsigned)port);
    struct provider provider = { .name = SPAN("fake"),
                                 .base_url = span_cstr(url),
                                 .host = SPAN("127.0.0.1"),
                                 .port = (uint16_t)port,
                                 .path = SPAN("/v1"),
                                 .auth = AUTH_SCHEME_NONE,
                                 .stream_usage = true,
                                 .probe = PROBE_HOW_NONE,
                                 .probe_every_ms = 1000 };
    struct model model = { .name = SPAN("fake/small"),
                           .sends = SPAN("small"),
                           .price = { .known = PRICE_INPUT | PRICE_OUTPUT, .input = 1000000000, .output = 2000000000 },
                           .price_source = PRICE_SOURCE_POLICY,
                           .capabilities = CAP_CHAT | CAP_STREAM | CAP_TOOLS | CAP_JSON,
                           .timeouts = {
                               .connect_ms = 3000, .first_token_ms = 20000, .idle_ms = 30000, .hold_ms = 10000 } };
    struct tier_member member = { .model = 0, .weight_ppm = 1000000 };
    struct route route = { .name = SPAN("chat"),
                           .tiers = { { .prefer = PREFER_WEIGHTS, .members = &member, .member_count = 1 } },
                           .tier_count = 1,
                           .attempts = 1 };
    struct artifact artifact = { .schema = TABLE_SCHEMA,
                                 .policy_version = 1,
                                 .providers = &provider,
                                 .provider_count = 1,
                                 .models = &model,
                                 .model_count = 1,
                                 .routes = &route,
                                 .route_count = 1 };
    enum err err = wire_encode_artifact(&artifact, &artifact_bytes);
    const struct object artifact_object = wire_object(OBJECT_ARTIFACT, 0, buf_span(&artifact_bytes));
    struct arm arm = { .name = SPAN("stable"), .policy_version = 1, .artifact = artifact_object.hash };
    struct head head = {
        .epoch = 1, .generation = generation, .why = SPAN("test"), .by = SPAN("putable"), .arms = &arm, .arm_count = 1
    };
    if (!err)
        err = wire_encode_head(&head, &head_bytes);
    const struct object head_object = wire_object(OBJECT_HEAD, generation, buf_span(&head_bytes));
    struct team team = { .name = SPAN("research"), .routes = names(any), .models = names(any) };
    struct key_record key = { .hash = sha256_of(span_cstr(key_text)), .id = SPAN("key_test"), .team = team.name };
    struct directory_delta delta = { .epoch = 1,
                                     .to_seq = generation,
                                     .full = true,
                                     .has_teams = true,
                                     .teams = { .epoch = 1, .seq = generation, .items = &team, .count = 1 },
                                     .keys = &key,
                                     .key_count = 1 };
    struct table_version now;
    const struct table_change change = {
        .head = &head_object, .artifacts = &artifact_object, .artifact_count = 1, .directory = &delta
    };
    if (!err)
        err = tablestore_apply(store, &change, 0, &now);
    if (!err)
        printf("epoch %llu generation %llu\n", (unsigned long long)now.epoch, (unsigned long long)now.generation);
    buf_release(&artifact_bytes);
    buf_release(&head_bytes);
    return err;
}

int main(int argc, char **argv)
{
    struct opts_result given;
    char *message = NULL;
    uint64_t port, generation;
    struct tablestore *store = NULL;
    if (opts_parse(options, ARRAY_LEN(options), argc, argv, &given, &message) ||
        span_to_u64(span_cstr(opts_text(&given, "port", "")), &port) || port > UINT16_MAX ||
        span_to_u64(span_cstr(opts_text(&given, "generation", "1")), &generation) || !opts_text(&given, "home", NULL)) {
        fprintf(stderr, "putable: %s\n", message ? message : "--home DIR --port PORT --key TEXT");
        free(message);
        return 2;
    }
    char path[4096];
    (void)snprintf(path, sizeof(path), "%s/%s", opts_text(&given, "home", NULL), HOME_NODE_STORE);
    enum err err = tablestore_open(path, false, &store);
    if (!err)
        err = put(store, port, opts_text(&given, "key", "secret"), generation);
    tablestore_close(store);
    if (err)
        fprintf(stderr, "putable: %s\n", err_name(err));
    return err ? 1 : 0;
}
