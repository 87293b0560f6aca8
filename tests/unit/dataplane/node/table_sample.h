/* table_sample.h - small tables for the node's tests: one provider, one model, one route, one team, one key. */
#pragma once
#include "common/arena.h"
#include "proto/wire.h"

static inline struct span sample_bytes(struct arena *arena, struct buf *buf)
{
    const struct span copy = arena_dup(arena, buf_span(buf));
    buf_release(buf);
    REQUIRE(copy.ptr);
    return copy;
}

/* version only makes it another artifact. */
static inline struct object sample_artifact(struct arena *arena, uint32_t version)
{
    struct buf buf = BUF_INIT(ARTIFACT_BYTES_MAX);
    struct span credential = SPAN("openai-a");
    struct provider provider = { .name = SPAN("fake"),
                                 .base_url = SPAN("http://127.0.0.1:9/v1"),
                                 .host = SPAN("127.0.0.1"),
                                 .port = 9,
                                 .path = SPAN("/v1"),
                                 .auth = AUTH_SCHEME_BEARER,
                                 .credentials = { .items = &credential, .count = 1 },
                                 .probe = PROBE_HOW_NONE,
                                 .probe_every_ms = 1000 };
    struct model model = { .name = SPAN("fake/small"),
                           .sends = SPAN("small"),
                           .price = { .known = PRICE_INPUT | PRICE_OUTPUT, .input = 1, .output = 1 },
                           .price_source = PRICE_SOURCE_POLICY,
                           .capabilities = CAP_CHAT,
                           .timeouts = { .connect_ms = 1, .first_token_ms = 1, .idle_ms = 1, .hold_ms = 1 } };
    struct tier_member member = { .weight_ppm = 1000000 };
    struct route route = { .name = SPAN("chat"),
                           .tiers = { { .prefer = PREFER_WEIGHTS, .members = &member, .member_count = 1 } },
                           .tier_count = 1,
                           .attempts = 1 };
    struct artifact artifact = { .schema = TABLE_SCHEMA,
                                 .policy_version = version,
                                 .providers = &provider,
                                 .provider_count = 1,
                                 .models = &model,
                                 .model_count = 1,
                                 .routes = &route,
                                 .route_count = 1 };
    REQUIRE(wire_encode_artifact(&artifact, &buf) == OK);
    return wire_object(OBJECT_ARTIFACT, 0, sample_bytes(arena, &buf));
}

static inline struct object sample_head(struct arena *arena, uint64_t epoch, uint64_t generation,
                                        const struct object *artifact)
{
    struct buf buf = BUF_INIT(HEAD_BYTES_MAX);
    struct arm arm = { .name = SPAN("stable"), .policy_version = 1, .artifact = artifact->hash };
    struct head head = { .epoch = epoch, .generation = generation, .arms = &arm, .arm_count = 1 };
    REQUIRE(wire_encode_head(&head, &buf) == OK);
    return wire_object(OBJECT_HEAD, generation, sample_bytes(arena, &buf));
}

static inline struct object sample_evidence(struct arena *arena, uint64_t epoch, uint64_t seq)
{
    struct buf buf = BUF_INIT(EVIDENCE_BYTES_MAX);
    struct evidence evidence = { .epoch = epoch, .seq = seq, .expires_at_ms = 1 };
    REQUIRE(wire_encode_evidence(&evidence, &buf) == OK);
    return wire_object(OBJECT_EVIDENCE, seq, sample_bytes(arena, &buf));
}

/* A page of a full resync; key: one letter that its hash begins with. */
static inline struct object sample_page(struct arena *arena, uint64_t epoch, uint64_t seq, char key, bool more)
{
    struct buf buf = BUF_INIT(DIRECTORY_DELTA_BYTES_MAX);
    struct team team = { .name = SPAN("research") };
    struct key_record record = { .id = SPAN("key_a"), .team = SPAN("research") };
    memset(record.hash.bytes, key, SHA256_BYTES);
    struct directory_delta delta = { .epoch = epoch,
                                     .to_seq = seq,
                                     .full = true,
                                     .more = more,
                                     .has_teams = !more,
                                     .teams = { .epoch = epoch, .seq = seq, .items = &team, .count = 1 },
                                     .keys = &record,
                                     .key_count = 1 };
    if (more)
        delta.teams = (struct teams){ .epoch = 0 };
    REQUIRE(wire_encode_directory_delta(&delta, &buf) == OK);
    return wire_object(OBJECT_DIRECTORY, seq, sample_bytes(arena, &buf));
}
