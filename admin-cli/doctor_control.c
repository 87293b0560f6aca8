/* What the control plane knows, with an operator's eyes. */
#include "admin-cli/doctor.h"
#include "common/clock.h"

#define SKEW_WARN_MS        2000 /* expiries and budgets are off by as much; more than any long poll's travel */
#define SKEW_BAD_MS         60000
#define CERTIFICATE_WARN_MS (INT64_C(14) * 24 * 3600 * 1000) /* renewals run 30 days ahead; at 14 one has failed */
#define OVERRIDE_SOON_MS    (INT64_C(3600) * 1000)
#define RETIRES_SOON_DAYS   30

static const char *text(struct cli *cli, const struct json_index *ix, uint32_t object, const char *path)
{
    const struct column column = { "", path, COLUMN_TEXT };
    const uint32_t token = render_path(ix, object, path);
    return token == JSON_NONE || json_kind(ix, token) == JSON_NULL ? "" : render_cell(cli, ix, object, &column);
}

static bool said(const char *cell)
{
    return *cell && strcmp(cell, "-") != 0;
}

static int64_t signed_at(const struct json_index *ix, uint32_t object, const char *path)
{
    int64_t value = 0;
    const uint32_t token = render_path(ix, object, path);
    return token != JSON_NONE && json_i64(ix, token, &value) == OK ? value : 0;
}

static bool is_true(const struct json_index *ix, uint32_t object, const char *path)
{
    bool value = false;
    const uint32_t token = render_path(ix, object, path);
    return token != JSON_NONE && json_bool(ix, token, &value) == OK && value;
}

static uint32_t first_of(const struct json_index *ix, uint32_t array)
{
    return array == JSON_NONE ? JSON_NONE : json_first(ix, array);
}

static int64_t absolute(int64_t value)
{
    return value < 0 ? -value : value;
}

/* ---- clocks, versions ---- */

static void judge_clocks(struct doctor *d, struct cli *cli, const struct json_index *status,
                         const struct json_index *facts, int64_t now_ms)
{
    static const char *const advice =
        "let NTP (chrony, systemd-timesyncd) set both clocks: expiries of keys, overrides "
        "and evidence go by them";
    const unsigned before = d->count;
    const int64_t control_ms = signed_at(facts, 0, "now_ms");
    const int64_t here = control_ms ? control_ms - now_ms : 0;
    if (absolute(here) > SKEW_WARN_MS)
        doctor_add(d, absolute(here) > SKEW_BAD_MS ? DOCTOR_ERROR : DOCTOR_WARNING, "clocks", advice,
                   "the control plane's clock is %.1f s %s this machine's", (double)absolute(here) / 1000.0,
                   here > 0 ? "ahead of" : "behind");
    const uint32_t nodes = json_get(status, 0, SPAN("nodes"));
    for (uint32_t t = first_of(status, nodes); t != JSON_NONE; t = json_next(status, nodes, t)) {
        const int64_t skew = signed_at(status, t, "clock_skew_ms");
        if (absolute(skew) > SKEW_WARN_MS)
            doctor_add(d, absolute(skew) > SKEW_BAD_MS ? DOCTOR_ERROR : DOCTOR_WARNING, "clocks", advice,
                       "node %s's clock is %.1f s %s the control plane's", text(cli, status, t, "node"),
                       (double)absolute(skew) / 1000.0, skew > 0 ? "ahead of" : "behind");
    }
    doctor_good_since(d, before, "clocks", "this machine, control plane and nodes agree within %d s",
                      SKEW_WARN_MS / 1000);
}

static void judge_versions(struct doctor *d, struct cli *cli, const struct json_index *status)
{
    static const char *const advice = "install one version everywhere: nodes by `fairlead upgrade`, the control plane "
                                      "by a restart";
    const unsigned before = d->count;
    const char *control = text(cli, status, 0, "version");
    if (strcmp(control, FAIRLEAD_VERSION) != 0)
        doctor_add(d, DOCTOR_WARNING, "versions", advice, "this program is %s, the control plane %s", FAIRLEAD_VERSION,
                   control);
    const uint32_t nodes = json_get(status, 0, SPAN("nodes"));
    for (uint32_t t = first_of(status, nodes); t != JSON_NONE; t = json_next(status, nodes, t)) {
        const char *version = text(cli, status, t, "version");
        if (strcmp(version, control) != 0)
            doctor_add(d, DOCTOR_WARNING, "versions", advice, "node %s is %s, the control plane %s",
                       text(cli, status, t, "node"), version, control);
    }
    doctor_good_since(d, before, "versions", "%s everywhere", control);
}

