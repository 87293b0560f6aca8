/* records.c - the `records:` section: whose prompts and answers nodes write down, which without it is nobody's. */
#include "common/arena.h"
#include "common/units.h"
#include "controlplane/policy/compiler.h"

static bool read_bytes(struct compiler *c, const struct yaml_node *node, uint32_t *ret)
{
    uint64_t bytes;
    if (!node)
        return false;
    if (node->kind != YAML_SCALAR || units_parse_bytes(node->text, &bytes) != OK || bytes < 1 ||
        bytes > CONTENT_BYTES_MAX) {
        diag_error(c->diags, node, "'bytes' must be a size from 1 to %uKiB, such as 2KiB", CONTENT_BYTES_MAX / 1024);
        return false;
    }
    *ret = (uint32_t)bytes;
    return true;
}

/* A team that the directory beside the policy lacks is a slip more often than a plan; elsewhere teams are not known. */
static void check_team(struct compiler *c, const struct yaml_node *node)
{
    const struct policy *p = c->policy;
    if (name_check(c->diags, node, node->text, NAME_PLAIN, "team") && p->has_directory &&
        !strmap_has(&p->teams.by_name, node->text))
        diag_warning(c->diags, node, "the directory beside this policy has no team '" SPAN_FMT "'%s",
                     SPAN_ARG(node->text), suggest(c->diags, node->text, &p->teams.by_name));
}

static int by_bytes(const void *a, const void *b)
{
    const struct span *x = a, *y = b;
    return span_cmp(*x, *y);
}

static void read_teams(struct compiler *c, const struct yaml_node *list, struct span_list *ret)
{
    struct span_list names;
    if (!list || !field_list(c->diags, c->arena, list, &names))
        return;
    for (const struct yaml_node *node = list->first; node; node = node->next)
        check_team(c, node);
    if (names.count == 0)
        diag_warning(c->diags, list, "an empty 'teams' records nobody's prompts; remove 'content'");
    if (names.count > CONTENT_TEAMS_MAX) {
        diag_error(c->diags, list, "more than %u teams: this is for exceptions", CONTENT_TEAMS_MAX);
        return;
    }
    struct span *sorted = ARENA_ARRAY(c->arena, names.count + 1, struct span);
    if (!sorted) {
        c->failed = true;
        return;
    }
    if (names.count > 0)
        memcpy(sorted, names.items, names.count * sizeof *sorted);
    qsort(sorted, names.count, sizeof *sorted, by_bytes);
    *ret = (struct span_list){ .items = sorted, .count = names.count };
}

/* Nothing has a default but the size: who turns this on says of whom, and how much. */
void compile_records(struct compiler *c, struct artifact *artifact)
{
    static const char *const known[] = { "content", NULL };
    static const char *const content_fields[] = { "teams", "share", "bytes", NULL };
    const struct yaml_node *map = c->policy->records;
    struct recorded_content *out = &artifact->content;
    if (!fields_check(c->diags, map, "'records'", known))
        return;
    const struct yaml_node *content = yaml_get(map, "content");
    if (!fields_check(c->diags, content, "'content'", content_fields))
        return;
    const struct yaml_node *teams = yaml_get(content, "teams"), *share = yaml_get(content, "share");
    if (!teams || !share)
        diag_error(c->diags, content, "'content' needs 'teams' and 'share', such as {teams: [research], share: 1%%}");
    out->bytes = DEFAULT_CONTENT_BYTES;
    read_teams(c, teams, &out->teams);
    field_share(c->diags, share, &out->share_ppm);
    read_bytes(c, yaml_get(content, "bytes"), &out->bytes);
    if (out->teams.count == 0)
        *out = (struct recorded_content){ .share_ppm = 0 };
}

static bool lists(const struct recorded_content *c, struct span team)
{
    for (uint32_t i = 0; i < c->teams.count; i++) {
        if (span_eq(c->teams.items[i], team))
            return c->share_ppm > 0;
    }
    return false;
}

void policy_warn_content(const struct policy *policy, const struct artifact *before, const struct artifact *after,
                         struct diags *diags)
{
    static const struct recorded_content nobody;
    const struct recorded_content *old = before ? &before->content : &nobody, *new = &after->content;
    for (uint32_t i = 0; i < new->teams.count; i++) {
        const struct span team = new->teams.items[i];
        const bool was = lists(old, team);
        char share[UNITS_TEXT_BYTES];
        if (!lists(new, team) || (was && old->share_ppm >= new->share_ppm && old->bytes >= new->bytes))
            continue;
        diag_warning(diags, policy->records,
                     "personal data: %s of team " SPAN_FMT "'s prompts and answers is written to the nodes' disks: of "
                     "%s of its requests, up to %u bytes each",
                     was ? "more" : "a part", SPAN_ARG(team), units_format_share(new->share_ppm, share), new->bytes);
    }
}
