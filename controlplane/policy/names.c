#include "controlplane/policy/names.h"
#include "controlplane/policy/presets.h"

static void add(struct book_candidates *c, const char *prefix, struct span name)
{
    if (name.len == 0 || c->count == BOOK_CANDIDATES_MAX)
        return;
    char *key = c->keys[c->count];
    int n = snprintf(key, BOOK_KEY_BYTES_MAX, "%s%s" SPAN_FMT, prefix ? prefix : "", prefix ? "/" : "", SPAN_ARG(name));
    if (n < 0 || n >= (int)BOOK_KEY_BYTES_MAX)
        return;
    for (uint32_t i = 0; i < c->count; i++) {
        if (strcmp(c->keys[i], key) == 0)
            return;
    }
    c->count++;
}

void names_candidates(const struct policy_preset *preset, struct span model, struct span sends, struct span is,
                      struct book_candidates *ret)
{
    ret->count = 0;
    const char *prefix = preset ? preset->book_prefix : NULL;
    if (is.len > 0) {
        add(ret, NULL, is);
        if (prefix)
            add(ret, prefix, is);
        return;
    }
    if (!prefix)
        return;
    bool own_name_first = preset->path_style == PATH_STYLE_AZURE;
    add(ret, prefix, own_name_first ? model : sends);
    add(ret, prefix, own_name_first ? sends : model);
    if (preset->book_bare) {
        add(ret, NULL, sends);
        add(ret, NULL, model);
    }
}

bool names_model_of(const struct policy_preset *preset, struct span book_name, struct span *ret_model)
{
    if (!preset || !preset->book_prefix)
        return false;
    struct span prefix = span_cstr(preset->book_prefix);
    if (book_name.len < prefix.len + 2 || !span_starts(book_name, prefix) || book_name.ptr[prefix.len] != '/')
        return false;
    *ret_model = span_skip(book_name, prefix.len + 1);
    return true;
}