/* ---- nodes ---- */

static void judge_state(struct doctor *d, struct cli *cli, const struct json_index *ix, uint32_t node)
{
    const char *name = text(cli, ix, node, "node"), *state = text(cli, ix, node, "state");
    if (strcmp(state, "silent") == 0)
        doctor_add(d, DOCTOR_ERROR, "nodes",
                   "look at that machine: `fairlead status` there tells of its node; a node that is gone for good is "
                   "forgotten after a week",
                   "%s has not been heard of for %lld s", name, (long long)(signed_at(ix, node, "seen_ms_ago") / 1000));
    else if (strcmp(state, "other epoch") == 0)
        doctor_add(d, DOCTOR_ERROR, "nodes", "`fairlead nodes adopt NODE` lets it take the restored tables",
                   "%s keeps tables of another epoch", name);
    else if (strcmp(state, "pinned") == 0)
        doctor_add(d, DOCTOR_WARNING, "nodes", "`fairlead nodes unpin --local` on that machine lets it follow again",
                   "%s is pinned and takes no tables", name);
    else if (strcmp(state, "behind") == 0)
        doctor_add(d, DOCTOR_NOTE, "nodes", "it catches up within seconds, or its log says why not",
                   "%s does not serve the newest tables yet", name);
    if (signed_at(ix, node, "workers") == 0 && strcmp(state, "silent") != 0)
        doctor_add(d, DOCTOR_ERROR, "nodes", "its log says why they do not start", "%s has no workers", name);
}

static void judge_nodes(struct doctor *d, struct cli *cli, const struct json_index *status)
{
    const unsigned before = d->count;
    const uint32_t nodes = json_get(status, 0, SPAN("nodes"));
    unsigned count = 0;
    for (uint32_t t = first_of(status, nodes); t != JSON_NONE; t = json_next(status, nodes, t)) {
        const char *name = text(cli, status, t, "node");
        const uint32_t nacks = json_get(status, t, SPAN("nacks")),
                       names = json_get(status, t, SPAN("unresolved_credentials"));
        count++;
        judge_state(d, cli, status, t);
        for (uint32_t k = first_of(status, nacks); k != JSON_NONE; k = json_next(status, nacks, k))
            doctor_add(d, DOCTOR_ERROR, "nodes",
                       "it serves what it had before; mend the cause, then push or roll back again",
                       "%s refused %s %lld: %s", name, text(cli, status, k, "kind"),
                       (long long)signed_at(status, k, "seq"), text(cli, status, k, "reason"));
        for (uint32_t k = first_of(status, names); k != JSON_NONE; k = json_next(status, names, k))
            doctor_add(d, DOCTOR_ERROR, "credentials",
                       "give it a source under `credentials:` in that machine's node.yaml, then `fairlead reload` "
                       "there",
                       "node %s cannot resolve the credential " SPAN_FMT ": its models are left out there", name,
                       SPAN_ARG(json_raw(status, k)));
    }
    if (count == 0)
        doctor_add(d, DOCTOR_ERROR, "nodes", "`fairlead up` starts one here", "no node has been heard of");
    doctor_good_since(d, before, "nodes", "%u, all serving what is live, all credentials resolved", count);
}

/* ---- providers and models ---- */

