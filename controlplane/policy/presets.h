/* presets.h - facts about providers that ship with Fairlead: where they are, how they want to be asked. A constant
 * table. */
#pragma once
#include "common/base.h"
#include "common/span.h"
#include "proto/tables.h"

struct policy_preset {
    const char *name;
    const char *about;       /* one line for people */
    const char *base_url;    /* "": the policy must say it */
    const char *query;       /* sent with each request; NULL: none */
    const char *key_env;     /* conventional variable of its key; NULL for local servers */
    const char *book_prefix; /* how price catalogs call it; NULL: prices come from the policy */
    enum auth_scheme auth;
    enum path_style path_style;
    enum probe_how probe; /* costs nothing */
    bool stream_usage;    /* takes stream_options.include_usage */
    bool book_bare;       /* catalogs also list its models without the prefix */
    bool local;           /* a server one runs oneself: credentials are optional, its use costs what the policy says */
};

const struct policy_preset *policy_preset_find(struct span name); /* NULL: unknown */
/* for (size_t i = 0; (preset = policy_preset_at(i)); i++) - in the order in which people should see them. */
const struct policy_preset *policy_preset_at(size_t i);
