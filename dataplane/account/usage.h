/* usage.h - tokens that were used: read from what providers say, merged, checked, estimated where nobody said. Pure.
 *
 * In struct usage `input` is everything that was read (cached and cache_write within it) and `output` everything that
 * was written (reasoning within it), whatever the provider's own way of counting. */
#pragma once
#include "common/json.h"
#include "dataplane/dialect/chat.h"

#define USAGE_TOKENS_MAX                                                                                               \
    1000000000u /* no model reads or writes a thousand million tokens in one call: a broken count must not cost a      \
                   fortune */
#define USAGE_BYTES_PER_TOKEN 4u /* rule of thumb for English text and code with today's vocabularies */

/* The `usage` object at `token` (JSON_NONE and null: absent). Understood:
 *   prompt_tokens, completion_tokens, total_tokens                              OpenAI and those who follow
 *   prompt_tokens_details.cached_tokens, completion_tokens_details.reasoning_tokens
 *   prompt_cache_hit_tokens                                                     DeepSeek; within prompt_tokens
 *   cache_read_input_tokens, cache_creation_input_tokens                        Anthropic's counts: within
 * prompt_tokens; with input_tokens, output_tokens                                                 these names, beside
 * input_tokens Where total = prompt + completion + reasoning, reasoning was not within completion (xAI, Gemini) and is
 * added to output. Counts that cannot be (negative, not whole, parts greater than the whole, huge) are clamped and
 * `suspect` is set. */
void usage_read(const struct json_index *ix, uint32_t token, struct usage *ret);
/* What a later event says replaces nothing with less: counts in streams are cumulative, so each is the greatest seen.
 */
void usage_merge(struct usage *into, const struct usage *from);
/* What is charged: `told` when known, else an estimate from the bytes of prompt and answer, rounded up. An answer that
 * was cut before its usage came is estimated too; so is the output where only the input was told (some say that much in
 * a stream's first event). */
struct usage usage_settle(const struct usage *told, uint64_t input_bytes, uint64_t content_bytes);
uint64_t usage_tokens_of_bytes(uint64_t bytes);