static void judge_provider(struct doctor *d, struct cli *cli, const struct json_index *ix, uint32_t provider,
                           int64_t up_ms, int64_t now_ms)
{
    const char *name = text(cli, ix, provider, "name"), *why = text(cli, ix, provider, "why");
    const int64_t expires = signed_at(ix, provider, "probe.certificate_expires_at_ms");
    const bool probed = strcmp(text(cli, ix, provider, "probe.how"), "none") != 0;
    if (strcmp(text(cli, ix, provider, "health"), "down") == 0)
        doctor_add(d, DOCTOR_ERROR, "providers",
                   "ask the provider's status page; `fairlead block NAME --reason ...` forbids it meanwhile",
                   "%s answers no probe: %s", name, said(why) ? why : "no reason given");
    else if (probed && signed_at(ix, provider, "probe.at_ms") == 0)
        doctor_add(d, up_ms < 2 * signed_at(ix, provider, "probe.every_ms") ? DOCTOR_NOTE : DOCTOR_WARNING, "providers",
                   "is fairlead-prober running, and has it the credential?", "%s has not been probed yet", name);
    else if (is_true(ix, provider, "probe.stale"))
        doctor_add(d, DOCTOR_WARNING, "providers", "is fairlead-prober running? its log says what it does",
                   "the last probe of %s is too old to be believed", name);
    if (expires && expires < now_ms)
        doctor_add(d, DOCTOR_ERROR, "certificates", "the provider must renew it", "the certificate of %s has expired",
                   name);
    else if (expires && expires - now_ms < CERTIFICATE_WARN_MS)
        doctor_add(d, DOCTOR_WARNING, "certificates", "tell who runs it; requests fail from then on",
                   "the certificate of %s expires in %lld days", name,
                   (long long)((expires - now_ms) / (24 * 3600 * 1000)));
}

static void judge_model(struct doctor *d, struct cli *cli, const struct json_index *ix, uint32_t model,
                        bool provider_up)
{
    const char *name = text(cli, ix, model, "name"), *why = text(cli, ix, model, "why");
    if (provider_up && strcmp(text(cli, ix, model, "health"), "down") == 0)
        doctor_add(d, DOCTOR_WARNING, "models", "`fairlead providers list` shows its figures; requests go elsewhere",
                   "%s is down: %s", name, said(why) ? why : "no reason given");
    if (signed_at(ix, model, "breakers_open") > 0)
        doctor_add(d, DOCTOR_WARNING, "models", "it is tried again by itself; `fairlead records` shows what failed",
                   "the breaker of %s is open on %lld node(s)", name, (long long)signed_at(ix, model, "breakers_open"));
}

/* up_ms: how long the control plane has been running: it begins without knowing a probe. */
static void judge_providers(struct doctor *d, struct cli *cli, const struct json_index *ix, int64_t up_ms,
                            int64_t now_ms)
{
    const unsigned before = d->count;
    const uint32_t providers = json_get(ix, 0, SPAN("providers"));
    unsigned count = 0;
    for (uint32_t t = first_of(ix, providers); t != JSON_NONE; t = json_next(ix, providers, t)) {
        const uint32_t models = json_get(ix, t, SPAN("models"));
        const bool up = strcmp(text(cli, ix, t, "health"), "down") != 0;
        count++;
        judge_provider(d, cli, ix, t, up_ms, now_ms);
        for (uint32_t m = first_of(ix, models); m != JSON_NONE; m = json_next(ix, models, m))
            judge_model(d, cli, ix, m, up);
    }
    doctor_good_since(d, before, "providers", "%u, none down", count);
}

static void judge_overrides(struct doctor *d, struct cli *cli, const struct json_index *ix, int64_t now_ms)
{
    const uint32_t set = json_get(ix, 0, SPAN("overrides"));
    for (uint32_t t = first_of(ix, set); t != JSON_NONE; t = json_next(ix, set, t)) {
        const int64_t ends = signed_at(ix, t, "expires_at_ms");
        const char *kind = text(cli, ix, t, "kind"), *target = text(cli, ix, t, "target");
        if (ends && ends - now_ms < OVERRIDE_SOON_MS)
            doctor_add(d, DOCTOR_WARNING, "overrides", "is its reason gone? if not, set it again with a longer --for",
                       "the %s of %s (by %s: %s) ends in %lld min", kind, target, text(cli, ix, t, "by"),
                       text(cli, ix, t, "reason"), (long long)((ends - now_ms) / 60000));
        else
            doctor_add(d, DOCTOR_NOTE, "overrides", "lift it when its reason is gone", "%s of %s by %s: %s", kind,
                       target, text(cli, ix, t, "by"), text(cli, ix, t, "reason"));
    }
}

