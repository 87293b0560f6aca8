/* catalog.h - reads a price catalog in LiteLLM's form, OpenRouter's or ours into entries of the book. Pure.
 *
 * LiteLLM (JSON, model_prices_and_context_window.json): an object of entries. Dollars per token; read are input_,
 * output_ and output_reasoning cost per token, cache_read_ and cache_creation_input_token_cost, input_cost_per_request,
 * and the least
 * ..._above_<N>k_tokens tier. Rates for batch, priority and flex processing, caches of an hour, audio, images and tools
 * are not read: requests that cost such rates are charged at the standard ones. `sample_spec` and entries that are no
 * model are skipped.
 *
 * OpenRouter (JSON, /api/v1/models): {"data": [...]}. Dollars per token as strings; the first of pricing.overrides is
 * the long-context tier. A negative price ("-1": decided by their router) is unknown.
 *
 * Ours (YAML, or JSON of the same shape), US dollars per million tokens; deploy/examples/prices.yaml shows it:
 *   schema: fairlead/1
 *   kind: prices
 *   prices:
 *     openai/gpt-4o: {input: 2.50, output: 10.00, cache_read: 1.25, context: 128000, max_output: 16384, can: [chat,
 * tools, images, json], source: "..."} with cache_write, reasoning, request (dollars per call), long: {above: 200000,
 * input:, output:, cache_read:} and deprecated: 2027-01-31 where they apply.
 *
 * Names. Ours and those that begin with the catalog's prefix of a preset ("openai/", "together_ai/";
 * controlplane/policy/names.h) stay as they are. LiteLLM lists the models of some companies bare ("gpt-4o",
 * "command-r", "claude-sonnet-4-5"): those get their company's prefix unless that name is taken in the same catalog.
 * OpenRouter's get "openrouter/". What then belongs to no preset is counted and listed as unmapped; it stays in the
 * book, since a policy may name it (`is:`).
 *
 * Prices are exact. A figure with more digits than nano-dollars per million tokens (1e-15 dollars per token) is rounded
 * to the nearest and counted: catalogs contain sums of binary fractions ("0.0000029999900000000002"). A price that
 * cannot be (negative, over a million dollars a million tokens) makes its entry unpriced, and is counted. An entry
 * without token prices is kept, unpriced: known == 0, never zero. */
#pragma once
#include "common/arena.h"
#include "proto/links.h"

#define CATALOG_BYTES_MAX (64u << 20)       /* forty times the largest public catalog; stops an endless download */
#define CATALOG_ARENA_MAX ((size_t)1 << 30) /* advice for the arena of one read */

enum catalog_form { CATALOG_LITELLM = 1, CATALOG_OPENROUTER, CATALOG_OURS };

struct catalog {
    enum catalog_form form;
    struct catalog_entry *entries; /* sorted by name, each name once */
    uint32_t count;
    uint32_t unpriced;         /* of them: no token price */
    uint32_t rounded;          /* figures rounded to the nearest nano-dollar per million tokens */
    uint32_t bad;              /* figures that cannot be prices; their entries are unpriced */
    uint32_t skipped;          /* sample_spec, things that are no model, names that nobody could write in a policy */
    uint32_t duplicate;        /* names said twice: the first holds */
    struct span_list unmapped; /* names of entries that belong to no preset; sorted */
};

/* Entries live in `arena`. ERR_SYNTAX, ERR_INVALID (no catalog of a known form, or a mistake in ours), ERR_TOO_LARGE,
 * ERR_TOO_DEEP, ERR_TOO_MANY, ERR_NOMEM; *ret_why (in the arena or static, never NULL on error) says what and where.
 * *ret is untouched on error. */
MUST_CHECK enum err catalog_read(struct arena *arena, struct span text, struct catalog *ret, const char **ret_why);
bool catalog_is_mapped(struct span name); /* belongs to a preset */
const char *catalog_form_name(enum catalog_form form);
