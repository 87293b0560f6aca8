#include "controlplane/prober/probe.h"
#include "common/buf.h"
#include "common/fault.h"
#include "common/json.h"

#define URL_BYTES_MAX 4096u

struct probe {
    CURL *easy;
    struct curl_slist *headers;
    struct buf url, body;
    enum probe_how how;
    size_t received;
    char error[CURL_ERROR_SIZE];
};

static size_t on_body(char *data, size_t size, size_t count, void *user)
{
    struct probe *probe = user;
    (void)data;
    probe->received += size * count;
    return probe->received <= PROBE_BODY_BYTES_MAX ? size * count : 0;
}

static enum err build_url(struct probe *probe, const struct probe_target *t)
{
    const char *mark = t->query.len > 0 ? "?" : "";
    if (probe->how == PROBE_HOW_CONNECT)
        return buf_printf(&probe->url, SPAN_FMT, SPAN_ARG(t->base_url));
    if (probe->how == PROBE_HOW_MODELS)
        return buf_printf(&probe->url, SPAN_FMT "%s/models%s" SPAN_FMT, SPAN_ARG(t->base_url),
                          t->path_style == PATH_STYLE_AZURE ? "/openai" : "", mark, SPAN_ARG(t->query));
    if (t->path_style != PATH_STYLE_AZURE)
        return buf_printf(&probe->url, SPAN_FMT "/chat/completions%s" SPAN_FMT, SPAN_ARG(t->base_url), mark,
                          SPAN_ARG(t->query));
    char *model = curl_easy_escape(probe->easy, t->model.ptr, (int)t->model.len);
    if (!model)
        return ERR_NOMEM;
    enum err err = buf_printf(&probe->url, SPAN_FMT "/openai/deployments/%s/chat/completions%s" SPAN_FMT,
                              SPAN_ARG(t->base_url), model, mark, SPAN_ARG(t->query));
    curl_free(model);
    return err;
}

/* The host a credential would go to, as curl itself reads the URL. Empty: no good URL. */
static enum err url_host(const char *url, char *host, size_t bytes)
{
    CURLU *parts = curl_url();
    char *text = NULL;
    enum err err = OK;
    if (!parts)
        return ERR_NOMEM;
    if (curl_url_set(parts, CURLUPART_URL, url, 0) != CURLUE_OK ||
        curl_url_get(parts, CURLUPART_HOST, &text, 0) != CURLUE_OK)
        err = ERR_INVALID;
    size_t length = text ? strlen(text) : 0;
    bool bracketed = length > 2 && text[0] == '[';
    if (!err)
        snprintf(host, bytes, "%.*s", (int)(bracketed ? length - 2 : length), bracketed ? text + 1 : text);
    curl_free(text);
    curl_url_cleanup(parts);
    return err;
}

static enum err add_header(struct probe *probe, const char *name, struct span value)
{
    struct buf line = BUF_INIT(CREDENTIAL_BYTES_MAX + 64);
    enum err err = buf_printf(&line, "%s: ", name);
    if (!err)
        err = buf_append(&line, value);
    const char *text = err ? NULL : buf_cstr(&line);
    struct curl_slist *more = text ? curl_slist_append(probe->headers, text) : NULL;
    if (more)
        probe->headers = more;
    if (line.data)
        explicit_bzero(line.data, line.cap);
    buf_release(&line);
    return err ? err : more ? OK : ERR_NOMEM;
}

