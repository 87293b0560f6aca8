/* compiler.h - what the compiler's files share. Private to this folder.
 *
 * compile.c runs the steps in order: providers (provider.c), models with wildcards and prices (model.c), routes and
 * aliases (route.c), what the records keep (records.c). Each reports what is wrong and goes on, so that one run finds everything. */
#pragma once
#include "common/strmap.h"
#include "controlplane/policy/fields.h"
#include "controlplane/policy/tree.h"

struct policy_preset;

struct provider_draft {
    struct provider out;
    const struct yaml_node *node;
    const struct policy_preset *preset; /* NULL: none */
    struct chain chain;
    const struct yaml_node *wildcard; /* its wildcard entry in models; NULL: none */
    struct span_list allow, deny;
    struct timeouts timeouts; /* complete */
    bool used;
    uint32_t index; /* in the artifact */
};
struct model_draft {
    struct model out; /* provider is set at the end */
    struct provider_draft *provider;
    uint32_t index;
};

struct compiler {
    struct arena *arena;
    const struct policy *policy;
    const struct policy_book *book; /* NULL: none */
    struct diags *diags;
    bool failed; /* memory ran out */
    /* defaults: */
    struct timeouts timeouts;
    uint32_t attempts, deadline_ms;
    uint32_t mix_input_tokens, mix_output_tokens;
    struct span_list forward_headers;
    uint32_t probe_every_ms;
    const struct yaml_node *default_probe; /* `defaults: probe:` or NULL */
    struct strmap providers;               /* -> struct provider_draft */
    uint32_t provider_count;
    struct strmap models; /* -> struct model_draft */
    struct model_draft **model_list;
    uint32_t model_count, model_capacity;
    bool models_full; /* MODELS_MAX was reported */
};

void compile_providers(struct compiler *c);
/* Exact entries, wildcards over the book, and what routes and aliases name. */
void compile_models(struct compiler *c);
/* Sorts models and providers and gives them their indices. */
void compile_order(struct compiler *c, struct artifact *artifact);
void compile_routes(struct compiler *c, struct artifact *artifact);
void compile_aliases(struct compiler *c, struct artifact *artifact);
void compile_records(struct compiler *c, struct artifact *artifact);

/* The model of this name; one that only a wildcard allows is made. NULL: there is none, and with `report` the reason is
 * said. */
struct model_draft *model_require(struct compiler *c, struct span name, const struct yaml_node *at, bool report);
/* A header that Fairlead sets itself, or that belongs to one connection; a policy may neither add nor forward it. */
bool header_is_reserved(struct span lower_name);
/* Client headers that may go up; lower case. */
void read_forward_headers(struct compiler *c, const struct yaml_node *node, struct span_list *ret);
/* Cuts "provider/model" at the first slash; false when there is none or a part is empty. */
bool split_model_name(struct span name, struct span *ret_provider, struct span *ret_model);