/* Days from today until "2027-01-31"; INT64_MAX when that is no date. */
static int64_t days_until(const char *date, int64_t now_ms)
{
    struct tm tm = { 0 };
    const char *end = strptime(date, "%Y-%m-%d", &tm);
    if (!end || *end)
        return INT64_MAX;
    const int64_t day = 24 * 3600, at = (int64_t)timegm(&tm), now = now_ms / 1000;
    return at / day - now / day;
}

static void judge_retirements(struct doctor *d, struct cli *cli, const struct json_index *facts, int64_t now_ms)
{
    const unsigned before = d->count;
    const uint32_t models = json_get(facts, 0, SPAN("models"));
    for (uint32_t t = first_of(facts, models); t != JSON_NONE; t = json_next(facts, models, t)) {
        const char *date = text(cli, facts, t, "deprecated_on");
        const int64_t days = said(date) ? days_until(date, now_ms) : INT64_MAX;
        if (days <= 0)
            doctor_add(d, DOCTOR_ERROR, "retirement",
                       "take it out of the policy's routes, or let another take its place",
                       "%s was to be switched off on %s, says the price book", text(cli, facts, t, "name"), date);
        else if (days <= RETIRES_SOON_DAYS)
            doctor_add(d, DOCTOR_WARNING, "retirement", "put its successor into the policy while both run",
                       "%s will be switched off on %s, in %lld days", text(cli, facts, t, "name"), date,
                       (long long)days);
    }
    doctor_good_since(d, before, "retirement", "no model of the policy is switched off within %d days",
                      RETIRES_SOON_DAYS);
}

/* ---- prices ---- */

static void judge_prices(struct doctor *d, struct cli *cli, const struct json_index *status,
                         const struct json_index *facts)
{
    const unsigned before = d->count;
    const char *problem = text(cli, status, 0, "evidence.prices.feed.problem");
    const int64_t held = signed_at(status, 0, "evidence.prices.quarantined");
    const uint32_t models = json_get(facts, 0, SPAN("models"));
    if (said(problem))
        doctor_add(d, DOCTOR_WARNING, "prices", "mend its source; until then the last good prices stay",
                   "the price feed cannot use its source: %s", problem);
    if (is_true(status, 0, "evidence.prices.feed.stale"))
        doctor_add(d, DOCTOR_WARNING, "prices", "is fairlead-pricefeed running? its log says what it does",
                   "the price feed has not been heard of for a day");
    if (held > 0)
        doctor_add(d, DOCTOR_WARNING, "prices",
                   "`fairlead prices list --held` shows them; `fairlead prices accept NAME` takes one",
                   "%lld price%s held back as absurd", (long long)held, held == 1 ? " is" : "s are");
    for (uint32_t t = first_of(facts, models); t != JSON_NONE; t = json_next(facts, models, t)) {
        if (!is_true(facts, t, "priced"))
            doctor_add(d, DOCTOR_WARNING, "prices",
                       "`fairlead prices set NAME --input ... --output ...`, or a price in the policy",
                       "the book has no price for %s any more: it is charged as when its policy was pushed",
                       text(cli, facts, t, "name"));
        else if (is_true(facts, t, "stale"))
            doctor_add(d, DOCTOR_NOTE, "prices", "it is used until a fresher one comes",
                       "the price of %s is old: its feed went silent", text(cli, facts, t, "name"));
        else if (is_true(facts, t, "disputed"))
            doctor_add(d, DOCTOR_WARNING, "prices", "let the policies that are live name one entry of the book",
                       "the live policies disagree on the price of %s", text(cli, facts, t, "name"));
    }
    doctor_good_since(d, before, "prices", "every model of the policy has a fresh one");
}

