/* names.h - which entry of a price book (catalog) is one of our models.
 *
 * Catalogs call models "<prefix>/<upstream's name>" where the prefix is their name of the provider (preset.book_prefix:
 * "openai", "together_ai"), and models of a few old providers also without it ("gpt-4o"). The rule, first match wins:
 *
 *   1. `is: X` in the policy: X; then prefix/X. Nothing else: who writes `is` means it.
 *   2. prefix/<what is sent>, prefix/<our name of the model>. Azure the other way round: there, what is sent is the
 * name of a deployment, which people choose freely.
 *   3. Where catalogs list the provider's models bare: <what is sent>, <our name of the model>.
 *
 * A provider without preset, or of a preset without prefix (local servers), has only rule 1: another company's price
 * for a model of the same name would be wrong.
 *
 *   openai/gpt-4o                                          openai/gpt-4o, gpt-4o
 *   azure-we/gpt-4o {is: azure/gpt-4o-2024-08-06}          azure/gpt-4o-2024-08-06, azure/azure/gpt-4o-2024-08-06
 *   together/llama-70b {sends: meta-llama/Llama-3-70b}     together_ai/meta-llama/Llama-3-70b, together_ai/llama-70b
 *   router/openai/gpt-4o (preset: openrouter)              openrouter/openai/gpt-4o */
#pragma once
#include "common/base.h"
#include "common/span.h"

struct policy_preset;

#define BOOK_CANDIDATES_MAX 4u
#define BOOK_KEY_BYTES_MAX  512u /* prefix, slash and a name of ours or of a catalog; longer ones are in no catalog */

struct book_candidates {
    char keys[BOOK_CANDIDATES_MAX][BOOK_KEY_BYTES_MAX];
    uint32_t count;
};

/* preset may be NULL. model: what stands after "provider/". is: "" without one. */
void names_candidates(const struct policy_preset *preset, struct span model, struct span sends, struct span is,
                      struct book_candidates *ret);
/* What a book's name is at a provider of this preset: "openai/gpt-4o" -> "gpt-4o". False: not a model of it (or bare,
 * where nobody can tell whose it is). */
bool names_model_of(const struct policy_preset *preset, struct span book_name, struct span *ret_model);
