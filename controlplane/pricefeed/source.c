#include "controlplane/pricefeed/source.h"
#include "common/file.h"
#include "controlplane/evidence/catalog.h"
#include <curl/curl.h>

struct download {
    struct buf *text;
    enum err err;
    const volatile sig_atomic_t *stop;
};

static size_t on_body(char *data, size_t size, size_t count, void *user)
{
    struct download *d = user;
    d->err = buf_append(d->text, span_of(data, size * count));
    return d->err ? 0 : size * count;
}

static int on_progress(void *user, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t e)
{
    const struct download *d = user;
    (void)a, (void)b, (void)c, (void)e;
    return *d->stop != 0;
}

static enum err download(const struct source *source, struct buf *text, char *why, size_t why_bytes)
{
    char error[CURL_ERROR_SIZE] = "";
    struct download d = { .text = text, .stop = source->stop };
    long status = 0;
    CURL *e = curl_easy_init();
    if (!e)
        return ERR_NOMEM;
    CURLcode code = curl_easy_setopt(e, CURLOPT_URL, source->url);
    code = code ? code : curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
    code = code ? code : curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
    code = code ? code : curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, 0L);
    code = code ? code : curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, SOURCE_CONNECT_MS);
    code = code ? code : curl_easy_setopt(e, CURLOPT_TIMEOUT_MS, SOURCE_TOTAL_MS);
    code = code ? code : curl_easy_setopt(e, CURLOPT_ERRORBUFFER, error);
    code = code ? code : curl_easy_setopt(e, CURLOPT_USERAGENT, "fairlead-pricefeed/" FAIRLEAD_VERSION);
    code = code ? code : curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_body);
    code = code ? code : curl_easy_setopt(e, CURLOPT_WRITEDATA, &d);
    code = code ? code : curl_easy_setopt(e, CURLOPT_NOPROGRESS, 0L);
    code = code ? code : curl_easy_setopt(e, CURLOPT_XFERINFOFUNCTION, on_progress);
    code = code ? code : curl_easy_setopt(e, CURLOPT_XFERINFODATA, &d);
    code = code ? code : curl_easy_perform(e);
    if (code == CURLE_OK)
        (void)curl_easy_getinfo(e, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_cleanup(e);
    if (d.err == ERR_FULL) {
        snprintf(why, why_bytes, "larger than 64 MiB");
        return ERR_TOO_LARGE;
    }
    if (code != CURLE_OK) {
        snprintf(why, why_bytes, "%s", error[0] ? error : curl_easy_strerror(code));
        return ERR_IO;
    }
    if (status != 200) { /* also a redirect: the operator names the place where the catalog is */
        snprintf(why, why_bytes, "the server answered %ld", status);
        return ERR_IO;
    }
    return OK;
}

char *source_name(const struct source *source)
{
    if (!source->url)
        return strdup(source->path);
    static const CURLUPart secret[] = { CURLUPART_USER, CURLUPART_PASSWORD, CURLUPART_OPTIONS, CURLUPART_QUERY,
                                        CURLUPART_FRAGMENT };
    char *text = NULL, *name;
    CURLU *url = curl_url();
    bool good = url && curl_url_set(url, CURLUPART_URL, source->url, CURLU_GUESS_SCHEME) == CURLUE_OK;
    for (size_t i = 0; i < ARRAY_LEN(secret) && good; i++)
        good = curl_url_set(url, secret[i], NULL, 0) == CURLUE_OK;
    good = good && curl_url_get(url, CURLUPART_URL, &text, 0) == CURLUE_OK;
    name = strdup(good ? text : "(a URL that cannot be read)");
    curl_free(text);
    curl_url_cleanup(url);
    return name;
}

enum err source_read(const struct source *source, struct buf *text, char *why, size_t why_bytes)
{
    if (source->url)
        return download(source, text, why, why_bytes);
    enum err err = file_read(source->path, CATALOG_BYTES_MAX, text);
    if (err)
        snprintf(why, why_bytes, "%s: %s", source->path, err_name(err));
    return err;
}