static void judge_policy(struct doctor *d, const struct json_index *status)
{
    const uint32_t arms = json_get(status, 0, SPAN("arms"));
    static const char *const links[] = { "fetch", "evidence", "admin" };
    if (arms == JSON_NONE || status->tokens[arms].count == 0)
        doctor_add(d, DOCTOR_ERROR, "policy", "`fairlead policy push FILE`", "no policy is live: nothing is served");
    else
        doctor_add(d, DOCTOR_GOOD, "policy", NULL, "v%llu is live",
                   (unsigned long long)render_u64(status, json_first(status, arms), "version"));
    if (render_u64(status, 0, "teams") == 0)
        doctor_add(d, DOCTOR_WARNING, "policy", "`fairlead teams apply FILE`, then `fairlead keys create --team NAME`",
                   "there are no teams, so nobody can ask");
    if (render_u64(status, 0, "evidence.health_quarantined") > 0)
        doctor_add(d, DOCTOR_WARNING, "models",
                   "`fairlead providers list` shows them; is the prober's own network down?",
                   "too many models went down at once to be believed");
    for (size_t i = 0; i < ARRAY_LEN(links); i++) {
        char path[64];
        snprintf(path, sizeof(path), "refused_messages.%s", links[i]);
        const uint64_t refused = render_u64(status, 0, path);
        if (refused)
            doctor_add(d, DOCTOR_NOTE, "links", "the control plane's log names them: programs of another version?",
                       "%llu messages on the %s link made no sense", (unsigned long long)refused, links[i]);
    }
}

/* ---- the machine it runs on ---- */

static void judge_disk(struct doctor *d, struct cli *cli, const struct json_index *facts)
{
    const uint64_t available = render_u64(facts, 0, "disk.available_bytes"), total = render_u64(facts, 0, "disk.bytes");
    if (total && strcmp(text(cli, facts, 0, "disk.path"), cli->home) != 0) /* else it was looked at from here */
        doctor_disk(d, "the control plane's home", text(cli, facts, 0, "disk.path"), available, total);
}

static void judge_roles(struct doctor *d, struct cli *cli, const struct json_index *facts)
{
    const char *why = text(cli, facts, 0, "roles_refused");
    if (said(why))
        doctor_add(d, DOCTOR_ERROR, "roles", "mend it; it is read again at once",
                   "roles.yaml gives nobody a role, only root and the control plane's user may ask: %s", why);
}

void doctor_judge_control(struct doctor *d, struct cli *cli, const struct json_index *status,
                          const struct json_index *providers, const struct json_index *facts, int64_t now_ms)
{
    judge_policy(d, status);
    judge_nodes(d, cli, status);
    judge_versions(d, cli, status);
    judge_clocks(d, cli, status, facts, now_ms);
    judge_providers(d, cli, providers, signed_at(status, 0, "uptime_ms"), now_ms);
    judge_overrides(d, cli, providers, now_ms);
    judge_prices(d, cli, status, facts);
    judge_retirements(d, cli, facts, now_ms);
    judge_disk(d, cli, facts);
    judge_roles(d, cli, facts);
}

void doctor_judge_node(struct doctor *d, struct cli *cli, const struct json_index *node)
{
    const unsigned before = d->count;
    const uint64_t dropped = render_u64(node, 0, "records_dropped");
    if (!is_true(node, 0, "control_connected"))
        doctor_add(d, DOCTOR_WARNING, "node", "it serves its last good tables meanwhile; is the control plane running?",
                   "this machine's node has no contact with the control plane");
    if (dropped)
        doctor_add(d, DOCTOR_WARNING, "node", "the disk under HOME/records is too slow or full; money is counted apart",
                   "this machine's node dropped %llu records", (unsigned long long)dropped);
    if (strcmp(text(cli, node, 0, "last_change.outcome"), "failed") == 0)
        doctor_add(d, DOCTOR_ERROR, "node", "mend it, then try again: the old workers go on until then",
                   "the last %s failed: %s", text(cli, node, 0, "last_change.change"),
                   text(cli, node, 0, "last_change.why"));
    const uint64_t restarts = render_u64(node, 0, "restarts");
    if (restarts)
        doctor_add(d, DOCTOR_NOTE, "node", "its log says why", "%llu workers were started again after a crash",
                   (unsigned long long)restarts);
    doctor_good_since(d, before, "node", "%s serves, in contact with the control plane", text(cli, node, 0, "node"));
}