/* The first credential that is there and may go to this host. */
static enum err add_credential(struct probe *probe, const struct probe_setup *setup, const struct probe_target *t,
                               const char *host)
{
    struct span secret;
    for (uint32_t i = 0; i < t->credentials.count && t->auth != AUTH_SCHEME_NONE; i++) {
        if (credentials_get(setup->credentials, t->credentials.items[i], span_cstr(host), &secret) != OK)
            continue;
        if (t->auth != AUTH_SCHEME_BEARER)
            return add_header(probe, t->auth == AUTH_SCHEME_API_KEY ? "api-key" : "x-api-key", secret);
        char bearer[CREDENTIAL_BYTES_MAX + 8];
        int n = snprintf(bearer, sizeof bearer, "Bearer " SPAN_FMT, (int)secret.len, secret.ptr);
        enum err err = add_header(probe, "Authorization", span_of(bearer, (size_t)n));
        explicit_bzero(bearer, sizeof bearer);
        return err;
    }
    return OK;
}

/* max_tokens is what most servers know; those that have renamed it answer 400, which shows as well that they are there.
 */
static enum err build_completion(struct probe *probe, const struct probe_target *t)
{
    struct json_writer w;
    json_writer_init(&w, &probe->body);
    json_object_open(&w);
    json_member_string(&w, "model", t->model);
    json_member_u64(&w, "max_tokens", 1);
    json_key(&w, SPAN("messages"));
    json_array_open(&w);
    json_object_open(&w);
    json_member_cstr(&w, "role", "user");
    json_member_cstr(&w, "content", "1");
    json_object_close(&w);
    json_array_close(&w);
    json_object_close(&w);
    enum err err = json_writer_end(&w);
    return err ? err : add_header(probe, "Content-Type", SPAN("application/json"));
}

static enum err set_options(struct probe *probe, const struct probe_setup *setup, const struct probe_target *t)
{
    char proxy[512];
    long timeout = t->timeout_ms > 0 && t->timeout_ms < 60000 ? (long)t->timeout_ms : 5000L;
    CURL *e = probe->easy;
    snprintf(proxy, sizeof proxy, SPAN_FMT, SPAN_ARG(t->proxy));
    CURLcode code = curl_easy_setopt(e, CURLOPT_URL, buf_cstr(&probe->url));
    code = code ? code : curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
    code = code ? code : curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
    code = code ? code : curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, 0L);
    code = code ? code : curl_easy_setopt(e, CURLOPT_PROXY, proxy); /* "": none, whatever the environment says */
    code = code ? code : curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    code = code ? code : curl_easy_setopt(e, CURLOPT_FRESH_CONNECT, 1L);
    code = code ? code : curl_easy_setopt(e, CURLOPT_FORBID_REUSE, 1L);
    code = code ? code : curl_easy_setopt(e, CURLOPT_TIMEOUT_MS, timeout);
    code = code ? code : curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, PROBE_CONNECT_MS);
    code = code ? code : curl_easy_setopt(e, CURLOPT_CERTINFO, 1L);
    code = code ? code : curl_easy_setopt(e, CURLOPT_ERRORBUFFER, probe->error);
    code = code ? code : curl_easy_setopt(e, CURLOPT_USERAGENT, setup->user_agent);
    code = code ? code : curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_body);
    code = code ? code : curl_easy_setopt(e, CURLOPT_WRITEDATA, probe);
    if (setup->ca_file)
        code = code ? code : curl_easy_setopt(e, CURLOPT_CAINFO, setup->ca_file);
    if (probe->how == PROBE_HOW_CONNECT)
        code = code ? code : curl_easy_setopt(e, CURLOPT_CONNECT_ONLY, 1L);
    if (probe->how == PROBE_HOW_COMPLETION) {
        code = code ? code : curl_easy_setopt(e, CURLOPT_POSTFIELDSIZE, (long)probe->body.len);
        code = code ? code : curl_easy_setopt(e, CURLOPT_POSTFIELDS, buf_span(&probe->body).ptr);
    }
    if (probe->headers)
        code = code ? code : curl_easy_setopt(e, CURLOPT_HTTPHEADER, probe->headers);
    return code == CURLE_OK ? OK : code == CURLE_OUT_OF_MEMORY ? ERR_NOMEM : ERR_UNSUPPORTED;
}

enum err probe_new(const struct probe_setup *setup, const struct probe_target *target, struct probe **ret,
                   const char **ret_why)
{
    char host[256];
    struct probe *probe = fault_calloc(1, sizeof *probe);
    if (!probe)
        return ERR_NOMEM;
    buf_init(&probe->url, URL_BYTES_MAX);
    buf_init(&probe->body, 4096);
    probe->how = target->how;
    probe->easy = curl_easy_init();
    enum err err = probe->easy ? build_url(probe, target) : ERR_NOMEM;
    if (!err)
        err = buf_cstr(&probe->url) ? url_host(buf_cstr(&probe->url), host, sizeof host) : ERR_NOMEM;
    if (!err && probe->how != PROBE_HOW_CONNECT)
        err = add_credential(probe, setup, target, host);
    if (!err && probe->how == PROBE_HOW_COMPLETION)
        err = build_completion(probe, target);
    if (!err)
        err = set_options(probe, setup, target);
    if (err) {
        probe_free(probe);
        *ret_why = "its URL or one of its settings cannot be used";
        return err == ERR_NOMEM ? err : ERR_INVALID;
    }
    *ret = probe;
    return OK;
}

void probe_free(struct probe *probe)
{
    if (!probe)
        return;
    curl_easy_cleanup(probe->easy);
    for (struct curl_slist *h = probe->headers; h; h = h->next)
        explicit_bzero(h->data, strlen(h->data));
    curl_slist_free_all(probe->headers);
    buf_release(&probe->url);
    buf_release(&probe->body);
    free(probe);
}

CURL *probe_handle(struct probe *probe)
{
    return probe->easy;
}

/* ---- judging ---- */

/* Expiry of the server's own certificate, the first of the chain: "Expire date:Nov 22 10:00:00 2027 GMT". */
static int64_t certificate_expiry(CURL *easy)
{
    struct curl_certinfo *chain = NULL;
    static const char label[] = "Expire date:";
    if (curl_easy_getinfo(easy, CURLINFO_CERTINFO, &chain) != CURLE_OK || !chain || chain->num_of_certs < 1)
        return 0;
    for (struct curl_slist *line = chain->certinfo[0]; line; line = line->next) {
        if (strncmp(line->data, label, sizeof label - 1) != 0)
            continue;
        time_t when = curl_getdate(line->data + sizeof label - 1, NULL);
        return when > 0 ? (int64_t)when * 1000 : 0;
    }
    return 0;
}

static const char *status_text(long status)
{
    switch (status) {
    case 401:
    case 403:
        return ": credential missing or refused";
    case 404:
        return ": not found";
    case 429:
        return ": rate limited";
    default:
        return status >= 500 ? ": provider's error" : status >= 300 ? ": reachable" : "";
    }
}

struct probe_verdict probe_judge(struct probe *probe, CURLcode code)
{
    struct probe_verdict v = { 0 };
    curl_off_t us = 0;
    long status = 0;
    bool connects = probe->how == PROBE_HOW_CONNECT;
    if (curl_easy_getinfo(probe->easy, CURLINFO_TOTAL_TIME_T, &us) == CURLE_OK && us > 0)
        v.latency_us = us > UINT32_MAX ? UINT32_MAX : (uint32_t)us;
    if (code != CURLE_OK) {
        snprintf(v.why, sizeof v.why, "%.150s", probe->error[0] ? probe->error : curl_easy_strerror(code));
        return v;
    }
    v.certificate_expires_at_ms = certificate_expiry(probe->easy);
    if (connects) {
        v.ok = true;
        snprintf(v.why, sizeof v.why, "connected");
        return v;
    }
    (void)curl_easy_getinfo(probe->easy, CURLINFO_RESPONSE_CODE, &status);
    v.ok = status >= 100 && status < 500 && !(probe->how == PROBE_HOW_COMPLETION && status == 404);
    snprintf(v.why, sizeof v.why, "%ld%s", status, status_text(status));
    return v;
}
